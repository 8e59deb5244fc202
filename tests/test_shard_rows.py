"""What a row may hold: bad media are named and left out, and stop nothing; words and names survive."""

from __future__ import annotations

import dataclasses
import itertools
import re

import numpy as np
import pytest
from refusals import check_line, refused
from shard_toys import (  # noqa: F401 - fixtures
    PLAN,
    all_samples,
    content,
    fixture_described,
    fixture_own,
    fixture_shards,
    make_rows,
    members,
    write_manifest,
)

from lumo.datasets.manifest import ManifestError, check_row
from lumo.golden import combination
from lumo.media import Audio, Image, png_bytes, wav_bytes
from lumo.shards import Sample, write_shards
from lumo.space import CONTROL

# --- bad files --------------------------------------------------------------------------------------------------------


def wav(rate=16_000, channels=1, samples=16_000) -> bytes:
    return wav_bytes(Audio(np.zeros((channels, samples), np.float32), rate))


PICTURE = png_bytes(Image(np.zeros((64, 64, 3), np.uint8)))
BAD_FILES = {
    "cut.png": (PICTURE[:-20], "not a readable picture"),
    "empty.png": (b"", "empty file"),
    "garbage.png": (b"garbage" * 50, "no picture format known here"),
    "small.png": (png_bytes(Image(np.zeros((32, 32, 3), np.uint8))), "picture is 32x32 pixels, expected 64x64"),
    "cut.wav": (wav()[:20_000], "truncated"),
    "empty.wav": (b"", "empty file"),
    "garbage.wav": (b"garbage" * 50, "not a readable sound"),
    "rate.wav": (wav(rate=44_100), "sound is at 44100 Hz, expected 16000 Hz"),
    "stereo.wav": (wav(channels=2), "sound has 2 channels, expected 1"),
    "short.wav": (wav(samples=15_999), "(15999 samples), expected 1 s (16000)"),
    "missing.png": (None, "can't be read (No such file or directory)"),
    "../outside.png": (PICTURE, "leaves the manifest's folder"),
}


def test_bad_files_are_named_left_out_and_stop_nothing(own, tokenizer, space):
    folder, rows = own
    plan = dataclasses.replace(PLAN, eval_share=0.0, samples_per_shard=100)
    write_shards(write_manifest(folder, rows), folder / "good", tokenizer, plan)
    folder_of_bad = folder / "bad"
    folder_of_bad.mkdir()
    bad = []
    for number, (name, (data, _)) in enumerate(BAD_FILES.items()):
        if data is not None:
            (folder / "bad" / name).write_bytes(data)
        path = f"bad/{name}" if ".." not in name else "../outside.png"
        modality, task = ("image", "i2t") if name.endswith("png") else ("audio", "a2t")
        bad.append({**rows[0], "id": f"bad {number} {name}", "modalities": {modality: {"path": path}}, "task": task})
    # one whose picture is good and whose sound is not: it is left out whole
    both = rows[-1]["modalities"] | {"audio": {"path": "bad/cut.wav"}}
    bad.append({**rows[0], "id": "half", "modalities": both, "task": "ia2t"})
    mixed = [row for pair in itertools.zip_longest(bad, rows) for row in pair if row]
    index = write_shards(write_manifest(folder, mixed), folder / "out", tokenizer, plan)
    assert len(index["left_out"]) == len(bad)
    for row, (words, line) in zip(
        bad,
        zip([words for _, words in BAD_FILES.values()] + ["truncated"], index["left_out"], strict=True),
        strict=True,
    ):
        check_line(line, f"{row['id']}: ", words)
    good = {s.id: s for s in all_samples(folder / "good", space)}
    got = {s.id: s for s in all_samples(folder / "out", space)}
    assert set(got) == set(good) == {row["id"] for row in rows}
    for name, sample in got.items():
        assert sample.row == good[name].row
        assert all(np.array_equal(ids, good[name].ids[modality]) for modality, ids in sample.ids.items())
    # named again when the shards are kept
    assert write_shards(folder / "manifest.jsonl", folder / "out", tokenizer, plan)["left_out"] == index["left_out"]


def test_bad_rows_of_the_manifest_are_in_the_index_too(own, tokenizer):
    folder, rows = own
    manifest = write_manifest(folder, [rows[0], {**rows[1], "text": {"caption": " "}}])
    index = write_shards(manifest, folder / "out", tokenizer, PLAN)
    assert len(index["left_out"]) == 1
    check_line(index["left_out"][0], "manifest.jsonl:2: ", "has an empty caption")


@pytest.mark.parametrize("task", ["x2y", "", "a2t", "ia2t"])
def test_a_row_whose_task_is_none_of_its_medias_is_left_out_and_nothing_else(own, tokenizer, task):
    folder, rows = own
    write_shards(write_manifest(folder, rows), folder / "good", tokenizer, PLAN)
    odd = {**rows[0], "id": "odd", "task": task}
    index = write_shards(write_manifest(folder, [rows[0], odd, *rows[1:]]), folder / "out", tokenizer, PLAN)
    assert index["left_out"] == [f"odd: task is '{task}', expected i2t or t2i by its media; mend the row"]
    good, got = content(folder / "good"), content(folder / "out")
    assert {name for name in good if good[name] != got.pop(name)} == {"shards.json"} and not got


@pytest.mark.parametrize("group", [None, ""])
def test_a_group_that_says_nothing_makes_no_recording(group):
    picture = {"path": "x.png", "meta": {"group": group}}
    rows = [{**make_rows()[0], "id": f"{n}", "modalities": {"image": picture}} for n in range(50)]
    plan = dataclasses.replace(PLAN, eval_share=0.5)
    assert {plan.split(check_row(row)) for row in rows} == {"train", "eval"}
    assert {combination(Sample(row["id"], {}, row)) for row in rows} == {row["id"] for row in rows}


def test_a_mended_file_comes_in_with_the_next_run(own, tokenizer, space):
    folder, rows = own
    path = folder / rows[0]["modalities"]["image"]["path"]
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    manifest = write_manifest(folder, rows[:3])
    assert len(write_shards(manifest, folder / "out", tokenizer, PLAN)["left_out"]) == 1
    path.write_bytes(whole)
    assert not write_shards(manifest, folder / "out", tokenizer, PLAN)["left_out"]
    assert len(all_samples(folder / "out", space)) == 3


def test_a_manifest_of_which_nothing_is_good_gives_an_empty_set(own, tokenizer, space):
    folder, rows = own
    manifest = write_manifest(folder, [{**rows[0], "modalities": {"image": {"path": "none.png"}}}])
    assert len(write_shards(manifest, folder / "out", tokenizer, PLAN)["left_out"]) == 1
    assert all_samples(folder / "out", space) == []


def test_no_manifest_leaves_an_older_set_as_it_is(described, shards, tokenizer, tmp_path):
    before = content(shards)
    with refused(ManifestError, "nowhere.jsonl: can't be read"):
        write_shards(tmp_path / "nowhere.jsonl", shards, tokenizer, PLAN)
    assert content(shards) == before


# --- words and names --------------------------------------------------------------------------------------------------

CAPTIONS = {
    "html": "<script>alert(1)</script> &amp; <b>bold</b>",
    "control tokens": " ".join(CONTROL) + "<|endoftext|>",
    "long": "ten thousand " * 770,
    "emoji": "👩‍🚀🎈 café \u2028 \u202e",
    "control characters": "bell \x07, escape \x1b[31m, null \x00, tab\t, line\nand return\r",
}
IDS = ["../../etc/passwd", "/absolute/id", "a.b.c", "white space", "é🎈", "train-000000.tar", "x" * 3000]


def test_captions_and_ids_survive_and_never_become_names(own, tokenizer, space):
    folder, rows = own
    strange = [{**rows[0], "id": name, "text": {"caption": text}} for name, text in CAPTIONS.items()]
    strange += [{**rows[0], "id": name} for name in IDS]
    index = write_shards(write_manifest(folder, strange), folder / "out", tokenizer, PLAN)
    assert not index["left_out"]
    samples = {sample.id: sample for sample in all_samples(folder / "out", space)}
    assert set(samples) == set(CAPTIONS) | set(IDS)
    for name, text in CAPTIONS.items():
        assert samples[name].row["text"]["caption"] == text
        assert tokenizer.decode_text(samples[name].ids["text"]) == text
        assert (samples[name].ids["text"] < space.text_size).all()
    assert all(re.fullmatch(r"\d{6}\.(json|(text|image|audio)\.npy)", name) for name in members(folder / "out"))
    assert all(
        re.fullmatch(r"(train|eval|golden)-\d{6}\.(tar|json)|shards.json|token_space.json", name)
        for name in content(folder / "out")
    )
    assert sorted(path.name for path in folder.iterdir()) == ["audio", "image", "manifest.jsonl", "out"]
