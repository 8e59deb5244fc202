"""Make the miniature's image codec: pairs of tones and masks of the world's patches, by k-means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lumo.codecs.tensors import pixels_of
from lumo.codecs.twotone import TwoToneCodec, TwoToneConfig, cut, split
from lumo.datasets import world
from lumo.miniature.clusters import k_means

CONFIG = TwoToneConfig()


def pictures(count: int, seed: int) -> Float[Tensor, "count 3 h w"]:
    """Pictures of combinations that are in training, fp32 in 0…255."""
    rng = np.random.default_rng(seed)
    seen = world.seen("image")
    return pixels_of([world.draw(seen[rng.integers(len(seen))], rng) for _ in range(count)])


def train(
    folder: Path, config: TwoToneConfig = CONFIG, seed: int = 0, picture_count: int = 5000, rounds: int = 25
) -> None:
    """Both codebooks from the patches of pictures that may appear in training, saved to `folder`."""
    rng = torch.Generator().manual_seed(seed)
    tones, masks = split(cut(pictures(picture_count, seed), config), config)
    # three of four patches are bare ground: a few hundred of them say it all
    painted = masks.amax(1) > 0
    bare = (~painted).nonzero().flatten()[:300]
    chosen = torch.cat([painted.nonzero().flatten(), bare])
    books = (k_means(part[chosen], size, rounds, rng) for part, size in ((tones, config.tones), (masks, config.masks)))
    TwoToneCodec.save(folder, config, *books)
