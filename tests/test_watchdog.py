"""The watchdog: a run for which memory runs short ends with a checkpoint, and goes on as if it hadn't."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import runs
import torch
from refusals import check_line, refused

from lumo import machine, watchdog
from lumo.machine import MachineError
from lumo.params import Training

MIB = 2**20


def memory_of(monkeypatch, readings: dict[int, int]) -> None:
    """What is available at each reading, in MiB, 0 before the first step; at all others plenty."""
    count = iter(range(10_000))
    monkeypatch.setattr(watchdog, "available_bytes", lambda: readings.get(next(count), 64_000) * MIB)


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("checkpoint_*"))


@pytest.mark.parametrize("params", runs.PHASES.values(), ids=runs.PHASES)
@pytest.mark.parametrize("step", [1, 3, 4])  # checkpoint_every is 2: beside its steps, and on one
def test_a_run_that_memory_ends_goes_on_bit_for_bit(tokenizer, samples, tmp_path, monkeypatch, params, step):
    runs.run(tmp_path / "unbroken", samples, tokenizer.space, params)
    memory_of(monkeypatch, {step: 511, step + 1: 511})  # seen, and then said
    with refused(
        MachineError, "training: 511 MiB", "memory_floor_mib is 512", f"with checkpoint_00000{step}", "goes on"
    ):
        runs.run(tmp_path / "run", samples, tokenizer.space, params)
    assert f"checkpoint_00000{step}" in checkpoints(tmp_path / "run")
    steps = []
    runs.run(tmp_path / "run", samples, tokenizer.space, params, show=lambda progress: steps.append(progress.step))
    assert steps == list(range(step + 1, 8))
    runs.assert_same(tmp_path / "run", tmp_path / "unbroken")


def test_what_is_done_at_the_last_step_is_finished(tokenizer, samples, tmp_path, monkeypatch):
    memory_of(monkeypatch, {7: 1})
    runs.run(tmp_path, samples, tokenizer.space, runs.WARM)
    assert (tmp_path / "final").is_dir() and not checkpoints(tmp_path)


@pytest.mark.parametrize(
    ("floor", "available", "low"), [(512, 511, True), (512, 512, False), (0, 0, False), (512, None, False)]
)
def test_when_memory_is_low(monkeypatch, floor, available, low):
    monkeypatch.setattr(watchdog, "available_bytes", lambda: available and available * MIB)
    assert watchdog.is_low(floor) is low


def test_a_run_that_would_end_after_one_step_never_begins(tokenizer, samples, tmp_path, monkeypatch):
    memory_of(monkeypatch, {0: 511, 1: 511})
    with refused(MachineError, "511 MiB of memory is available before the first step", "memory_floor_mib is 512"):
        runs.run(tmp_path, samples, tokenizer.space, runs.WARM)
    monkeypatch.setattr(watchdog, "whole_bytes", lambda: 500 * MIB)
    with refused(MachineError, "memory_floor_mib is 512", "this machine has 500 MiB in all", "lower it"):
        runs.run(tmp_path, samples, tokenizer.space, runs.WARM)
    assert list(tmp_path.iterdir()) == []
    runs.run(tmp_path, samples, tokenizer.space, runs.WARM.model_copy(update={"memory_floor_mib": 0}))
    runs.run(tmp_path, samples, tokenizer.space, runs.WARM)  # what is finished is loaded


def test_the_floor_is_no_other_run(tokenizer, samples, tmp_path):
    with pytest.raises(runs.Killed):
        runs.run(tmp_path, samples, tokenizer.space, runs.WARM, show=runs.cut_at(5))
    steps = []
    other = runs.WARM.model_copy(update={"memory_floor_mib": 1})
    runs.run(tmp_path, samples, tokenizer.space, other, show=lambda progress: steps.append(progress.step))
    assert steps == [5, 6, 7]


def test_the_floor_is_on_unless_a_profile_says_no():
    assert Training(**runs.SHARED, rates={"a2t": 1.0}).memory_floor_mib == 512


def test_what_the_system_tells_is_read(tmp_path, monkeypatch):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       128000 kB\nMemFree:          1000 kB\nMemAvailable:    64000 kB\n")
    monkeypatch.setattr(machine, "MEMINFO", meminfo)
    assert machine.available_bytes() == machine.free_bytes("cpu") == 64_000 * 1024
    assert machine.whole_bytes() == 128_000 * 1024
    meminfo.unlink()
    assert machine.available_bytes() is None and machine.free_bytes("cpu") is None


@pytest.mark.parametrize("integrated", [1, 0])
def test_a_gpu_that_shares_memory_is_asked_through_the_system(tmp_path, monkeypatch, integrated):
    """CUDA counts the page cache as used: on a Spark it has shown 41 GiB where 116 could be had."""
    monkeypatch.setattr(machine, "available_bytes", lambda: 116)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (41, 120))
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda _: type("Properties", (), {"is_integrated": integrated})
    )
    assert machine.free_bytes("cuda") == (116 if integrated else 41)
    assert machine.shares_memory("cuda") is bool(integrated) and machine.shares_memory("cpu")


def one_of_two(rank: int, port: int, folder: Path, samples, space) -> None:
    """A process whose neighbour, or who itself, runs short of memory after step 3."""
    runs.join(rank, port)
    readings = iter(range(100))
    watchdog.is_low = lambda floor: next(readings) == 3 and rank == 1
    try:
        runs.run(folder, samples, space, runs.TWICE)
    except MachineError as error:
        (folder / f"said_{rank}").write_text(str(error))


def test_all_processes_end_when_one_sees_it(fresh, tokenizer, samples, tmp_path):
    folder = tmp_path / "run"
    processes = runs.start(fresh, one_of_two, folder, samples, tokenizer.space)
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0, 0]
    assert checkpoints(folder) == ["checkpoint_000002", "checkpoint_000003"] and not (folder / "final").exists()
    assert len((folder / "log.jsonl").read_text().splitlines()) == 3
    for rank in range(2):
        check_line((folder / f"said_{rank}").read_text(), "checkpoint_000003")
    # one process goes on where two ended, and comes to the same within rounding
    runs.run(folder, samples, tokenizer.space, runs.TWICE)
    runs.run(tmp_path / "single", samples, tokenizer.space, runs.TWICE)
    logs = [
        [json.loads(line) for line in (place / "log.jsonl").read_text().splitlines()]
        for place in (folder, tmp_path / "single")
    ]
    for line, expected in zip(*logs, strict=True):
        assert line["losses"] == pytest.approx(expected["losses"], rel=1e-4, abs=1e-4)
