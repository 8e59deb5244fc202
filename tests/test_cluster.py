"""Several machines, played by one: two nodes of a Ray cluster make the shards, and one of them is lost."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest
from test_scale import MANY, content, manifest, unbroken  # noqa: F401 - fixtures

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
