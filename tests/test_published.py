"""The published formats, a few rows of each: read, adopted, and split so that no recording is on both sides."""

from __future__ import annotations

import unicodedata
from collections import Counter

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from published import (
    CASES,
    HOW,
    anyinstruct,
    coco_captions,
    jamendo_fma,
    jsonl,
    lines_of,
    llava_pretrain,
    mtg_jamendo_splits,
    of,
    song_describer,
    sound,
    vggsound,
    wavcaps,
)
from refusals import refused

from lumo import adoption
from lumo.__main__ import main
from lumo.adoption import Options
from lumo.datasets.fitting import Adoption
from lumo.datasets.folder import adopt
from lumo.datasets.formats.prompts import MUSIC, SOUND, music_prompt, prompt
from lumo.datasets.formats.reading import Files, license_name
from lumo.datasets.manifest import ManifestError, Row, read_manifest
from lumo.datasets.published import PUBLISHED, captions_of, ledger
from lumo.datasets.splits import splits_of
from lumo.media import read_audio, read_image
from lumo.params import load_profile
from lumo.shards import Plan

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


@pytest.mark.parametrize("name", CASES)
def test_a_folder_without_the_metadata_is_refused(name, tmp_path):
    with refused(ManifestError, str(tmp_path), "put the dataset's metadata there"):
        lines_of(name, tmp_path)


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_with_accents_are_found_however_they_are_written(tmp_path, forms):
    on_disk, said = (unicodedata.normalize(form, "Café 2") for form in forms)
    sound(tmp_path, f"development/{on_disk}.wav")
    assert Files(tmp_path).sound(f"development/{said}") == f"development/{on_disk}.wav"


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
    assert len(left_out) == 1 and "found as" in left_out[0] and "keep one" in left_out[0]


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
    result, path = adoption.adopt(
        load_profile("smoke"), tmp_path / "data", PUBLISHED["vggsound"], tmp_path / "out", Options(golden=1)
    )
    written, smoke = load_profile(str(path)), load_profile("smoke")
    assert written.tasks == ["a2t", "i2t", "t2a", "t2i", "ia2t"] and "ia2t" not in smoke.tasks
    assert written.stage4.rates == smoke.stage4.rates | {"ia2t": smoke.stage4.rates["i2t"]}
    assert written.golden.cases == min(result.rows[f"{media} golden"] for media in ("image", "audio", "image+audio"))
    (tmp_path / "data/frames/abc_000030.jpg").write_bytes(b"no picture")
    told = adoption.adopt(
        load_profile("smoke"), tmp_path / "data", PUBLISHED["vggsound"], tmp_path / "new", Options(golden=1)
    )[0]
    assert len(told.left_out) == 2 and all("abc_000030.jpg" in line for line in told.left_out)
    assert [told.rows[media] for media in ("image", "audio", "image+audio")] == [2, 4, 2]


def test_parts_of_a_long_sound_share_the_frame(tmp_path):
    vggsound(tmp_path / "data")
    soundfile.write(tmp_path / "data/audio/abc_000030.wav", 0.3 * np.sin(np.arange(6000) * 0.1), 8000)
    how = Adoption(**HOW, **of("vggsound"), long="split")
    rows = read_manifest(adopt(tmp_path / "data", PUBLISHED["vggsound"], tmp_path / "out", how).manifest)[0]
    parts = [row.modalities for row in rows if row.id.startswith("vggsound-abc_000030-both-")]
    assert len(parts) == len({part.audio.path for part in parts}) == 3 and len({part.image.path for part in parts}) == 1


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
    assert sum("id 000002 appears 2 times" in line for line in left_out) == 2


def test_jamendo_fma_without_licences_has_the_captions(tmp_path):
    jamendo_fma(tmp_path)
    (tmp_path / "audio_licenses.txt").unlink()
    (tmp_path / "fma_metadata/raw_tracks.csv").unlink()
    lines, left_out = lines_of("jamendo-fma", tmp_path)
    assert len(lines) == 5 and left_out == [] and not any("license" in line for _, line in lines)


# --- splits -----------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.sampled_from(["train", "eval", None])), min_size=2, max_size=30),
    st.integers(1, 9),
)
def test_no_recording_is_in_two_splits_whatever_the_marks(marks, golden):
    rows = [{"id": str(n), "modalities": {"audio": {"path": "x", "meta": {"group": str(group)} | ({"split": mark} if mark else {})}}}
            for n, (group, mark) in enumerate(marks)]  # fmt: skip
    groups, tested = {str(group) for group, _ in marks}, {str(group) for group, mark in marks if mark == "eval"}
    if tested == groups or len(groups) == 1:
        why = "every row is of the dataset's own validation or test part" if tested else "audio of one file alone"
        with refused(ManifestError, why):
            splits_of(rows, golden)
        return
    apart, done = splits_of(rows, golden), Counter()
    splits: dict[str, set[str]] = {}
    for row in rows:
        apart.mark(row, done)
        made = Row(**row, text={"caption": "x"}, task="a2t", source="s", license="x")
        splits.setdefault(row["modalities"]["audio"]["meta"]["group"], set()).add(Plan(0.3, "g", 10).split(made))
    assert all(len(found) == 1 for found in splits.values())
    assert all(splits[group] <= {"eval", "golden"} for group in tested)
    assert (
        apart.golden
        and apart.golden <= (tested or groups)
        and all(splits[group] == {"golden"} for group in apart.golden)
    )
    assert apart.counts == {"audio": len(rows), "audio golden": sum(str(group) in apart.golden for group, _ in marks)}
    moved = sum(mark == "train" and str(group) in tested for group, mark in marks)
    assert done["media moved to eval with their recording"] == moved


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


def test_a_name_that_is_no_dataset_is_refused():
    with refused(
        ManifestError,
        "cloto: neither a table of captions nor a published dataset (perhaps 'clotho'?), which are clotho",
    ):
        captions_of("cloto")
    assert captions_of("clotho") is PUBLISHED["clotho"]


def test_the_ledger_says_licence_and_terms(tmp_path):
    song_describer(tmp_path / "data")
    result, path = adoption.adopt(
        load_profile("smoke"), tmp_path / "data", PUBLISHED["song-describer"], tmp_path / "out", Options(golden=1)
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
