"""Several machines, played by one: two nodes of a Ray cluster make the shards, and one of them is lost."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from test_scale import MANY, content, manifest, unbroken  # noqa: F401 - fixtures

from lumo import __main__
from lumo.shards import write_shards
from lumo.shards.ray_engine import distributed


@pytest.fixture
def cluster():
    """Two machines of one core each, with what they take at least."""
    ray = pytest.importorskip("ray", reason="Ray is an extra: pip install -e '.[ray]'")
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    machine = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=machine | {"include_dashboard": False})
    second = cluster.add_node(**machine)
    ray.init(cluster.address, log_to_driver=False, logging_level="error")
    yield cluster, second
    ray.shutdown()
    cluster.shutdown()


def loader(toys: Path, seen: Path):
    """Gives the toys' tokenizer, which says on which machine it works, and takes its time, so that there is work for two."""

    def load():  # within a function, so that it travels to other processes as it is
        import time

        import ray

        from lumo.codecs import CodecSet
        from lumo.codecs.encodec import EncodecCodec
        from lumo.codecs.twotone import TwoToneCodec
        from lumo.tokenizer import UnifiedTokenizer, load_text_tokenizer, make_space

        class Slow(EncodecCodec):
            def read(self, path):
                (seen / ray.get_runtime_context().get_node_id()).touch()
                while len(list(seen.iterdir())) < 2:
                    time.sleep(0.05)
                return super().read(path)

        codecs = CodecSet(TwoToneCodec(toys / "image_codec"), Slow(toys / "encodec", 0.4, 1.0))
        return UnifiedTokenizer(make_space(toys / "backbone", codecs), load_text_tokenizer(toys / "backbone"), codecs)

    seen.mkdir()
    return load


def test_two_machines_give_the_same_bytes_and_one_goes_on_when_the_other_is_lost(
    cluster,
    manifest,  # noqa: F811
    unbroken,  # noqa: F811
    tokenizer,
    toy_folder,
    tmp_path,
):
    machines, second = cluster
    seen, lost = tmp_path / "seen", []

    def lose(done: int, of: int) -> None:
        if not lost and len(list(seen.iterdir())) == 2:
            machines.remove_node(second, allow_graceful=False)
            lost.append(done)

    engine = partial(distributed, workers=2, load=loader(toy_folder, seen))
    write_shards(manifest, tmp_path / "out", tokenizer, MANY, lose, engine)
    assert len(list(seen.iterdir())) == 2 and 0 < lost[0] < 13
    assert content(tmp_path / "out") == content(unbroken)


INTERRUPTED = """
import os, sys, time
from functools import partial
from pathlib import Path
from lumo import __main__, workbook
from lumo.shards import Plan, write_shards
from lumo.shards.ray_engine import distributed

toys, manifest, out = map(Path, sys.argv[1:])

def load():  # in a function, so that it travels as it is
    from lumo.codecs import CodecSet
    from lumo.codecs.encodec import EncodecCodec
    from lumo.codecs.twotone import TwoToneCodec
    from lumo.tokenizer import UnifiedTokenizer, load_text_tokenizer, make_space

    before = len(list(out.glob("*.tar")))
    class Hanging(UnifiedTokenizer):
        def encode_text(self, text):
            while len(list(out.glob("*.tar"))) > before:  # it makes one shard
                time.sleep(1)
            return super().encode_text(text)
    codecs = CodecSet(TwoToneCodec(toys / "image_codec"), EncodecCodec(toys / "encodec", 0.4, 1.0))
    return Hanging(make_space(toys / "backbone", codecs), load_text_tokenizer(toys / "backbone"), codecs)

engine = partial(distributed, workers=1, load=load)
workbook.report = lambda *_, **__: write_shards(manifest, out, load(), Plan(*{plan}), engine=engine)
sys.exit(__main__.main(["report"]))
"""


def test_an_interrupt_ends_what_it_started_in_one_line_and_the_next_run_goes_on(
    manifest,  # noqa: F811
    unbroken,  # noqa: F811
    tokenizer,
    toy_folder,
    tmp_path,
):
    """A plain kill while a process of Ray's is at work, as Ctrl-C: but that Ray would answer it. Whole shards are left, and no process."""
    pytest.importorskip("ray", reason="Ray is an extra: pip install -e '.[ray]'")
    psutil = pytest.importorskip("psutil")
    out = tmp_path / "out"
    script = INTERRUPTED.format(plan=dataclasses.astuple(MANY))
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    run = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, (toy_folder, manifest, out))],
        stdout=subprocess.DEVNULL,  # Ray may say something there
        stderr=subprocess.PIPE,
        text=True,
        env=environment | {"TOKENIZERS_PARALLELISM": "false"},
    )
    try:
        deadline = time.monotonic() + 90
        while not list(out.glob("*.json")) and time.monotonic() < deadline:
            time.sleep(0.05)
        started = psutil.Process(run.pid).children(recursive=True)
        run.send_signal(signal.SIGTERM)
        said = run.communicate(timeout=30)[1]
    finally:
        run.kill()
    assert run.returncode == 130 and said.count("interrupted; " + __main__.GO_ON) == 1
    assert not re.search(r"Traceback|SIGTERM|core_worker|Error", said), said
    assert len(started) > 2 and psutil.wait_procs(started, timeout=10)[1] == []
    left = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert content(out).items() < content(unbroken).items()  # nothing half-written, nor by another name
    assert [Path(name).suffix for name in sorted(left)] == [".json", ".tar"]
    write_shards(manifest, out, tokenizer, MANY)
    assert content(out) == content(unbroken)
    assert left.items() <= {path.name: path.stat().st_mtime_ns for path in out.iterdir()}.items()  # kept
