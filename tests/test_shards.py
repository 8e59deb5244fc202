"""Shards: the same input gives the same bytes, whatever broke before; what is bad is named and left out; nothing half-written
or foreign is read."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import io
import itertools
import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import check_line, refused

from lumo import files
from lumo.datasets import world
from lumo.datasets.manifest import ManifestError, check_row
from lumo.golden import combination
from lumo.media import Audio, Image, png_bytes, wav_bytes
from lumo.shards import SPLITS, Plan, Sample, ShardError, read_index, read_shards, unit_hash, write_shards
from lumo.shards import tar_of as tar_bytes
from lumo.space import CONTROL, SpaceError

PLAN = Plan(eval_share=0.3, golden_source="world-held-out", samples_per_shard=3)


def write_media(folder: Path, row: dict) -> None:
    for medium in row["modalities"].values():
        media = world.render(medium["meta"])
        path = folder / medium["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png_bytes(media) if isinstance(media, Image) else wav_bytes(media))


def write_manifest(folder: Path, rows: list[dict]) -> Path:
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make_rows() -> list[dict]:
    """Five pictures, three clips, two of both, two held out."""
    everything = list(world.rows(seed=0, images=5, clips=3, pairs=2))
    return [*everything[:10], everything[10], everything[-1]]


@pytest.fixture(scope="module")
def described(tmp_path_factory) -> tuple[Path, list[dict]]:
    folder = tmp_path_factory.mktemp("media")
    rows = make_rows()
    for row in rows:
        write_media(folder, row)
    write_manifest(folder, rows)
    return folder, rows


@pytest.fixture(scope="module")
def shards(described, tokenizer, tmp_path_factory) -> Path:
    """What an unbroken run writes."""
    folder = tmp_path_factory.mktemp("shards")
    write_shards(described[0] / "manifest.jsonl", folder, tokenizer, PLAN)
    return folder


@pytest.fixture
def own(tmp_path):
    """A folder for media of one's own, with the first rows of the world."""
    rows = make_rows()[:10]
    for row in rows:
        write_media(tmp_path, row)
    return tmp_path, rows


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def all_samples(folder, space):
    return [sample for split in SPLITS for sample in read_shards(folder, split, space)]


def members(folder: Path) -> list[str]:
    return [name for path in sorted(folder.glob("*.tar")) for name in tarfile.open(path).getnames()]


# --- there and back ---------------------------------------------------------------------------------------------------


def test_every_row_comes_back_with_the_ids_of_its_media_and_words(described, shards, tokenizer):
    base, rows = described
    samples = {sample.id: sample for sample in all_samples(shards, tokenizer.space)}
    assert set(samples) == {row["id"] for row in rows}
    for row in rows:
        sample = samples[row["id"]]
        assert sample.modalities == {"text", *row["modalities"]}
        assert tokenizer.decode_text(sample.ids["text"]) == row["text"]["caption"] == sample.row["text"]["caption"]
        for modality, medium in row["modalities"].items():
            read = tokenizer.codecs[modality].read(base / medium["path"])
            assert np.array_equal(sample.ids[modality], tokenizer.encode(modality, [read])[0])
            assert sample.row["modalities"][modality]["meta"] == medium["meta"]


@pytest.mark.parametrize("length", [0, 1, 31, 100_000])
def test_a_line_of_ids_is_written_as_numpy_would(length):
    line = np.arange(length)
    with io.BytesIO() as slow, tarfile.open(fileobj=io.BytesIO(tar_bytes([Sample("a", {"text": line}, {})]))) as fast:
        np.save(slow, line.astype(np.int32))
        assert fast.extractfile("000000.text.npy").read() == slow.getvalue()


def test_the_index_counts_what_the_shards_hold(shards, tokenizer):
    index = read_index(shards, tokenizer.space)
    assert not index["left_out"] and index["space_sha256"] == tokenizer.space.sha256
    for split in SPLITS:
        samples = read_shards(shards, split, tokenizer.space)
        assert sum(shard["samples"] for shard in index["splits"][split]) == len(samples)
        for modality in ("text", "image", "audio"):
            tokens = sum(shard["tokens"].get(modality, 0) for shard in index["splits"][split])
            assert tokens == sum(len(sample.ids.get(modality, ())) for sample in samples)
    assert all(shard["samples"] <= 3 for shards in index["splits"].values() for shard in shards)


def test_the_split_is_a_hash_of_the_id_and_golden_rows_are_kept_apart(described, shards, tokenizer):
    source = {row["id"]: row["source"] for row in described[1]}
    for split in SPLITS:
        for sample in read_shards(shards, split, tokenizer.space):
            golden = source[sample.id] == "world-held-out"
            assert split == ("golden" if golden else "eval" if unit_hash(sample.id) < 0.3 else "train")
    assert [bool(read_shards(shards, split, tokenizer.space)) for split in SPLITS] == [True] * 3


@settings(deadline=None)
@given(st.text())
def test_the_hash_of_an_id_is_a_share(text):
    assert 0 <= unit_hash(text) < 1 and unit_hash(text) == unit_hash(text)


def test_shares_of_a_split_are_about_what_was_asked():
    assert np.mean([unit_hash(str(n)) < 0.05 for n in range(20_000)]) == pytest.approx(0.05, abs=0.006)


@pytest.mark.parametrize("rank", ["0", "1"])
def test_each_of_several_processes_reads_all_samples(shards, tokenizer, monkeypatch, rank):
    """webdataset deals shards out to processes; lumo deals out the sequences of a batch."""
    alone = [sample.id for sample in read_shards(shards, "train", tokenizer.space)]
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    assert [sample.id for sample in read_shards(shards, "train", tokenizer.space)] == alone


def test_webdataset_reads_the_tars_as_they_are(shards, tokenizer):
    for split in SPLITS:
        tars = [str(path) for path in sorted(shards.glob(f"{split}-*.tar"))]
        theirs = list(webdataset.WebDataset(tars, shardshuffle=False).decode())
        ours = read_shards(shards, split, tokenizer.space)
        assert len(theirs) == len(ours)
        for their, our in zip(theirs, ours, strict=True):
            assert their["json"] == {"id": our.id, "row": our.row}
            assert {name.removesuffix(".npy") for name in their if name.endswith(".npy")} == our.modalities
            assert all(np.array_equal(their[f"{modality}.npy"], our.ids[modality]) for modality in our.modalities)


# --- the same bytes ---------------------------------------------------------------------------------------------------


def test_the_same_input_gives_the_same_bytes(described, shards, tokenizer, tmp_path):
    write_shards(described[0] / "manifest.jsonl", tmp_path / "again", tokenizer, PLAN)
    assert content(tmp_path / "again") == content(shards)


def test_whole_shards_are_kept_and_not_encoded_again(described, tokenizer, tmp_path, monkeypatch):
    write_shards(described[0] / "manifest.jsonl", tmp_path, tokenizer, PLAN)
    before = content(tmp_path)
    monkeypatch.setattr(type(tokenizer), "encode", lambda *_: pytest.fail("encoded again"))
    write_shards(described[0] / "manifest.jsonl", tmp_path, tokenizer, PLAN)
    assert content(tmp_path) == before


def test_only_the_shard_whose_file_changed_is_made_again(own, tokenizer):
    folder, rows = own
    manifest = write_manifest(folder, rows)
    before = write_shards(manifest, folder / "out", tokenizer, PLAN)
    picture = rows[0]["modalities"]["image"]
    write_media(folder, {"modalities": {"image": {**picture, "meta": {**rows[1]["modalities"]["image"]["meta"]}}}})
    after = write_shards(manifest, folder / "out", tokenizer, PLAN)
    changed = [
        (a["name"], rows[0]["id"] in {s.id for s in read_shards(folder / "out", split, tokenizer.space)})
        for split in SPLITS
        for b, a in zip(before["splits"][split], after["splits"][split], strict=True)
        if a["sha256"] != b["sha256"]
    ]
    assert len(changed) == 1 and changed[0][1]


def test_a_stale_shard_goes_with_its_card(own, tokenizer, tmp_path):
    folder, rows = own
    write_shards(write_manifest(folder, rows), folder / "out", tokenizer, PLAN)
    many = set(content(folder / "out"))
    write_shards(write_manifest(folder, rows[:2]), folder / "out", tokenizer, PLAN)
    few = set(content(folder / "out"))
    write_shards(folder / "manifest.jsonl", folder / "fresh", tokenizer, PLAN)
    assert few < many and content(folder / "fresh") == content(folder / "out")


@pytest.mark.parametrize("damage", ["tar cut", "tar edited", "tar gone", "card cut", "card gone", "card of nothing"])
def test_a_damaged_shard_is_refused_and_made_again(described, shards, tokenizer, tmp_path, damage):
    for name, data in content(shards).items():
        (tmp_path / name).write_bytes(data)
    kind, how = damage.split(" ", 1)
    path = tmp_path / f"train-000000.{'tar' if kind == 'tar' else 'json'}"
    data = path.read_bytes()
    edits = {"cut": data[:-700], "edited": data[:600] + b"?" + data[601:], "of nothing": b"[]"}
    path.unlink() if how == "gone" else path.write_bytes(edits[how])
    if kind == "tar":
        with refused(ShardError, f"{path}: missing or damaged", "SHA-256", "run 02_shards"):
            read_shards(tmp_path, "train", tokenizer.space)
    write_shards(described[0] / "manifest.jsonl", tmp_path, tokenizer, PLAN)
    assert content(tmp_path) == content(shards)


# --- a run that is broken off -----------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from conftest import CodecSet, EncodecCodec, TwoToneCodec, UnifiedTokenizer, load_text_tokenizer, make_space
from test_shards import PLAN, files, write_shards

toys, manifest, out = map(Path, sys.argv[1:])
codecs = CodecSet(TwoToneCodec(toys / "image_codec"), EncodecCodec(toys / "encodec", 0.4, 1.0))
tokenizer = UnifiedTokenizer(make_space(toys / "backbone", codecs), load_text_tokenizer(toys / "backbone"), codecs)
fsync, rename = os.fsync, Path.replace

def run(folder, moment, number):
    # the number-th write dies half-written, whole but not yet renamed, or just renamed; "encoding" dies between two batches
    seen = 0
    def here(at):
        nonlocal seen
        seen += at == moment
        return at == moment and seen == number
    def die():
        os.kill(os.getpid(), signal.SIGKILL)
    def dying_fsync(fd):
        if here("half written"):
            os.ftruncate(fd, os.fstat(fd).st_size // 2)
            die()
        fsync(fd)
        here("not renamed") and die()
    def dying_rename(self, target):
        rename(self, target)
        here("renamed") and die()
    os.fsync, Path.replace = dying_fsync, dying_rename
    write_shards(manifest, folder, tokenizer, PLAN, lambda done, of: here("encoding") and die())

for moment in ("half written", "not renamed", "renamed", "encoding"):
    for number in range(1, 100):
        folder = out / f"{{number:02d}} {{moment}}"
        if not (child := os.fork()):
            run(folder, moment, number)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            (out / f"unbroken {{moment}}").touch()
            break
"""


def test_a_run_killed_at_any_moment_and_started_again_gives_the_same_bytes(described, tokenizer, toy_folder, tmp_path):
    """SIGKILL at every write of a run: half-written, before and after its renaming, and between batches."""
    base, rows = described
    manifest = base / "few.jsonl"
    write_manifest(base, [rows[0], rows[1], rows[5], rows[9], rows[-1]]).rename(manifest)
    write_manifest(base, rows)
    unbroken = tmp_path / "unbroken"
    write_shards(manifest, unbroken, tokenizer, PLAN)
    out = tmp_path / "killed"
    out.mkdir()
    script = KILLED.format(tests=str(Path(__file__).parent))
    command = [sys.executable, "-c", script, *map(str, (toy_folder, manifest, out))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr
    assert len(list(out.glob("unbroken *"))) == 4
    killed = sorted(path for path in out.iterdir() if path.is_dir())
    assert len(killed) > 3 * len(content(unbroken))
    for folder in killed:
        if (folder / "shards.json").exists():  # killed after the last renaming, or not at all
            assert content(folder) == content(unbroken), folder
        else:
            with refused(ShardError, f"{folder}: no whole set of shards", "run 02_shards"):
                read_shards(folder, "train", tokenizer.space)
        write_shards(manifest, folder, tokenizer, PLAN)
        assert content(folder) == content(unbroken), folder


@pytest.mark.parametrize("number", [1, 2, 5])
def test_a_full_disk_leaves_no_set_and_the_next_run_goes_on(
    described, shards, tokenizer, tmp_path, monkeypatch, number
):
    write_shards(described[0] / "manifest.jsonl", tmp_path, tokenizer, dataclasses.replace(PLAN, eval_share=0.0))
    calls, fsync = itertools.count(1), os.fsync

    def full(fd):
        if next(calls) == number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(fd)

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        write_shards(described[0] / "manifest.jsonl", tmp_path, tokenizer, PLAN)
    monkeypatch.undo()
    assert not list(tmp_path.glob(".*.partial"))
    with refused(ShardError, "no whole set of shards"):
        read_index(tmp_path, tokenizer.space)
    write_shards(described[0] / "manifest.jsonl", tmp_path, tokenizer, PLAN)
    assert content(tmp_path) == content(shards)


def test_progress_goes_up_to_all_rows(described, tokenizer, tmp_path):
    calls = []
    write_shards(described[0] / "manifest.jsonl", tmp_path, tokenizer, PLAN, lambda *call: calls.append(call))
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert calls[-1] == (len(described[1]), len(described[1]))


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


# --- foreign and damaged sets -----------------------------------------------------------------------------------------


def test_a_folder_without_its_index_is_not_read(shards, tokenizer, tmp_path):
    for name, data in content(shards).items():
        if name != "shards.json":
            (tmp_path / name).write_bytes(data)
    for folder in (tmp_path, tmp_path / "nowhere"):
        with refused(ShardError, f"{folder}: no whole set of shards", "run 02_shards"):
            read_shards(folder, "train", tokenizer.space)


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", "null", '{"space_sha256": "a"}'])
def test_an_index_that_is_none_is_refused(shards, tokenizer, tmp_path, text):
    (tmp_path / "shards.json").write_text(text)
    with refused(ShardError, f"{tmp_path}: no whole set of shards", "run 02_shards"):
        read_index(tmp_path, tokenizer.space)


@pytest.mark.parametrize(
    ("card", "field", "value"),
    [("audio", "bandwidth_kbps", 9.9), ("image", "weights_sha256", "0" * 64), ("text", "sha256", "1" * 64)],
)
def test_another_token_space_is_refused_and_its_field_named(shards, space, card, field, value):
    other = dataclasses.replace(space, **{card: {**getattr(space, card), field: value}})
    with refused(SpaceError, f"{shards}: another token space", f"field '{card}.{field}' is", f"expected {value!r}"):
        read_shards(shards, "train", other)


def test_an_index_of_another_space_than_its_file_says_is_refused(shards, space, tmp_path):
    index = json.loads((shards / "shards.json").read_text()) | {"space_sha256": "f" * 64}
    (tmp_path / "shards.json").write_text(json.dumps(index))
    space.save(tmp_path)
    with refused(ShardError, "token space ffffffffffff, expected", "run 02_shards"):
        read_index(tmp_path, space)


def crafted(shards: Path, folder: Path, data: bytes) -> Path:
    """A set whose first training shard is `data`, hash and all."""
    for name, old in content(shards).items():
        (folder / name).write_bytes(old)
    index = json.loads((folder / "shards.json").read_text())
    (folder / "train-000000.tar").write_bytes(data)
    index["splits"]["train"][0]["sha256"] = hashlib.sha256(data).hexdigest()
    (folder / "shards.json").write_text(json.dumps(index))
    return folder


def tar_of(**content: bytes) -> bytes:
    with io.BytesIO() as buffer:
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for name, data in content.items():
                member = tarfile.TarInfo(f"000000.{name.replace('_', '.')}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    with io.BytesIO() as buffer:
        np.save(buffer, array, allow_pickle=True)
        return buffer.getvalue()


class Bomb:
    """Runs when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


ROW = json.dumps({"id": "a", "row": {}}).encode()


def test_a_pickle_in_a_shard_is_refused_and_never_run(shards, space, tmp_path):
    marker = tmp_path / "marker"
    bomb = npy(np.array([Bomb(marker)], dtype=object))
    np.load(io.BytesIO(bomb), allow_pickle=True)
    assert marker.exists()  # it would have run
    marker.unlink()
    folder = crafted(shards, tmp_path, tar_of(json=ROW, image_npy=bomb))
    with refused(ShardError, "train-000000.tar: holds what lumo doesn't write", "allow_pickle=False", "run 02_shards"):
        read_shards(folder, "train", space)
    assert not marker.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"no tar at all" * 100,
        tar_of(json=b"{", text_npy=npy(np.arange(3))),
        tar_of(json=b"{}", text_npy=npy(np.arange(3))),
        tar_of(text_npy=npy(np.arange(3))),
        tar_of(json=ROW, text_npy=b"no array"),
    ],
    ids=["no tar", "no json", "empty json", "json missing", "no array"],
)
def test_what_lumo_does_not_write_is_refused(shards, space, tmp_path, data):
    with refused(ShardError, "train-000000.tar: holds what lumo doesn't write", "run 02_shards"):
        read_shards(crafted(shards, tmp_path, data), "train", space)


def test_ids_outside_the_space_are_refused(shards, space, tmp_path):
    folder = crafted(shards, tmp_path, tar_of(json=ROW, text_npy=npy(np.array([3, space.size]))))
    with refused(SpaceError, "train-000000.tar: token space holds ids 0 to", f"got 3 to {space.size}"):
        read_shards(folder, "train", space)
