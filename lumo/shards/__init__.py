"""Manifest to token shards, and back.

They are written deterministically, whole or not at all, and resumed shard by shard: beside `train-000003.tar` stands
`train-000003.json`, written last, with the tar's SHA-256 and a fingerprint of what it was made from. `shards.json` closes the set.
"""

from lumo.shards.format import Sample, ShardError, read_index, read_shards, stream_shards, tar_of
from lumo.shards.jobs import SPLITS, Plan, unit_hash
from lumo.shards.write import engine_of, write_shards

__all__ = [
    "SPLITS",
    "Plan",
    "Sample",
    "ShardError",
    "engine_of",
    "read_index",
    "read_shards",
    "stream_shards",
    "tar_of",
    "unit_hash",
    "write_shards",
]
