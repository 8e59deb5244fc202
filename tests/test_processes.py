"""Processes that share the shards of one machine: the same bytes, whoever is killed, and none of them left behind."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import struct
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import makers
import pytest
from refusals import refused
from test_scale import MANY, content, manifest, unbroken  # noqa: F401 - fixtures

from lumo import __main__
from lumo.params import load_profile
from lumo.shards import ShardError, engine_of, write_shards
from lumo.shards.processes import Worker, in_processes


@pytest.fixture
def deaths(tmp_path) -> Path:
    (tmp_path / "deaths").mkdir()
    return tmp_path / "deaths"


@pytest.mark.parametrize(("workers", "times"), [(1, 0), (3, 0), (2, 1)])
def test_processes_give_the_same_bytes_also_when_one_is_killed(
    manifest,  # noqa: F811
    unbroken,  # noqa: F811
    tokenizer,
    toy_folder,
    tmp_path,
    deaths,
    fresh,
    workers,
    times,
):
    calls, load = [], partial(makers.deadly, toy_folder, deaths, times)
    engine = partial(in_processes, workers=workers, load=load, context=fresh)
    index = write_shards(manifest, tmp_path / "out", tokenizer, MANY, lambda *call: calls.append(call), engine)
    assert content(tmp_path / "out") == content(unbroken)
    assert [line.split(":")[0] for line in index["left_out"][2:]] == ["lost", "lost"]
    assert calls[-1] == (13, 13) and all(0 <= done <= of for done, of in calls)
    assert len(list(deaths.iterdir())) == times


def test_what_kills_its_reader_every_time_is_named(
    manifest,  # noqa: F811
    tokenizer,
    toy_folder,
    tmp_path,
    deaths,
    fresh,
):
    engine = partial(in_processes, workers=1, load=partial(makers.deadly, toy_folder, deaths, 99), context=fresh)
    with refused(ShardError, "train-00000", "4 processes died at it", "kills its reader", "whole shards are kept"):
        write_shards(manifest, tmp_path / "out", tokenizer, MANY, engine=engine)
    assert len(list(deaths.iterdir())) == 4


def test_what_a_process_refuses_comes_back_in_one_line(manifest, tokenizer, toy_folder, tmp_path, fresh):  # noqa: F811
    engine = partial(in_processes, workers=2, load=partial(makers.others, toy_folder), context=fresh)
    with refused(ShardError, "another token space", "audio.bandwidth_kbps", "run the same command again"):
        write_shards(manifest, tmp_path, tokenizer, MANY, engine=engine)
    assert not list(tmp_path.glob("*.tar"))


def test_one_that_dies_half_way_through_a_long_card_has_died():
    worker = Worker(multiprocessing.get_context("spawn"), None, 0, 1)
    os.write(
        worker.theirs.fileno(), struct.pack("!i", 100) + b"as much as the pipe holds"
    )  # as `Connection.send` begins
    worker.theirs.close()
    assert worker.news() is None


def test_an_interrupt_while_one_is_started_leaves_none(manifest, tokenizer, toy_folder, tmp_path, fresh, monkeypatch):  # noqa: F811
    def interrupted(self, job):
        raise KeyboardInterrupt

    engine = partial(in_processes, workers=2, load=partial(makers.toys, toy_folder), context=fresh)
    before = set(multiprocessing.active_children())
    monkeypatch.setattr(Worker, "give", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_shards(manifest, tmp_path / "out", tokenizer, MANY, engine=engine)
    assert set(multiprocessing.active_children()) == before


def test_one_that_python_ends_is_not_started_again(
    manifest,  # noqa: F811
    tokenizer,
    toy_folder,
    tmp_path,
    deaths,
    fresh,
):
    engine = partial(in_processes, workers=1, load=partial(makers.broken, toy_folder, deaths), context=fresh)
    with refused(ShardError, "train-00000", "status 1", 'if __name__ == "__main__":', "whole shards are kept"):
        write_shards(manifest, tmp_path / "out", tokenizer, MANY, engine=engine)
    assert len(list(deaths.iterdir())) == 1


def test_a_profile_chooses_them_and_their_threads_are_those_of_the_profile():
    profile = load_profile("smoke", {"data": {"engine": "processes", "workers": 3}, "threads": 2})
    engine = engine_of(profile)
    assert engine.func is in_processes and (engine.keywords["workers"], engine.keywords["threads"]) == (3, 2)


INTERRUPTED = """
import sys
from functools import partial
from pathlib import Path
sys.path.insert(0, {tests!r})
import makers
from lumo import __main__, workbook
from lumo.shards import Plan, write_shards
from lumo.shards.processes import in_processes

if __name__ == "__main__":
    toys, manifest, out = map(Path, sys.argv[1:])
    engine = partial(in_processes, workers=1, load=partial(makers.slow, toys))
    workbook.report = lambda *_, **__: write_shards(manifest, out, makers.toys(toys), Plan(*{plan}), engine=engine)
    sys.exit(__main__.main(["report"]))
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_process_is_left_behind_and_the_next_run_goes_on(
    manifest,  # noqa: F811
    unbroken,  # noqa: F811
    tokenizer,
    toy_folder,
    tmp_path,
    how,
):
    """Ctrl-C reaches all processes of the terminal; one that is killed outright can't end the others: they see that it is gone."""
    psutil = pytest.importorskip("psutil")
    script, out = tmp_path / "script.py", tmp_path / "out"
    script.write_text(INTERRUPTED.format(tests=str(Path(__file__).parent), plan=dataclasses.astuple(MANY)))
    command = [sys.executable, str(script), *map(str, (toy_folder, manifest, out))]
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    try:
        deadline = time.monotonic() + 90
        while not list(out.glob("*.json")) and time.monotonic() < deadline:
            time.sleep(0.05)
        started = psutil.Process(run.pid).children()
        (os.killpg if how == signal.SIGINT else os.kill)(run.pid, how)
        said = run.communicate(timeout=30)[1]
    finally:
        run.kill()
    lines = [line for line in said.splitlines() if line and not line.startswith("Loading weights")]
    interrupted = f"interrupted; {__main__.GO_ON}"
    assert (run.returncode, lines) == ((130, [interrupted]) if how == signal.SIGINT else (-how, []))
    assert len(started) >= 2 and psutil.wait_procs(started, timeout=10)[1] == []  # one of them tracks semaphores
    left = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert left and content(out).items() < content(unbroken).items()  # nothing half-written, nor by another name
    write_shards(manifest, out, tokenizer, MANY)
    assert content(out) == content(unbroken)
    assert left.items() <= {path.name: path.stat().st_mtime_ns for path in out.iterdir()}.items()  # kept
