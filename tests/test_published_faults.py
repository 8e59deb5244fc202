"""Published datasets with a fault: a row that can't be used is named and stops nothing, another format is refused."""

from __future__ import annotations

import csv
import io
import tarfile

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published import CASES, HOW, NC, clotho, coco_captions, laion_audio, lines_of, of, sound, table
from pyarrow import parquet as pq
from refusals import refused

from lumo.datasets.fitting import Adoption
from lumo.datasets.folder import adopt
from lumo.datasets.formats import mtg_jamendo
from lumo.datasets.formats.reading import Files
from lumo.datasets.manifest import ManifestError
from lumo.datasets.published import PUBLISHED

# --- rows and files that are left out ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(CASES.keys() - {"laion-audio"}))  # whose files lie in the tars
def test_a_missing_file_is_named_and_the_rest_is_read(name, tmp_path):
    CASES[name][0](tmp_path)
    before, _ = lines_of(name, tmp_path)
    lost = tmp_path / before[0][1]["file"]
    lost.unlink()
    after, left_out = lines_of(name, tmp_path)
    gone = [(where, line) for where, line in before if line["file"] == before[0][1]["file"]]
    assert after == [pair for pair in before if pair not in gone]
    assert len(left_out) == len({where.split(" ")[0] for where, _ in gone})
    for line, (where, _) in zip(left_out, gone, strict=False):
        assert line.startswith(where.split(" ")[0]) and "of that name" in line and "\n" not in line


@pytest.mark.parametrize(
    ("name", "edit", "reason"),
    [
        ("audiocaps", ("dataset/val.csv", "3,ghi,130,Ducks 0", "3,ghi"), "val.csv:2: expected 4 fields"),
        ("audiocaps", ("dataset/val.csv", "Ducks 0", ""), "val.csv:2: no caption"),
        ("audiocaps", ("dataset/val.csv", "Ducks 0", "Ducks \x07"), "val.csv:2: holds control characters"),
        ("mtg-jamendo", ("data/splits/split-0/autotagging-train.tsv", "\tgenre---punkrock", ""), "autotagging-train.tsv:2: "),
        ("mtg-jamendo", ("data/splits/split-0/autotagging-train.tsv", "genre---punkrock", "punkrock"), "expected at least one such as"),
        ("llava-pretrain", ("blip_laion_cc_sbu_558k.json", '"gpt"', '"human"', 1), "one turn of human and one of gpt"),
        ("llava-pretrain", ("blip_laion_cc_sbu_558k.json", '"id": "004539375", ', ""), "json:[0]: no id as expected"),
        ("coco-captions", ("annotations/captions_val2017.json", '{"image_id": 139, "id": 1390', '{"image_id": 7, "id": 1390'), "picture 7 isn't in the list"),
        ("wavcaps", ("json_files/FreeSound/fsd_final.json", '"caption": "FreeSound 2219."', '"caption": null'), "no caption as expected"),
        ("anyinstruct", ("speech_conv/metadata.jsonl", '{"chat": [{"role": "USER", "message": "How are you, 1?"', '{"talk": [{"role": 1'), "metadata.jsonl:2: no chat"),
        ("anyinstruct", ("speech_conv/metadata.jsonl", "chunk_00001/0002", "../../etc/0002"), "no sound of that name"),
        ("vggsound", ("vggsound.csv", "playing harp", ""), "no caption"),
        ("song-describer", ("song_describer.csv", "14/214.mp3", "", 1), ": no sound of that name"),
        ("song-describer", ("audio_licenses.txt", "34/1004034.mp3\n", "\n\nx\n\n"), "no licence in audio_licenses.txt"),
        ("song-describer", ("audio_licenses.txt", NC, "http://jamendo.com/mine"), "not known"),
        ("jamendo-fma", ("salmonn.json", '"214"', '"../214"'), "expected a track's number"),
        ("jamendo-fma", ("salmonn.json", '"Punk rock."', '""'), "no caption"),
        ("jamendo-fma", ("salmonn.json", '{"salmonn_text": "Punk rock."}', '["Punk rock."]'), "expected salmonn_text"),
        ("jamendo-fma", ("salmonn.json", '"salmonn_text"', '"chatgpt_texts"'), "chatgpt_texts as a list"),
        ("jamendo-fma", ("fma_metadata/raw_tracks.csv", "123457", "7"), "123457: no licence in raw_tracks.csv"),
        ("fsd50k", ("FSD50K.ground_truth/eval.csv", '"Bark,Dog"', ""), "no caption"),
    ],
)  # fmt: skip
def test_a_row_that_cant_be_used_is_named_and_stops_nothing(tmp_path, name, edit, reason):
    CASES[name][0](tmp_path)
    before, _ = lines_of(name, tmp_path)
    path, old, new, *count = edit
    text = (tmp_path / path).read_text(encoding="utf-8")
    assert old in text
    (tmp_path / path).write_text(text.replace(old, new, *count), encoding="utf-8")
    after, left_out = lines_of(name, tmp_path)
    assert len(set(left_out)) == 1 and reason in left_out[0] and "\n" not in left_out[0]
    assert 0 < len(after) < len(before)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (
            lambda rows: rows[0].update(license="http://example.org/mine"),
            "licence 'http://example.org/mine': not known",
        ),
        (lambda rows: rows.pop(0), "no licence in clotho_metadata_development.csv"),
    ],
)
def test_a_clip_without_a_known_licence_is_left_out(tmp_path, damage, reason):
    clotho(tmp_path)
    path = tmp_path / "clotho_metadata_development.csv"
    rows = list(csv.DictReader(path.open(encoding="utf-8")))
    columns = list(rows[0])
    damage(rows)
    table(path, columns, *(list(row.values()) for row in rows))
    lines, left_out = lines_of("clotho", tmp_path)
    assert len(lines) == 15 and reason in left_out[0]


def test_a_picture_without_a_licence_is_left_out_with_its_captions(tmp_path):
    coco_captions(tmp_path)
    path = tmp_path / "annotations/captions_val2017.json"
    path.write_text(path.read_text().replace('"license": 1', '"license": [1]', 1))
    lines, left_out = lines_of("coco-captions", tmp_path)
    assert len(lines) == 15 and "images[0]: no license as expected" in left_out[0]
    assert [f"annotations[{n}]: picture 139 isn't in the list" in line for n, line in enumerate(left_out[1:])] == [
        True
    ] * 5


def test_metadata_in_latin_1_is_read(tmp_path):
    clotho(tmp_path)
    path = tmp_path / "clotho_metadata_development.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("…", "é").replace("Café", "Cafe"), encoding="latin-1")
    lines, left_out = lines_of("clotho", tmp_path)
    assert len(lines) == 15 and ["Café" in line for line in left_out] == [True]


def test_files_outside_cant_be_named(tmp_path):
    sound(tmp_path, "in/a.wav", "b.wav")
    files = Files(tmp_path / "in")
    assert files.sound("a") == "a.wav"
    for name in ("../b", "/etc/passwd", "b"):
        with refused(ManifestError, "no sound of that name in the folder"):
            files.sound(name)


# --- tars -------------------------------------------------------------------------------------------------------------


def member(tar: tarfile.TarFile, name: str, data: bytes = b"x", kind: bytes = tarfile.REGTYPE) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data) if kind == tarfile.REGTYPE else 0, kind, "/etc/passwd"
    tar.addfile(info, io.BytesIO(data))


def test_what_a_tar_shouldnt_hold_is_named(tmp_path):
    laion_audio(tmp_path)
    whole = len(lines_of("laion-audio", tmp_path)[0])
    path = tmp_path / "train/freesound0.tar"
    with tarfile.open(path, "a") as tar:
        for name in ("../../evil.flac", "/etc/evil.json"):
            member(tar, name)
        member(tar, "link.flac", kind=tarfile.SYMTYPE)
        member(tar, "alone.flac")
        member(tar, "odd.flac")
        member(tar, "odd.json", b"{")
    lines, left_out = lines_of("laion-audio", tmp_path)
    assert (
        len(lines) == whole
        and [part for part in ("evil.flac", "evil.json", "link.flac", "alone", "odd") if part in " ".join(left_out)]
        and len(left_out) == 5
    )
    assert sum("leaves the folder or is no plain file" in line for line in left_out) == 3
    path.write_bytes(path.read_bytes()[:2600])
    lines, left_out = lines_of("laion-audio", tmp_path)
    assert "the tar is damaged" in left_out[0] and 0 < len(lines) < whole


def test_a_tars_member_is_named_by_its_own_name(tmp_path):
    laion_audio(tmp_path / "data")
    with tarfile.open(tmp_path / "data/train/freesound0.tar", "a") as tar:
        member(tar, "7.flac", b"no sound")
        member(tar, "7.json", b'{"text": ["x"]}')
    result = adopt(tmp_path / "data", PUBLISHED["laion-audio"], tmp_path / "out", Adoption(**HOW, **of("laion-audio")))
    (told,) = result.left_out
    assert told.startswith("train/freesound0.tar:7: train/freesound0.tar/7.flac: not a readable sound")
    assert not list((tmp_path / "data").rglob("*.flac"))


# --- what is no such dataset ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "path", "text", "reason"),
    [
        ("audiocaps", "dataset/val.csv", "id,text\n1,x\n", "no column audiocap_id and no column caption"),
        ("audiocaps", "dataset/val.csv", "", "no column audiocap_id"),
        ("llava-pretrain", "blip_laion_cc_sbu_558k.json", "{", "not JSON"),
        ("llava-pretrain", "blip_laion_cc_sbu_558k.json", "{}", "is no list"),
        ("coco-captions", "annotations/captions_val2017.json", "[]", "licenses is no list"),
        ("wavcaps", "json_files/FreeSound/fsd_final.json", '{"data": 3}', "data is no list"),
        ("jamendo-fma", "salmonn.json", "[]", "is no object"),
        ("jamendo-fma", "data/train-00000-of-00001.parquet", "id,text", "can't be read"),
    ],
)
def test_metadata_of_another_format_is_refused(tmp_path, name, path, text, reason):
    CASES[name][0](tmp_path)
    (tmp_path / path).write_text(text)
    with refused(ManifestError, str(tmp_path / path), reason):
        lines_of(name, tmp_path)


def test_a_parquet_of_jamendo_fma_with_other_columns_is_refused(tmp_path):
    pq.write_table(pyarrow.table({"track": ["214"], "salmonn_text": ["x"]}), tmp_path / "train-0.parquet")
    with refused(ManifestError, "no column chatgpt_texts and no column id, got ['track', 'salmonn_text']"):
        lines_of("jamendo-fma", tmp_path)


@pytest.mark.parametrize("kind", ["int64", "uint32", "double"])
def test_a_jamendo_fma_whose_ids_are_numbers_is_refused_once(tmp_path, kind):
    ids = pyarrow.array([2, 214], kind)
    columns = {"id": ids, "salmonn_text": ["x", "y"], "chatgpt_texts": [["z"], []]}
    pq.write_table(pyarrow.table(columns), tmp_path / "train-0.parquet")
    with refused(ManifestError, f"train-0.parquet: id is {kind}, expected text", "six digits"):
        lines_of("jamendo-fma", tmp_path)


def test_a_line_of_jamendo_without_fields_is_refused():
    with refused(ManifestError, "expected a track, its artist"):
        mtg_jamendo.fields("track_1\tartist_2")


def test_a_name_with_a_lines_end_is_named_in_one_line(tmp_path):
    CASES["clotho"][0](tmp_path)
    table = tmp_path / "clotho_captions_development.csv"
    table.write_text(table.read_text().replace("rain, far.wav", "\nrain, far.wav", 1))
    _, left_out = lines_of("clotho", tmp_path)
    assert any("\\nrain, far.wav" in line for line in left_out) and not any("\n" in line for line in left_out)


# --- any damage -------------------------------------------------------------------------------------------------------


@settings(max_examples=150)
@given(st.data())
def test_no_damage_to_metadata_is_more_than_a_line(tmp_path_factory, data):
    name = data.draw(st.sampled_from(sorted(CASES)))
    folder = tmp_path_factory.getbasetemp() / f"whole-{name}"
    if not folder.exists():
        CASES[name][0](folder)
    paths = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".csv", ".tsv", ".json", ".jsonl", ".txt", ".tar", ".parquet")
    ]
    path = data.draw(st.sampled_from(paths))
    whole = path.read_bytes()
    at, gone = data.draw(st.integers(0, len(whole))), data.draw(st.integers(0, 30))
    put = data.draw(
        st.sampled_from([b"", b'"', b"[]", b"null", b"\n", b"\n\n", b"\0", b"\xff", b"\t", b"-1", b"../.."])
        | st.binary(max_size=4)
    )
    path.write_bytes(whole[:at] + put + whole[at + gone :])
    try:
        _, left_out = lines_of(name, folder)
        assert all("\n" not in line for line in left_out)
    except ManifestError as error:
        assert "\n" not in str(error)
    finally:
        path.write_bytes(whole)
