"""Checkpoints: whole or not there, whenever the process dies or the disk fills; a foreign or a damaged one is refused."""

from __future__ import annotations

import contextlib
import errno
import resource
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from refusals import check_line, refused
from runs import STAGE4, WARM, Killed, assert_same, cut_at, fixture_unbroken, run  # noqa: F401 - fixtures
from safetensors import SafetensorError

from lumo.model import ModelError
from lumo.space import SpaceError


@pytest.mark.parametrize(
    "where",
    [
        "lumo.storage.save_file",
        "torch.save",
        "lumo.training.checkpoints.write_atomically",
        "pathlib.Path.rename",
        "shutil.rmtree",
    ],
)
@pytest.mark.parametrize("nth", [1, 2, 4])
def test_killed_while_checkpointing_and_resumed_equals_unbroken(
    tokenizer, samples, unbroken, tmp_path, monkeypatch, where, nth
):
    """Before or after the nth call of each thing that writing a checkpoint consists of."""
    for after in (False, True):
        folder, calls = tmp_path / f"{after}", []
        module, _, name = where.rpartition(".")
        owner = {"pathlib.Path": Path, "torch": torch}.get(module) or sys.modules.get(module) or shutil
        real = getattr(owner, name)

        def deadly(*args, real=real, calls=calls, after=after, **kwargs):
            calls.append(args)
            if len(calls) < nth:
                return real(*args, **kwargs)
            if after:
                real(*args, **kwargs)
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, deadly)
            with contextlib.suppress(Killed):
                run(folder, samples, tokenizer.space, STAGE4)
        run(folder, samples, tokenizer.space, STAGE4)
        assert_same(folder, unbroken["stage4"])
        assert not list(folder.glob("checkpoint_*"))


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(("field", "value"), [("weights_sha256", "0" * 64), ("cardinality", 300)])
def test_checkpoints_of_another_token_space_are_refused(tokenizer, samples, tmp_path, finished, field, value):
    with contextlib.suppress(Killed):
        run(tmp_path, samples, tokenizer.space, WARM, show=cut_at(None if finished else 5))
    before = sorted(tmp_path.rglob("*"))
    other = replace(tokenizer.space, image=tokenizer.space.image | {field: value})
    with pytest.raises(SpaceError, match=rf"field 'image\.{field}' is .*, expected '?{value}") as caught:
        run(tmp_path, samples, other, WARM)
    check_line(str(caught.value), str(tmp_path))
    assert sorted(tmp_path.rglob("*")) == before, "nothing is thrown away"


@pytest.mark.parametrize("name", ["state.json", "optimiser.pt", "trainable_rows.safetensors"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_can_be_used(tokenizer, samples, unbroken, tmp_path, name):
    with pytest.raises(Killed):
        run(tmp_path, samples, tokenizer.space, WARM, show=cut_at(6))
    last = tmp_path / "checkpoint_000004"
    data = (last / name).read_bytes()
    for damaged in (data[: len(data) // 2], b"", b"{}"):
        (last / name).write_bytes(damaged)
        with refused(ModelError, last.name, "can't be read"):
            run(tmp_path, samples, tokenizer.space, WARM)
    shutil.rmtree(last)
    run(tmp_path, samples, tokenizer.space, WARM)
    assert_same(tmp_path, unbroken["warm"])


def disk_full(kind: type):
    def write(*args, **kwargs):
        raise (
            kind(errno.ENOSPC, "No space left on device")
            if kind is OSError
            else kind("I/O error: No space left on device (os error 28)")
        )

    return write


FULL = {
    "lumo.storage.save_file": SafetensorError,
    "torch.save": RuntimeError,
    "lumo.training.checkpoints.write_atomically": OSError,
}


@pytest.mark.parametrize("where", FULL)
def test_a_full_disk_leaves_the_checkpoint_before_and_nothing_half_written(
    tokenizer, samples, unbroken, tmp_path, monkeypatch, where
):
    def show(progress):
        if progress.step == 4:  # the next thing is the second checkpoint
            monkeypatch.setattr(where, disk_full(FULL[where]))

    with pytest.raises(
        ModelError, match=r"checkpoint_000004: can't be written \(.*No space left .*; free some space, .* goes on where"
    ) as caught:
        run(tmp_path, samples, tokenizer.space, STAGE4, show=show)
    check_line(str(caught.value))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint_000002", "log.jsonl"]
    monkeypatch.undo()
    run(tmp_path, samples, tokenizer.space, STAGE4)
    assert_same(tmp_path, unbroken["stage4"])


@pytest.mark.parametrize("largest", [10_000, 20_000], ids=["rows", "moments"])
def test_a_file_that_the_system_refuses_to_grow_is_no_checkpoint(tokenizer, samples, unbroken, tmp_path, largest):
    """The real thing, as far as it goes without a disk of one's own: the rows take 14 kB, their moments 28."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def show(progress):
        if progress.step == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, limits[1]))

    try:
        with refused(ModelError, "checkpoint_000004: can't be written"):
            run(tmp_path, samples, tokenizer.space, WARM, show=show)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint_000002", "log.jsonl"]
    run(tmp_path, samples, tokenizer.space, WARM)
    assert_same(tmp_path, unbroken["warm"])
