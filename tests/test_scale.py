"""Shards at scale: whoever makes them, in whatever order, they are the same bytes; memory doesn't grow with the rows."""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import signal
import subprocess
import sys
import threading
import tracemalloc
from array import array
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import check_line, refused
from shard_toys import PLAN, content, make_rows, write_manifest, write_media

from lumo import files
from lumo.datasets import manifest as manifests
from lumo.datasets.manifest import ChangedError, Row, read_manifest, rows_at, stream_manifest
from lumo.params import load_profile
from lumo.shards import SPLITS, ShardError, engine_of, read_shards, write_shards
from lumo.shards.jobs import jobs_of
from lumo.shards.maker import Maker
from lumo.shards.ray_engine import OnRay, distributed
from lumo.shards.write import local

MANY = dataclasses.replace(PLAN, samples_per_shard=2)
TWO = partial(local, workers=2)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    """Twelve good rows; and one whose files are gone, one without words, and one that comes twice."""
    folder, rows = tmp_path_factory.mktemp("media"), make_rows()
    for row in rows:
        write_media(folder, row)
    lost = {**rows[0], "id": "lost", "task": "ia2t"}
    lost["modalities"] = {name: {"path": f"no.{name}"} for name in ("image", "audio")}
    return write_manifest(
        folder, [*rows[:4], lost, {**rows[4], "text": {}}, *rows[4:], {**rows[2], "license": "other"}]
    )


@pytest.fixture(scope="module")
def unbroken(manifest, tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    write_shards(manifest, folder, tokenizer, MANY)
    return folder


# --- the manifest as a stream -----------------------------------------------------------------------------------------


def test_jobs_are_those_of_all_rows_at_once(manifest, tmp_path):
    """The slow and obvious way: all rows in memory, split by split, cut into shards."""
    rows, left_out = read_manifest(manifest)
    jobs, said = jobs_of(manifest, tmp_path, MANY)
    assert said == left_out and len(left_out) == 2
    chunks = []
    for split in SPLITS:
        own = [row for row in rows if MANY.split(row) == split]
        chunks += [(f"{split}-{at // 2:06d}", own[at : at + 2]) for at in range(0, len(own), 2)]
    assert [(job.stem.name, rows_at(manifest, job.starts)) for job in jobs] == chunks


@settings(deadline=None, max_examples=50)
@given(names=st.lists(st.sampled_from("abcdeé"), max_size=20), bits=st.sampled_from([0, 1, 64]))
def test_of_each_id_the_first_row_is_kept_whatever_the_digests_are(names, bits, tmp_path_factory):
    """Also where two ids have one digest: with no bit all of them have, with one half of them."""
    digest = manifests._digest
    path = tmp_path_factory.mktemp("ids") / "manifest.jsonl"
    rows = [{**make_rows()[0], "id": name} for name in names]
    write_manifest(path.parent, rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifests, "_digest", lambda name: digest(name) % 2**bits)
        kept, left_out = read_manifest(path)
    assert [row.id for row in kept] == list(dict.fromkeys(names))
    again = [number for number, name in enumerate(names) if name in names[:number]]
    assert [int(re.search(r":(\d+): id ", line)[1]) - 1 for line in left_out] == again


def test_a_manifest_that_changes_meanwhile_is_refused(manifest, tmp_path):
    copy = tmp_path / "manifest.jsonl"
    copy.write_bytes(manifest.read_bytes())
    starts = array("q", [at for at, row in stream_manifest(copy) if isinstance(row, Row)])
    copy.write_bytes(b" \n{" + copy.read_bytes())
    for change in (lambda: None, copy.unlink):
        change()
        with refused(ChangedError, f"{copy}: changed while it was worked on", "run the same command again"):
            rows_at(copy, starts)


def test_memory_does_not_grow_with_the_rows(manifest, tmp_path):
    """What is held beside one shard's rows is 8 bytes a row for the ids, then 8 for where a row begins; a row itself takes 3,000."""
    line = manifest.read_bytes().split(b"\n")[0]
    first = make_rows()[0]["id"].encode()

    def peak(count: int) -> int:
        path = tmp_path / f"{count}.jsonl"
        path.write_bytes(b"".join(line.replace(first, b"%d" % number) + b"\n" for number in range(count)))
        tracemalloc.start()
        jobs, left_out = jobs_of(path, tmp_path, dataclasses.replace(PLAN, samples_per_shard=100))
        rows = sum(len(rows_at(path, job.starts)) for job in jobs)
        assert (rows, left_out) == (count, [])
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(10)
    few, many = peak(1000), peak(10_000)
    assert (many - few) / 9000 < 128, (few, many)


# --- workers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_workers_give_the_same_bytes(manifest, unbroken, tokenizer, tmp_path, workers):
    calls = []
    index = write_shards(
        manifest, tmp_path, tokenizer, MANY, lambda *call: calls.append(call), partial(local, workers=workers)
    )
    assert content(tmp_path) == content(unbroken)
    assert [line.split(":")[0] for line in index["left_out"][2:]] == ["lost", "lost"]
    assert [done for done, _ in calls] == sorted(done for done, _ in calls) and calls[-1] == (13, 13)


def test_the_codec_works_in_one_thread_and_the_rest_beside_it(manifest, tokenizer, tmp_path, monkeypatch):
    """One waits in the codec until another has read: so it never finds an empty desk."""
    coding, reading, read = set(), set(), threading.Event()
    encode, look = type(tokenizer).encode, type(tokenizer.codecs.image).read

    def slow_encode(self, *batch):
        coding.add(threading.current_thread())
        assert read.wait(20)
        return encode(self, *batch)

    def seen_look(self, path):
        reading.add(threading.current_thread())
        if len(reading) == 2:
            read.set()
        return look(self, path)

    monkeypatch.setattr(type(tokenizer), "encode", slow_encode)
    monkeypatch.setattr(type(tokenizer.codecs.image), "read", seen_look)
    turn = sys.getswitchinterval()
    write_shards(manifest, tmp_path, tokenizer, MANY, engine=TWO)
    assert len(coding) == 1 and not coding & reading and threading.main_thread() not in coding | reading
    assert sys.getswitchinterval() == turn


@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()])
def test_a_fault_in_a_worker_ends_all_and_the_next_run_goes_on(
    manifest, unbroken, tokenizer, tmp_path, monkeypatch, fault
):
    """The disk fills up half-way, or the run is interrupted: nothing half-written, and no thread is left behind."""
    fsync, number = os.fsync, iter(range(1000))

    def full(fd):
        if next(number) >= 4:
            raise fault
        fsync(fd)

    before = threading.active_count()
    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(type(fault)):
        write_shards(manifest, tmp_path, tokenizer, MANY, engine=TWO)
    monkeypatch.undo()
    assert threading.active_count() == before
    assert not list(tmp_path.glob(".*.partial")) and list(tmp_path.glob("*.tar"))
    with refused(ShardError, "no whole set of shards"):
        read_shards(tmp_path, "train", tokenizer.space)
    write_shards(manifest, tmp_path, tokenizer, MANY, engine=TWO)
    assert content(tmp_path) == content(unbroken)


KILLED = """
import os, random, signal, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from conftest import CodecSet, EncodecCodec, TwoToneCodec, UnifiedTokenizer, load_text_tokenizer, make_space
from test_scale import MANY, TWO, write_shards

toys, manifest, out = map(Path, sys.argv[1:])
codecs = CodecSet(TwoToneCodec(toys / "image_codec"), EncodecCodec(toys / "encodec", 0.4, 1.0))
tokenizer = UnifiedTokenizer(make_space(toys / "backbone", codecs), load_text_tokenizer(toys / "backbone"), codecs)
moments = random.Random(0)
for turn in range(8):
    if not (child := os.fork()):
        for number in range(10_000):
            write_shards(manifest, out / str(turn) / str(number), tokenizer, MANY, engine=TWO)
    time.sleep(0.05 + moments.random() / 5)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""


def test_a_run_with_workers_killed_at_random_moments_goes_on_to_the_same_bytes(
    manifest, unbroken, tokenizer, toy_folder, tmp_path
):
    """Each child writes set after set until it is killed; what it left of its last one is then finished."""
    script = KILLED.format(tests=str(Path(__file__).parent))
    command = [sys.executable, "-c", script, *map(str, (toy_folder, manifest, tmp_path))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    last = [max(folder.iterdir(), key=lambda path: int(path.name)) for folder in tmp_path.iterdir()]
    assert any(list(folder.glob("*.tar")) and not (folder / "shards.json").exists() for folder in last)
    for folder in last:
        write_shards(manifest, folder, tokenizer, MANY, engine=TWO)
        assert content(folder) == content(unbroken)


# --- several machines -------------------------------------------------------------------------------------------------


def test_ray_that_is_not_there_is_said_in_one_line(manifest, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    engine = engine_of(load_profile("smoke", {"data": {"engine": "ray"}}))
    with refused(
        ShardError, "engine ray: Ray Data can't be imported", 'pip install -e ".[ray]"', "data.engine to local"
    ):
        write_shards(manifest, tmp_path, tokenizer, MANY, engine=engine)


@pytest.fixture(scope="module")
def ray():
    """A cluster of one machine, with what it takes at least."""
    ray = pytest.importorskip("ray", reason="Ray is an extra: pip install -e '.[ray]'")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(
        "local",  # whatever cluster runs on this machine
        num_cpus=2,
        object_store_memory=80 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
    )
    yield ray
    ray.shutdown()


def loader(toys: Path, deaths: Path, times: int = 0):
    """Gives the toys' tokenizer, but that reading a sound with it kills the process, so many times."""

    def load():  # within a function, so that it travels to other processes as it is
        from lumo.codecs import CodecSet
        from lumo.codecs.encodec import EncodecCodec
        from lumo.codecs.twotone import TwoToneCodec
        from lumo.tokenizer import UnifiedTokenizer, load_text_tokenizer, make_space

        class Deadly(EncodecCodec):
            def read(self, path):
                if (died := len(list(deaths.glob("*")))) < times:
                    (deaths / str(died)).touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                return super().read(path)

        codecs = CodecSet(TwoToneCodec(toys / "image_codec"), Deadly(toys / "encodec", 0.4, 1.0))
        return UnifiedTokenizer(make_space(toys / "backbone", codecs), load_text_tokenizer(toys / "backbone"), codecs)

    deaths.mkdir(exist_ok=True)
    return load


def test_ray_gives_the_same_bytes_also_when_a_process_of_its_is_killed(
    ray, manifest, unbroken, tokenizer, toy_folder, tmp_path
):
    calls = []
    engine = partial(distributed, workers=2, load=loader(toy_folder, tmp_path / "deaths", 1))
    write_shards(manifest, tmp_path / "out", tokenizer, MANY, lambda *call: calls.append(call), engine)
    assert len(list((tmp_path / "deaths").iterdir())) == 1
    assert content(tmp_path / "out") == content(unbroken)
    assert calls[-1] == (13, 13)


def test_what_kills_its_reader_every_time_and_what_a_process_refuses_comes_back_in_one_line(
    manifest, tokenizer, tmp_path
):
    """In this process: on Ray each death takes ten seconds."""
    job = jobs_of(manifest, tmp_path, MANY)[0][0]
    line = {"split": job.split, "number": job.number, "starts": job.starts.tolist()}
    maker = OnRay(Maker(lambda: tokenizer, tokenizer.space), manifest, tmp_path)
    begun, tar = job.stem.with_suffix(".begun"), job.stem.with_suffix(".tar")
    begun.write_bytes(b"." * 4)  # what four processes left that died at it
    check_line(maker(line)["refusal"], "train-000000 on ", "4 processes died at it", "kills its reader")
    tar.mkdir()  # nothing can be written there
    check_line(maker(line)["refusal"], "train-000000 on ", "IsADirectoryError")
    tar.rmdir()
    assert maker(line)["refusal"] == "" and tar.is_file() and not begun.exists()
    other = dataclasses.replace(tokenizer.space, audio={**tokenizer.space.audio, "bandwidth_kbps": 9.9})
    refusal = OnRay(Maker(lambda: tokenizer, other), manifest, tmp_path)(line)["refusal"]
    check_line(refusal, "another token space", "audio.bandwidth_kbps")
