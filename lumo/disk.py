"""How much disk a run takes, part by part, before it runs."""

from __future__ import annotations

import statistics

from lumo.backbone import Skeleton
from lumo.datasets import world
from lumo.footprint import FP32, new_numbers
from lumo.media import Image, png_bytes, wav_bytes
from lumo.params import Profile, has_weights
from lumo.preview import Preview
from lumo.shards import tar_of
from lumo.space import TokenSpace

BF16 = 2  # bytes of a number, as published backbones have them


def disk_bytes(profile: Profile, data: Preview, space: TokenSpace, bare: Skeleton) -> dict[str, int]:
    """Bytes of what a run leaves, of its checkpoints while it trains, and of what isn't here yet."""
    rows = FP32 * new_numbers(space, bare)
    moments = 2 * (rows + FP32 * (bare.adapters + bare.tuned))
    tuned = FP32 * bare.tuned + bare.frozen_bytes if bare.tuned else FP32 * bare.adapters
    sizes = {"shards": _shard_bytes(data), "warm start and stage 4, when finished": 2 * rows + tuned,
             "two checkpoints with the optimiser, while training": 2 * (rows + tuned + moments)}  # fmt: skip
    if not has_weights(profile.backbone.path):
        sizes["backbone, to be fetched"] = bare.base_numbers * BF16
    if not profile.data.manifest:
        sizes["the world's files"] = _world_bytes(data)
    return sizes


def _shard_bytes(data: Preview) -> int:
    """Bytes of the shards, from a few samples of each kind that are packed."""
    total = 0.0
    for kind in {sample.modalities for sample in data.samples}:
        these = [sample for sample in data.samples if sample.modalities == kind]
        some = these[:: max(1, len(these) // 200)]
        total += len(tar_of(some)) / len(some) * data.count(these)
    return round(total)


def _world_bytes(data: Preview) -> int:
    """Bytes of the world's files, from a few that are rendered."""
    total = 0.0
    for medium in ("image", "audio"):
        these = [sample for sample in data.samples if medium in sample.modalities]
        some = [world.render(s.row["modalities"][medium]["meta"]) for s in these[:: max(1, len(these) // 20)]]
        sizes = [len(png_bytes(m) if isinstance(m, Image) else wav_bytes(m)) for m in some]
        total += statistics.fmean(sizes or [0]) * data.count(these)
    return round(total)
