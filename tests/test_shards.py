"""Shards: there and back; the same input gives the same bytes, whatever broke before."""

from __future__ import annotations

import dataclasses
import errno
import io
import itertools
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused
from shard_toys import (  # noqa: F401 - fixtures
    PLAN,
    all_samples,
    content,
    fixture_described,
    fixture_own,
    fixture_shards,
    write_manifest,
    write_media,
)

from lumo import files
from lumo.shards import SPLITS, Sample, ShardError, read_index, read_shards, unit_hash, write_shards
from lumo.shards import tar_of as tar_bytes

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
from lumo import files
from lumo.shards import write_shards
from shard_toys import PLAN

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
