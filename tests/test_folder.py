"""One's own folder: what is done to files is counted, what can't be used is named, and nothing leaves its place."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import unicodedata
from collections import Counter

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage
from refusals import refused
from toys import tone

from lumo import adoption
from lumo.adoption import Options
from lumo.codecs import load_codecs
from lumo.datasets.fitting import Adoption
from lumo.datasets.folder import adopt
from lumo.datasets.manifest import ManifestError, read_manifest
from lumo.datasets.splits import golden_groups
from lumo.media import ClipPolicy, read_audio, read_image
from lumo.params import load_profile
from lumo.shards import Plan

HOW = Adoption((64, 64), ClipPolicy(16_000, 1, 1.0), golden=2)


@pytest.fixture
def folder(tmp_path):
    """Five sounds and five pictures, none of them as the codecs want it."""
    folder = tmp_path / "media"
    (folder / "deep er").mkdir(parents=True)
    for n in range(5):
        rate = (8000, 22_050, 44_100, 48_000, 16_000)[n]
        soundfile.write(folder / f"s{n}.wav", tone(300 + 50 * n, 0.5 + 0.5 * n, rate, 1 + n % 2), rate)
        PILImage.new("RGB", (40 + 30 * n, 90), (50 * n, 20, 30)).save(folder / "deep er" / f"p{n}.jpg")
    return folder


LINES = [{"file": f"s{n}.wav", "caption": f"tone {n}"} for n in range(5)]
LINES += [{"file": f"deep er/p{n}.jpg", "caption": f"a sheet, number {n}"} for n in range(5)]


def table(path, lines, columns=("file", "caption")):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    else:
        text = io.StringIO()
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(lines)
        path.write_text(text.getvalue(), encoding="utf-8-sig")
    return path


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_folder_becomes_files_that_the_codecs_take(folder, tmp_path, kind):
    out = tmp_path / "out"
    result = adopt(folder, table(tmp_path / f"captions.{kind}", LINES), out, HOW)
    assert not result.left_out and (result.rows["audio"], result.rows["image"]) == (5, 5)
    assert result.done == {"sounds mixed": 2, "sounds resampled": 4, "sounds cut": 3, "clips padded with silence": 1,
                           "sounds split": 0, "silent clips left out": 0, "pictures resized": 5, "pictures cropped": 5, "clips louder than full scale, clipped": 0}  # fmt: skip
    rows, left_out = read_manifest(result.manifest)
    assert len(rows) == 10 and not left_out
    assert [row.text.caption for row in rows] == [line["caption"] for line in LINES]
    for row in rows:
        for medium, file in row.modalities.items():
            if medium == "image":
                read_image(out / file.path, HOW.resolution)
            else:
                read_audio(out / file.path, HOW.clips)
    golden = [row for row in rows if row.modalities.items()[0][1].meta.get("split") == "golden"]
    assert [sum(row.task == task for row in golden) for task in ("a2t", "i2t")] == [1, 1]  # a fifth, two at the most
    assert {row.source for row in rows} == {"mine"}


def test_what_is_there_is_kept_and_what_changed_is_made_again(folder, tmp_path):
    out, captions = tmp_path / "out", table(tmp_path / "captions.csv", LINES)
    first = adopt(folder, captions, out, HOW)
    written = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.rglob("*.png")}
    soundfile.write(folder / "s0.wav", tone(900, 1.0, 16_000), 16_000)
    second = adopt(folder, captions, out, HOW)
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.rglob("*.png")} == written
    assert second.done["sounds resampled"] == first.done["sounds resampled"] - 1
    clean = adopt(folder, captions, tmp_path / "clean", HOW)
    same = {path.relative_to(out): path.read_bytes() for path in out.rglob("*.wav")}
    assert same == {p.relative_to(tmp_path / "clean"): p.read_bytes() for p in (tmp_path / "clean").rglob("*.wav")}
    assert clean.manifest.read_bytes() == second.manifest.read_bytes()


def test_another_way_makes_the_files_again(folder, tmp_path):
    captions = table(tmp_path / "captions.csv", LINES)
    other = Adoption((32, 32), ClipPolicy(8000, 1, 0.5), fit="stretch", long="split", golden=2)
    for how in (HOW, other, HOW):
        adopt(folder, captions, tmp_path / "out", how)
    adopt(folder, captions, tmp_path / "clean", HOW)
    assert contents(tmp_path / "out") == contents(tmp_path / "clean")


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_another_folder_with_the_same_names_gives_its_own_files(folder, tmp_path):
    captions = table(tmp_path / "captions.csv", LINES)
    other = shutil.copytree(folder, tmp_path / "other")
    for n in range(5):
        (folder / f"s{n}.wav").write_bytes((other / f"s{(n + 1) % 5}.wav").read_bytes())
    adopt(other, captions, tmp_path / "out", HOW)
    adopt(folder, captions, tmp_path / "out", HOW)
    adopt(folder, captions, tmp_path / "clean", HOW)
    kept = [contents(tmp_path / name) for name in ("out", "clean")]
    assert kept[0].pop("adopted.json") and kept[1].pop("adopted.json") and kept[0] == kept[1]
    (tmp_path / "out" / next(name for name in kept[0] if name.endswith(".wav"))).write_bytes(b"")
    adopt(folder, captions, tmp_path / "out", HOW)  # what was damaged since is made again
    assert {k: v for k, v in contents(tmp_path / "out").items() if k != "adopted.json"} == kept[1]


def test_a_file_of_the_same_size_that_isnt_the_one_is_made_again(folder, tmp_path):
    out, captions = tmp_path / "out", table(tmp_path / "captions.csv", LINES)
    adopt(folder, captions, out, HOW)
    whole = contents(out)
    for path in [next(out.rglob("*.png")), next(out.rglob("*.wav"))]:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    assert contents(out) != whole
    adopt(folder, captions, out, HOW)
    assert contents(out) == whole


def test_two_at_once_into_one_folder(folder, tmp_path):
    captions = table(tmp_path / "captions.csv", LINES)

    def second(done, of):
        with refused(ManifestError, f"{tmp_path / 'out'}: another lumo is writing there; wait for it"):
            adopt(folder, captions, tmp_path / "out", HOW)

    assert adopt(folder, captions, tmp_path / "out", HOW, second).rows["audio"] == 5
    assert adopt(folder, captions, tmp_path / "out", HOW).rows["audio"] == 5


def test_what_was_left_out_is_written_and_said_when_too_little_is_left(folder, tmp_path):
    lines = [LINES[0], {"file": "none.wav", "caption": "gone"}]
    with refused(
        ManifestError, "audio of one file alone", "1 rows were left out, the first: c.csv:3:", "no file there"
    ):
        adopt(folder, table(tmp_path / "c.csv", lines), tmp_path / "out", HOW)
    assert "none.wav: no file there" in (tmp_path / "out" / "left_out.txt").read_text()
    assert not (tmp_path / "out" / "manifest.jsonl").exists()
    with refused(ManifestError, "no row can be used (the first reason: c.csv:2:"):
        adopt(folder, table(tmp_path / "c.csv", lines[1:]), tmp_path / "out", HOW)


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC"), ("NFC", "NFC"), ("NFD", "NFD")])
def test_accents_are_found_however_they_are_written(folder, tmp_path, forms):
    """A table made on a Mac names é by two characters; the files may come from elsewhere."""
    on_disk, in_table = (unicodedata.normalize(form, "café/crème") for form in forms)
    (folder / on_disk).mkdir(parents=True)
    shutil.copy(folder / "s1.wav", folder / on_disk / "one.wav")
    lines = [*LINES, {"file": f"{in_table}/one.wav", "caption": "milk is steamed"}]
    result = adopt(folder, table(tmp_path / "c.csv", lines), tmp_path / "out", HOW)
    assert not result.left_out and result.rows["audio"] == 6
    rows, _ = read_manifest(result.manifest)
    assert rows[-1].modalities.audio.meta["group"] == f"{on_disk}/one.wav"


def test_another_source_leaves_the_kept_profile_its_golden_rows(folder, tmp_path):
    profile, captions = load_profile("smoke"), table(tmp_path / "captions.csv", LINES)
    _, path = adoption.adopt(profile, folder, captions, tmp_path / "out", Options(golden=1, source="first"))
    with pytest.warns(UserWarning, match="is kept"):
        result, _ = adoption.adopt(profile, folder, captions, tmp_path / "out", Options(golden=1, source="second"))
    split = Plan.of(load_profile(str(path)).data).split
    rows, _ = read_manifest(result.manifest)
    assert {row.source for row in rows} == {"second"}
    assert Counter(row.task for row in rows if split(row) == "golden") == {"a2t": 1, "i2t": 1}


def test_nothing_of_the_users_is_written_over(folder, tmp_path):
    captions = table(tmp_path / "captions.csv", LINES)
    before = contents(tmp_path)
    with refused(ManifestError, f"{folder}: holds the files or the table themselves"):
        adopt(folder, captions, folder, HOW)
    with refused(ManifestError, f"{tmp_path}: holds the files or the table themselves"):
        adopt(folder, captions, tmp_path, HOW)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with refused(ManifestError, f"{tmp_path / 'full'}: isn't empty and wasn't made by lumo adopt"):
        adopt(folder, captions, tmp_path / "full", HOW)
    (tmp_path / "s0.wav").write_bytes(b"mine")
    before["s0.wav"] = b"mine"
    with refused(ManifestError, f"{tmp_path / 's0.wav'}: can't be written"):
        adopt(folder, captions, tmp_path / "s0.wav", HOW)
    with refused(ManifestError, "no folder there"):
        adopt(tmp_path / "none", captions, tmp_path / "out", HOW)
    assert {k: v for k, v in contents(tmp_path).items() if k != "full/thesis.txt"} == before


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 5), min_size=4, max_size=40), st.integers(1, 20))
def test_a_files_rows_are_golden_together_and_some_are_left_to_learn_from(owners, golden):
    groups = Counter(map(str, owners))
    if len(set(owners)) == 1:
        with pytest.raises(ManifestError, match="audio of one file alone"):
            golden_groups(groups, set(), golden, "audio")
        return
    chosen = golden_groups(groups, set(), golden, "audio")
    kept = sorted(owners.count(int(name)) for name in chosen)
    assert 0 < len(chosen) < len(set(owners)) and chosen <= set(map(str, owners))
    assert sum(kept[:-1]) < min(golden, max(1, len(owners) // 5))  # no file more than needed


def test_a_files_rows_are_in_one_split(folder, tmp_path):
    lines = [{"file": f"s{n}.wav", "caption": f"{word} tone {n}"} for n in range(5) for word in "abcdefgh"]
    result = adopt(folder, table(tmp_path / "c.csv", lines), tmp_path / "out", HOW)
    splits = {}
    for row in read_manifest(result.manifest)[0]:
        splits.setdefault(row.modalities.audio.path, set()).add(Plan(0.5, "none", 10).split(row))
    assert all(len(found) == 1 for found in splits.values()) and len(set.union(*splits.values())) > 1


@pytest.mark.parametrize(
    ("comma", "header"), [(";", "File;Caption"), ("\t", "file\tcaption "), (",", " FILE ,caption")]
)
def test_spreadsheets_of_other_countries_are_read(folder, tmp_path, comma, header):
    (tmp_path / "c.csv").write_text(f"{header}\r\ns1.wav{comma}one\r\ns2.wav{comma}two\r\n")
    assert adopt(folder, tmp_path / "c.csv", tmp_path / "out", HOW).rows["audio"] == 2


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("file,caption\ns1.wav,a dog, running\n", "c.csv:2: more fields than the header has"),
        ('file,caption\ns1.wav,"open\ns2.wav,two\n', "not CSV"),
        ("file,caption,caption\ns1.wav,a,b\n", "a column appears twice"),
        ("file,caption,mood,Mood\ns1.wav,a,b,c\n", "a column appears twice"),
    ],
)
def test_a_caption_is_never_cut_or_mixed(folder, tmp_path, text, fault):
    (tmp_path / "c.csv").write_text(text)
    with refused(ManifestError, fault):
        adopt(folder, tmp_path / "c.csv", tmp_path / "out", HOW)


def test_several_captions_of_one_file_are_several_rows(folder, tmp_path):
    lines = [{"file": "s1.wav", "caption": text} for text in ("one", "two", "one")] + LINES[2:4]
    result = adopt(folder, table(tmp_path / "c.csv", lines), tmp_path / "out", HOW)
    rows, _ = read_manifest(result.manifest)
    assert [row.text.caption for row in rows] == ["one", "two", "tone 2", "tone 3"]
    assert len({row.modalities.audio.path for row in rows[:2]}) == 1
    assert len(result.left_out) == 1 and "appears twice" in result.left_out[0]


def bad_sound(samples):
    data = io.BytesIO()
    soundfile.write(data, samples, 16_000, format="WAV", subtype="FLOAT")
    return data.getvalue()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"file": "../out.wav", "caption": "x"}, "leaves the manifest's folder"),
        ({"file": "/etc/passwd", "caption": "x"}, "leaves the manifest's folder"),
        ({"file": "none.wav", "caption": "x"}, "no file there"),
        ({"file": "pipe.wav", "caption": "x"}, "no file there"),
        ({"file": "slow.wav", "caption": "x"}, "said to be at 1 Hz"),
        ({"file": "s1.wav", "caption": ["a", "b"]}, "expected text"),
        ({"file": "s1.wav", "caption": "x", "subtype": "noise"}, "subtype"),
        ({"file": "notes.txt", "caption": "x"}, "neither a picture nor a sound by its name"),
        ({"file": "s1.wav", "caption": "  "}, "no caption"),
        ({"file": "", "caption": "x"}, "no file"),
        ({"file": "s1.wav", "caption": "bell\x07"}, "control characters"),
        ({"file": "s1.wav", "caption": "half \ud800"}, "halves of characters"),
        ({"file": "silent.wav", "caption": "x"}, "silent (below -80 dBFS)"),
        ({"file": "nan.wav", "caption": "x"}, "not finite"),
        ({"file": "empty.png", "caption": "x"}, "empty file"),
        ({"file": "lie.png", "caption": "x"}, "no picture format known here"),
        ({"file": "cut.wav", "caption": "x"}, "truncated"),
    ],
)
def test_a_row_that_cant_be_used_is_named_and_stops_nothing(folder, tmp_path, line, reason):
    (folder / "silent.wav").write_bytes(bad_sound(np.zeros(16_000)))
    (folder / "nan.wav").write_bytes(bad_sound(np.full(16_000, np.nan)))
    soundfile.write(folder / "slow.wav", tone(1, 1, 16_000), 1)
    os.mkfifo(folder / "pipe.wav")
    (folder / "empty.png").touch()
    (folder / "lie.png").write_bytes(b"no picture")
    (folder / "cut.wav").write_bytes((folder / "s4.wav").read_bytes()[:999])
    result = adopt(folder, table(tmp_path / "c.jsonl", [*LINES, line]), tmp_path / "out", HOW)
    assert sum(result.rows[medium] for medium in ("audio", "image")) == 10
    (told,) = result.left_out
    assert told.startswith("c.jsonl:11: ") and reason in told and "\n" not in told


@pytest.mark.parametrize("text", ["", "path,caption\na,b\n", "file\na\n"])
def test_a_table_without_its_columns_is_refused(tmp_path, text):
    (tmp_path / "c.csv").write_text(text)
    with refused(ManifestError, f"{tmp_path / 'c.csv'}: no column", "expected a header such as file,caption"):
        adopt(tmp_path, tmp_path / "c.csv", tmp_path / "out", HOW)


def test_a_table_of_nothing_is_refused(folder, tmp_path):
    with refused(ManifestError, "no row can be used (the table is empty)"):
        adopt(folder, table(tmp_path / "c.csv", []), tmp_path / "out", HOW)
    with refused(ManifestError, "no row can be used (the first reason: c.jsonl:1: not JSON"):
        (tmp_path / "c.jsonl").write_text("{\n")
        adopt(folder, tmp_path / "c.jsonl", tmp_path / "out2", HOW)
    with refused(ManifestError, "can't be read"):
        adopt(folder, tmp_path / "none.csv", tmp_path / "out", HOW)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=40) | st.text(st.characters(), max_size=9))
def test_captions_of_any_script_come_through(folder, tmp_path_factory, caption):
    place = tmp_path_factory.mktemp("any")
    captions = place / "c.jsonl"
    lines = [("s4.wav", "first"), ("s3.wav", "other"), ("s4.wav", caption)]
    captions.write_text("".join(json.dumps({"file": file, "caption": text}) + "\n" for file, text in lines))
    result = adopt(folder, captions, place / "out", HOW)
    rows, left_out = read_manifest(result.manifest)
    assert not left_out and len(rows) + len(result.left_out) == 3
    if len(rows) == 3:
        assert rows[2].text.caption == " ".join(caption.split())


def test_a_profile_for_it_is_written(folder, tmp_path):
    profile = load_profile("smoke")
    captions = table(tmp_path / "captions.csv", LINES[:5])
    result, path = adoption.adopt(profile, folder, captions, tmp_path / "out", Options(golden=1, license="CC0-1.0"))
    mine = load_profile(str(path))
    assert mine.data.eval_share == 0.3
    assert mine.tasks == ["a2t", "t2a"] and [*mine.warm_start.rates] == ["a2t"]
    assert (mine.profile, mine.golden.cases) == ("mine", 1)
    rows, _ = read_manifest(result.manifest)
    codec = load_codecs(mine.codecs).audio
    for row in rows:
        codec.encode([codec.read(tmp_path / "out" / row.modalities.audio.path)])
    assert {row.license for row in rows} == {"CC0-1.0"}
    before = path.read_text()
    adoption.adopt(profile, folder, captions, tmp_path / "out", Options(golden=1, license="CC0-1.0"))
    grown = table(tmp_path / "captions.csv", LINES)
    with pytest.warns(UserWarning, match=r"profile.yaml differs from what this data asks for, and is kept"):
        adoption.adopt(profile, folder, grown, tmp_path / "out", Options(golden=1, license="CC0-1.0"))
    assert path.read_text() == before


def test_eval_is_a_dozen_recordings_not_rows_of_them(tmp_path):
    """Of 60 pictures with five captions each twelve rows would be two or three pictures, and intervals over them too narrow."""
    place = tmp_path / "files"
    place.mkdir()
    for n in range(60):
        PILImage.new("RGB", (8, 8), (n, 0, 0)).save(place / f"p{n}.png")
    lines = [{"file": f"p{n}.png", "caption": f"colour {n} said in way {way}"} for n in range(60) for way in range(5)]
    _, path = adoption.adopt(
        load_profile("smoke"), place, table(tmp_path / "c.csv", lines), tmp_path / "out", Options(golden=1)
    )
    assert load_profile(str(path)).data.eval_share == 12 / 60


def test_hostile_names_are_left_out_in_one_line_and_stop_nothing(folder, tmp_path):
    profile = load_profile("smoke")
    names = ["x" * 300 + ".wav", "evil\x1b[2J.wav", "two\nlines.wav"]
    with (tmp_path / "table.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerows(
            [("file", "caption"), *((f"s{n}.wav", "a tone") for n in range(5)), *((name, "no") for name in names)]
        )
    result, _ = adoption.adopt(profile, folder, tmp_path / "table.csv", tmp_path / "out", Options(golden=1))
    assert result.rows["audio"] == 5 and len(result.left_out) == 3
    written = (tmp_path / "out" / "left_out.txt").read_text()
    assert len(written.splitlines()) == 3 and all(line.isprintable() for line in written.splitlines())
