"""The published formats: fixtures of a few rows in the true format, read, adopted, and split so that no recording is on both sides."""

from __future__ import annotations

import csv
import io
import json
import tarfile
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage
from pyarrow import parquet as pq
from refusals import refused

from lumo import stages
from lumo.__main__ import main
from lumo.datasets.folder import Adoption, adopt
from lumo.datasets.formats import mtg_jamendo
from lumo.datasets.formats.prompts import MUSIC, SOUND, music_prompt, prompt
from lumo.datasets.formats.reading import Files, license_name
from lumo.datasets.manifest import ManifestError, Row, read_manifest
from lumo.datasets.published import PUBLISHED, captions_of, ledger
from lumo.datasets.splits import golden_groups, keep_splits
from lumo.datasets.table import usable
from lumo.media import ClipPolicy, read_audio, read_image
from lumo.params import load_profile
from lumo.shards import Plan

HOW = {"resolution": (32, 32), "clips": ClipPolicy(8000, 1, 0.25), "golden": 1}
BY, NC, ZERO = (
    f"http://creativecommons.org/{end}/" for end in ("licenses/by/3.0", "licenses/by-nc/3.0", "publicdomain/zero/1.0")
)


# --- fixtures in the true formats -------------------------------------------------------------------------------------


def sound(folder: Path, *names: str) -> None:
    for n, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, 0.3 * np.sin(np.arange(2000) * 0.1 * (n + 1)), 8000)


def picture(folder: Path, *names: str) -> None:
    for n, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        PILImage.new("RGB", (40, 30), (60 * n, 20, 90)).save(folder / name)


def table(path: Path, *rows: tuple, delimiter: str = ",") -> None:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.getvalue(), encoding="utf-8")


def jsonl(path: Path, content, lines: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in content) if lines else json.dumps(content))


def clotho(at: Path) -> None:
    for part, names in {"development": ("rain, far.wav", "Café 2.wav"), "evaluation": ("Bell.wav", "Door.wav")}.items():
        sound(at, *(f"{part}/{name}" for name in names))
        table(at / f"clotho_captions_{part}.csv", ("file_name", *(f"caption_{n}" for n in range(1, 6))),
              *((name, *(f"It sounds, {name} {n}" for n in range(5))) for name in names))  # fmt: skip
        table(at / f"clotho_metadata_{part}.csv",
              ("file_name", "keywords", "sound_id", "sound_link", "start_end_samples", "manufacturer", "license"),
              *((name, "a;b", len(part) * 10 + n, "https://freesound.org/…", "[0, 9]", "someone", (ZERO, BY)[n]) for n, name in enumerate(names)))  # fmt: skip


def audiocaps(at: Path) -> None:
    sound(at, "audio/-abc_30.wav", "audio/Yd_f-000.flac", "audio/ghi_000130.wav", "audio/jkl.wav")
    head = ("audiocap_id", "youtube_id", "start_time", "caption")
    table(at / "dataset/train.csv", head, (1, "-abc", 30, "A dog barks, twice"), (2, "d_f-000", 0, "Wind"))
    table(at / "dataset/val.csv", head, *((3 + n, "ghi", 130, f"Ducks {n}") for n in range(5)))
    table(at / "dataset/test.csv", head, *((8 + n, "jkl", 5, f"Steps {n}") for n in range(5)))


def wavcaps(at: Path) -> None:
    for short, source, ids in (("sb", "SoundBible", ("2219", "2218")), ("fsd", "FreeSound", ("2219",)), ("as", "AudioSet_SL", ("Yb0RFKhbpFJA.wav",))):  # fmt: skip
        sound(at, *(f"Zip_files/{source}_flac/{name.removesuffix('.wav')}.flac" for name in ids))
        rows = [{"title": "x", "description": "raw", "author": "y", "href": "z", "caption": f"{source} {name}.", "id": name, "duration": 14.1,
                 "audio": "wav_path", "download_link": "…"} for name in ids]  # fmt: skip
        jsonl(
            at / f"json_files/{source}/{short}_final.json",
            rows if short == "sb" else {"num_captions_per_audio": 1, "data": rows},
        )
    jsonl(at / "json_files/blacklist/blacklist_exclude_all_ac.json", {"AudioSet": []})


def musiccaps(at: Path) -> None:
    names = ("-0Gj8-vB1q4", "abc", "def", "ghi")
    sound(at, "-0Gj8-vB1q4.wav", "[abc]-[30-40].wav", "def_30.wav", "ghi_30_40.mp3")
    table(at / "musiccaps-public.csv",
          ("ytid", "start_s", "end_s", "audioset_positive_labels", "aspect_list", "caption", "author_id", "is_balanced_subset", "is_audioset_eval"),
          *((name, 30, 40, "/m/0140xf,/m/02cjck", "['low quality', 'rubab']", f"A \"slow\" song,\nnumber {n}.", 4, False, n > 1)
            for n, name in enumerate(names)))  # fmt: skip


TRACKS = {"214": BY, "1004034": NC, "1376256": "http://creativecommons.org/licenses/by-nc-sa/2.0/fr/"}


def audio_licenses(at: Path) -> None:
    at.mkdir(parents=True, exist_ok=True)
    (at / "audio_licenses.txt").write_text("\n\n".join(
        f"{name[-2:]}/{name}.mp3\nA Song by A Band from Jamendo: http://www.jamendo.com/track/{name}\nAvailable under a Creative Commons license: {address}"
        for name, address in TRACKS.items()) + "\n")  # fmt: skip


def song_describer(at: Path) -> None:
    sound(at, *(f"audio/{name[-2:]}/{name}.2min.mp3" for name in TRACKS))
    audio_licenses(at)
    table(at / "song_describer.csv",
          ("caption_id", "track_id", "caption", "is_valid_subset", "familiarity", "artist_id", "album_id", "path", "duration"),
          *((n, name, f"caption, number {n}", True, 2, 7, 8, f"{name[-2:]}/{name}.mp3", 202.5) for n, name in enumerate([*TRACKS, "214"])))  # fmt: skip


def laion_audio(at: Path) -> None:
    about = {"title": "Harp", "license": BY, "fname": "145450"}
    free = {"id": 282776, "download_url": "https://freesound.org/apiv2/sounds/282776/download/", "title": "Synth"}
    for part, originals in {"train": (about, free, {}), "test": (about,)}.items():
        (at / part).mkdir(parents=True, exist_ok=True)
        with tarfile.open(at / part / "freesound0.tar", "w") as tar:
            for n, original in enumerate(originals):
                clip = io.BytesIO()
                soundfile.write(clip, 0.3 * np.sin(np.arange(2000) * 0.2 * (n + 1)), 8000, format="FLAC")
                said = {
                    "text": [f"{part} {n} title.", f"{part} {n} described."][: 2 - n % 2],
                    "tag": ["Music"],
                    "original_data": original,
                }
                for name, data in ((f"{n}.flac", clip.getvalue()), (f"{n}.json", json.dumps(said).encode())):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


HEAD = ("TRACK_ID", "ARTIST_ID", "ALBUM_ID", "PATH", "DURATION", "TAGS")
TAGS = {
    "214": ["genre---punkrock"],
    "1004034": ["genre---house", "instrument---piano", "mood/theme---deep"],
    "1376256": ["mood/theme---sad"],
}


def tracks(*names: str) -> list[tuple]:
    return [HEAD] + [
        (f"track_{name:0>7}", "artist_000014", "album_000031", f"{name[-2:]}/{name}.mp3", 124.6, *TAGS[name])
        for name in names
    ]


def mtg_jamendo_splits(at: Path) -> None:
    sound(at, "raw_30s/14/214.mp3", "raw_30s/34/1004034.low.mp3", "raw_30s/56/1376256.mp3")
    audio_licenses(at)
    table(at / "data/autotagging.tsv", *tracks(*TAGS), delimiter="\t")
    table(at / "data/splits/split-0/autotagging-train.tsv", *tracks("214", "1004034"), delimiter="\t")
    table(at / "data/splits/split-0/autotagging-test.tsv", *tracks("1376256"), delimiter="\t")
    table(at / "data/splits/split-1/autotagging-test.tsv", *tracks("214"), delimiter="\t")


def fsd50k(at: Path) -> None:
    labels = {
        "64760": "Electric_guitar,Guitar,Musical_instrument,Music",
        "16399": "Rain,Water",
        "16401": "Speech,Human_voice",
        "37199": "Bark,Dog",
    }
    sound(at, *(f"FSD50K.dev_audio/{name}.wav" for name in ("64760", "16399", "16401")), "FSD50K.eval_audio/37199.wav")
    table(at / "FSD50K.ground_truth/dev.csv", ("fname", "labels", "mids", "split"),
          *((name, labels[name], "/m/0,/m/1", split) for name, split in (("64760", "train"), ("16399", "train"), ("16401", "val"))))  # fmt: skip
    table(at / "FSD50K.ground_truth/eval.csv", ("fname", "labels", "mids"), ("37199", labels["37199"], "/m/0"))
    for part, names in {"dev": ("64760", "16399", "16401"), "eval": ("37199",)}.items():
        jsonl(at / f"FSD50K.metadata/{part}_clips_info_FSD50K.json",
              {name: {"title": "t", "description": "d", "tags": ["x"], "license": "http://creativecommons.org/licenses/sampling+/1.0/", "uploader": "u"}
               for name in names})  # fmt: skip


def vggsound(at: Path) -> None:
    names = ("---g-f_I2yQ_000001", "abc_000030", "def_000110", "ghi_000000")
    sound(at, *(f"audio/{name}.wav" for name in names))
    picture(at, *(f"frames/{name}.jpg" for name in names[:3]))
    table(at / "vggsound.csv", ("---g-f_I2yQ", 1, "people marching", "test"), ("abc", 30, "playing harp", "train"),
          ("def", 110, "male speech, man speaking", "train"), ("ghi", 0, "playing table tennis", "train"))  # fmt: skip


def llava_pretrain(at: Path) -> None:
    picture(at, "00453/004539375.jpg", "images/00223/002239345.jpg")
    rows = [{"id": name, "image": f"{name[:5]}/{name}.jpg", "conversations": [
        {"from": "human", "value": "Render a clear and concise summary of the photo.\n<image>"}, {"from": "gpt", "value": f"a sheet, {name}"}]}
        for name in ("004539375", "002239345")]  # fmt: skip
    jsonl(at / "blip_laion_cc_sbu_558k.json", rows)


def coco_captions(at: Path) -> None:
    licenses = [{"url": "http://creativecommons.org/licenses/by-nc-sa/2.0/", "id": 1, "name": "Attribution-NonCommercial-ShareAlike License"},
                {"url": "http://flickr.com/commons/usage/", "id": 7, "name": "No known copyright restrictions"}]  # fmt: skip
    for part, ids in {"train": (9, 25), "val": (139, 285)}.items():
        picture(at, *(f"{part}2017/{n:012d}.jpg" for n in ids))
        jsonl(at / f"annotations/captions_{part}2017.json", {
            "info": {"year": 2017}, "licenses": licenses,
            "images": [{"license": 7 if n == 9 else 1, "file_name": f"{n:012d}.jpg", "height": 30, "width": 40, "id": n} for n in ids],
            "annotations": [{"image_id": n, "id": 10 * n + k, "caption": f"A sheet, {n} {k}."} for n in ids for k in range(5)]})  # fmt: skip


def anyinstruct(at: Path) -> None:
    sound(at, *(f"speech_conv/speech/chunk_0000{c}/000{n}.mp3" for c in range(2) for n in (1, 2)))
    jsonl(at / "speech_conv/metadata.jsonl", [{"chat": [
        {"role": "USER", "message": f"How are you, {c}?", "speech": f"chunk_0000{c}/0001.mp3"},
        {"role": "AnyGPT", "message": "Well.", "speech": f"chunk_0000{c}/0002.mp3"}]} for c in range(2)], lines=True)  # fmt: skip


def jamendo_fma(at: Path) -> None:
    """Two tracks of each, in numbers that only the folder tells apart; one with two captions, one in a JSON of the authors' own tool."""
    sound(at, "raw_30s/56/123456.low.mp3", "raw_30s/14/214.mp3", "fma_large/000/000002.mp3", "fma_large/123/123457.mp3")
    rows = [{"id": name, "salmonn_text": text, "chatgpt_texts": short, "tags_text": "genres: folk; instrument: harp"}
            for name, text, short in (("123456", "A harp plays.", ["Harp."]), ("000002", None, ["Drums."]), ("123457", "A choir.", []))]  # fmt: skip
    (at / "data").mkdir(parents=True, exist_ok=True)
    pq.write_table(pyarrow.Table.from_pylist(rows), at / "data/train-00000-of-00001.parquet")
    jsonl(at / "salmonn.json", {"214": {"salmonn_text": "Punk rock."}})
    (at / "audio_licenses.txt").write_text(f"56/123456.mp3\nA Song\n{BY}\n\n14/214.mp3\nA Song\n{NC}\n")
    table(at / "fma_metadata/raw_tracks.csv", ("track_id", "album_id", "license_url"), (2, 1, NC), (123457, "", ZERO))


# name → its fixture; rows, recordings, rows for eval; licences; subtypes; a caption
CASES = {
    "clotho": (clotho, 20, 4, 10, {"CC0-1.0", "CC-BY-3.0"}, {"sfx"}, "It sounds, rain, far.wav 0"),
    "audiocaps": (audiocaps, 12, 4, 10, {"academic use only"}, {"sfx"}, "A dog barks, twice"),
    "wavcaps": (wavcaps, 4, 4, 0, {"academic use only"}, {"sfx"}, "FreeSound 2219."),
    "musiccaps": (musiccaps, 4, 4, 2, {"CC-BY-SA-4.0 (captions)"}, {"music"}, 'A "slow" song, number 0.'),
    "song-describer": (song_describer, 4, 3, 0, {"CC-BY-3.0", "CC-BY-NC-3.0", "CC-BY-NC-SA-2.0-FR"}, {"music"}, "caption, number 3"),
    "laion-audio": (laion_audio, 7, 4, 2, {"CC-BY-3.0", "research use only"}, {"sfx"}, "train 1 title."),
    "mtg-jamendo": (mtg_jamendo_splits, 3, 3, 1, {"CC-BY-3.0", "CC-BY-NC-3.0", "CC-BY-NC-SA-2.0-FR"}, {"music"}, None),
    "fsd50k": (fsd50k, 4, 4, 2, {"CC-SAMPLING+-1.0"}, {"music", "speech", "sfx"}, None),
    "vggsound": (vggsound, 10, 4, 3, {"CC-BY-4.0 (labels)"}, {"music", "speech", "sfx", None}, None),
    "llava-pretrain": (llava_pretrain, 2, 2, 0, {"by source"}, {None}, "a sheet, 004539375"),
    "coco-captions": (coco_captions, 20, 4, 10, {"CC-BY-NC-SA-2.0", "no known copyright restrictions"}, {None}, "A sheet, 9 0."),
    "jamendo-fma": (jamendo_fma, 5, 4, 0, {"CC-BY-3.0", "CC-BY-NC-3.0", "CC0-1.0"}, {"music"}, "A harp plays."),
    "anyinstruct": (anyinstruct, 4, 2, 0, {"not stated"}, {"speech"}, None),
}  # fmt: skip


def of(name: str) -> dict:
    return {"source": name, "license": PUBLISHED[name].license, "subtype": PUBLISHED[name].subtype}


def lines_of(name: str, folder: Path) -> tuple[list[tuple[str, dict]], list[str]]:
    left_out: list[str] = []
    return list(usable(PUBLISHED[name].lines(folder, left_out), left_out)), left_out


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_with_accents_are_found_however_they_are_written(tmp_path, forms):
    on_disk, said = (unicodedata.normalize(form, "Café 2") for form in forms)
    sound(tmp_path, f"development/{on_disk}.wav")
    assert Files(tmp_path).sound(f"development/{said}") == f"development/{on_disk}.wav"


# --- every format -----------------------------------------------------------------------------------------------------


def test_every_format_has_its_fixture():
    assert set(PUBLISHED) == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_a_dataset_goes_the_whole_way(name, tmp_path):
    fixture, count, recordings, tested, licenses, subtypes, caption = CASES[name]
    fixture(tmp_path / "data")
    result = adopt(tmp_path / "data", PUBLISHED[name], tmp_path / "out", Adoption(**HOW, **of(name)))
    rows, left_out = read_manifest(result.manifest)
    assert (result.left_out, left_out) == ([], []) and len(rows) == len({row.id for row in rows}) == count
    assert {row.license for row in rows} == licenses and {row.subtype for row in rows} == subtypes
    assert {row.source for row in rows} == {name}
    if caption:
        assert caption in {row.text.caption for row in rows}
    splits: dict[str, set[str]] = {}
    for row in rows:
        for medium, file in row.modalities.items():
            path = tmp_path / "out" / file.path
            assert (read_image(path, (32, 32)) if medium == "image" else read_audio(path, HOW["clips"])) is not None
            splits.setdefault(file.meta["group"], set()).add(Plan(0.5, "none", 10).split(row))
    assert len(splits) == recordings and all(len(split) == 1 for split in splits.values())
    held = Counter(row.modalities.items()[0][1].meta.get("split") for row in rows)
    golden = held.pop("golden")
    # what the dataset tests on is never learned from, and the golden suite comes from it
    assert golden and held == Counter(
        {"eval": tested - golden, "train": count - tested} if tested else {None: count - golden}
    )


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


@pytest.mark.parametrize("name", CASES)
def test_a_folder_without_the_metadata_is_refused(name, tmp_path):
    with refused(ManifestError, str(tmp_path), "put the dataset's metadata there"):
        lines_of(name, tmp_path)


# --- what is particular -----------------------------------------------------------------------------------------------


def test_the_same_name_in_two_sources_is_told_apart(tmp_path):
    wavcaps(tmp_path)
    lines, _ = lines_of("wavcaps", tmp_path)
    assert {line["file"] for _, line in lines if line["id"].endswith("-2219")} == {
        "Zip_files/SoundBible_flac/2219.flac", "Zip_files/FreeSound_flac/2219.flac"}  # fmt: skip
    assert {line["group"] for _, line in lines} == {
        "SoundBible/2219",
        "SoundBible/2218",
        "freesound/2219",
        "youtube/b0RFKhbpFJA",
    }
    sound(tmp_path, "copy of SoundBible/2218.flac")
    _, left_out = lines_of("wavcaps", tmp_path)
    assert len(left_out) == 1 and "stands there as" in left_out[0] and "keep one" in left_out[0]


def test_dialogues_with_pictures_are_said_to_be_left_and_their_sounds_not_taken(tmp_path):
    anyinstruct(tmp_path)
    before, _ = lines_of("anyinstruct", tmp_path)
    jsonl(tmp_path / "part1/metadata.json", [])
    sound(tmp_path, "part1/speech/chunk_00000/0001.mp3")
    after, left_out = lines_of("anyinstruct", tmp_path)
    assert after == before and left_out == ["part1/metadata.json: dialogues with pictures and music, not read"]
    assert {line["caption"].split(": ")[1] for _, line in after} == {"How are you, 0?", "How are you, 1?", "Well."}


def test_a_frame_and_its_sound_are_rows_of_one_recording_apart_and_together(tmp_path):
    vggsound(tmp_path / "data")
    result = adopt(tmp_path / "data", PUBLISHED["vggsound"], tmp_path / "out", Adoption(**HOW, **of("vggsound")))
    rows = {row.id: row for row in read_manifest(result.manifest)[0]}
    assert Counter(row.task for row in rows.values()) == {"i2t": 3, "a2t": 4, "ia2t": 3}
    assert [result.rows[media] for media in ("image", "audio", "image+audio")] == [3, 4, 3]
    sound, frame = rows["vggsound-abc_000030"], rows["vggsound-abc_000030-frame"]
    assert frame.modalities.image.meta["file"] == "frames/abc_000030.jpg"
    assert sound.modalities.audio.meta["start_s"] == "30"
    assert frame.modalities.image.meta["group"] == sound.modalities.audio.meta["group"] == "youtube/abc"
    both = rows["vggsound-abc_000030-both"]
    assert both.modalities.items() == [*frame.modalities.items(), *sound.modalities.items()]
    assert (both.text, both.subtype) == (sound.text, "music") and list(both.modalities.model_dump()) == [
        "image",
        "audio",
    ]


def test_rows_with_both_go_into_the_profile_with_a_task_of_their_own(tmp_path):
    vggsound(tmp_path / "data")
    result, path = stages.adopt(
        load_profile("smoke"), tmp_path / "data", PUBLISHED["vggsound"], tmp_path / "out", golden=1
    )
    written, smoke = load_profile(str(path)), load_profile("smoke")
    assert written.tasks == ["a2t", "i2t", "t2a", "t2i", "ia2t"] and "ia2t" not in smoke.tasks
    assert written.stage4.rates == smoke.stage4.rates | {"ia2t": smoke.stage4.rates["i2t"]}
    assert written.golden.cases == min(result.rows[f"{media} golden"] for media in ("image", "audio", "image+audio"))
    (tmp_path / "data/frames/abc_000030.jpg").write_bytes(b"no picture")
    told = stages.adopt(load_profile("smoke"), tmp_path / "data", PUBLISHED["vggsound"], tmp_path / "new", golden=1)[0]
    assert len(told.left_out) == 2 and all("abc_000030.jpg" in line for line in told.left_out)
    assert [told.rows[media] for media in ("image", "audio", "image+audio")] == [2, 4, 2]


def test_parts_of_a_long_sound_share_the_frame(tmp_path):
    vggsound(tmp_path / "data")
    soundfile.write(tmp_path / "data/audio/abc_000030.wav", 0.3 * np.sin(np.arange(6000) * 0.1), 8000)
    how = Adoption(**HOW, **of("vggsound"), long="split")
    rows = read_manifest(adopt(tmp_path / "data", PUBLISHED["vggsound"], tmp_path / "out", how).manifest)[0]
    parts = [row.modalities for row in rows if row.id.startswith("vggsound-abc_000030-both-")]
    assert len(parts) == len({part.audio.path for part in parts}) == 3 and len({part.image.path for part in parts}) == 1


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


def test_jamendo_without_its_splits_is_split_by_the_hash(tmp_path):
    mtg_jamendo_splits(tmp_path)
    for path in tmp_path.rglob("autotagging-*.tsv"):
        path.unlink()
    (tmp_path / "audio_licenses.txt").unlink()
    lines, left_out = lines_of("mtg-jamendo", tmp_path)
    assert len(lines) == 3 and not left_out and not any({"split", "license"} & line.keys() for _, line in lines)


def test_a_number_that_two_datasets_have_is_told_by_its_folder(tmp_path):
    jamendo_fma(tmp_path)
    lines, left_out = lines_of("jamendo-fma", tmp_path)
    assert {line["group"]: line["file"] for _, line in lines} == {
        "jamendo/123456": "raw_30s/56/123456.low.mp3", "jamendo/214": "raw_30s/14/214.mp3",
        "fma/000002": "fma_large/000/000002.mp3", "fma/123457": "fma_large/123/123457.mp3"}  # fmt: skip
    assert left_out == []
    sound(tmp_path, "fma_large/123/123456.mp3")
    fewer, left_out = lines_of("jamendo-fma", tmp_path)
    assert len(fewer) == len(lines) - 2 and len(left_out) == 1 and "MTG-Jamendo's and FMA's" in left_out[0]
    jsonl(tmp_path / "salmonn.json", {"000002": {"salmonn_text": "Other drums."}})
    _, left_out = lines_of("jamendo-fma", tmp_path)
    assert sum("id 000002 stands there 2 times" in line for line in left_out) == 2


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


def test_jamendo_fma_without_licences_has_the_captions(tmp_path):
    jamendo_fma(tmp_path)
    (tmp_path / "audio_licenses.txt").unlink()
    (tmp_path / "fma_metadata/raw_tracks.csv").unlink()
    lines, left_out = lines_of("jamendo-fma", tmp_path)
    assert len(lines) == 5 and left_out == [] and not any("license" in line for _, line in lines)


# --- splits -----------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.sampled_from(["train", "eval", None])), min_size=2, max_size=30),
    st.integers(1, 9),
)
def test_no_recording_is_in_two_splits_whatever_the_marks(marks, golden):
    rows = [{"id": str(n), "modalities": {"audio": {"path": "x", "meta": {"group": str(group)} | ({"split": mark} if mark else {})}}}
            for n, (group, mark) in enumerate(marks)]  # fmt: skip
    tested = {str(group) for group, mark in marks if mark == "eval"}
    if tested >= {str(group) for group, _ in marks}:
        with refused(ManifestError, "every row is of the dataset's own validation or test part"):
            keep_splits(rows, Counter())
        return
    keep_splits(rows, Counter())
    chosen = golden_groups(rows, golden, "audio") if len({group for group, _ in marks}) > 1 else set()
    splits: dict[str, set[str]] = {}
    for row in rows:
        group = row["modalities"]["audio"]["meta"]["group"]
        made = Row(**row, text={"caption": "x"}, task="a2t", source="g" if group in chosen else "s", license="x")
        splits.setdefault(group, set()).add(Plan(0.3, "g", 10).split(made))
    assert all(len(found) == 1 for found in splits.values())
    assert all(splits[group] <= {"eval", "golden"} for group in tested) and (not tested or chosen <= tested)


def test_a_test_part_alone_is_refused(tmp_path):
    coco_captions(tmp_path / "data")
    (tmp_path / "data/annotations/captions_train2017.json").unlink()
    with refused(ManifestError, "every row is of the dataset's own validation or test part", "add its training part"):
        adopt(tmp_path / "data", PUBLISHED["coco-captions"], tmp_path / "out", Adoption(**HOW))


# --- prompts, licences, the ledger, the command -----------------------------------------------------------------------


def test_tags_become_prompts_that_hold_every_tag_and_stay_the_same():
    tags = {"genre": ["rock", "pop"], "instrument": ["piano"], "mood/theme": ["happy"]}
    said = {music_prompt(tags, str(n)) for n in range(60)}
    assert len(said) == len(MUSIC) and all(word in text for text in said for word in ("rock and pop", "piano", "happy"))
    assert music_prompt(tags, "7") == music_prompt(tags, "7")
    for kind, words in tags.items():
        for n in range(9):
            text = music_prompt({kind: words}, str(n))
            assert all(word in text for word in words) and text == text.strip() and "  " not in text
    assert {prompt(SOUND, "rain", str(n)) for n in range(60)} == {template.format("rain") for template in SOUND}


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://creativecommons.org/licenses/by/4.0/", "CC-BY-4.0"),
        ("http://creativecommons.org/licenses/by-nc-nd/3.0/us/", "CC-BY-NC-ND-3.0-US"),
        ("http://creativecommons.org/publicdomain/mark/1.0/", "PDM-1.0"),
        ("http://artlibre.org/licence/lal/", "LAL-1.3"),
        ("http://www.usa.gov/copyright.shtml", "US government work"),
    ],
)
def test_a_licence_is_named_from_its_address(address, name):
    assert license_name(address) == name


def test_a_line_of_jamendo_without_fields_is_refused():
    with refused(ManifestError, "expected a track, its artist"):
        mtg_jamendo.fields("track_1\tartist_2")


def test_a_name_that_is_no_dataset_is_refused():
    with refused(ManifestError, "cloto: neither a table of captions nor a published dataset, which are clotho"):
        captions_of("cloto")
    assert captions_of("clotho") is PUBLISHED["clotho"] and captions_of("none.csv").name == "none.csv"


def test_the_ledger_says_licence_and_terms(tmp_path):
    song_describer(tmp_path / "data")
    result, path = stages.adopt(
        load_profile("smoke"), tmp_path / "data", PUBLISHED["song-describer"], tmp_path / "out", golden=1
    )
    lines = ledger(read_manifest(result.manifest)[0])
    assert sum(count for *_, count, _ in lines) == 4 and {line[2] for line in lines} == {"music"}
    assert {line[0] for line in lines} == {"song-describer"}
    assert all(line[4] == PUBLISHED["song-describer"].terms and "evaluation" in line[4] for line in lines)
    assert load_profile(str(path)).profile == "song-describer"


def test_the_command_takes_a_datasets_name(tmp_path, capsys):
    llava_pretrain(tmp_path / "data")
    assert main(["adopt", str(tmp_path / "data"), "llava-pretrain", str(tmp_path / "out"), "--profile", "smoke"]) == 0
    assert "manifest: " in capsys.readouterr().out
    assert main(["adopt", str(tmp_path / "data"), "clotho", str(tmp_path / "out"), "--profile", "smoke"]) == 1
    assert "no clotho_captions_*.csv in it" in capsys.readouterr().err


@settings(deadline=None, max_examples=150)
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


def test_files_outside_cant_be_named(tmp_path):
    sound(tmp_path, "in/a.wav", "b.wav")
    files = Files(tmp_path / "in")
    assert files.sound("a") == "a.wav"
    for name in ("../b", "/etc/passwd", "b"):
        with refused(ManifestError, "no sound of that name in the folder"):
            files.sound(name)
