"""Make the miniature's audio codec: codebooks of spectral shapes by k-means, each on the residual of those before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lumo.codecs.spectral import SpectralCodec, SpectralConfig, level_codes, shapes, spectra
from lumo.codecs.vectors import nearest
from lumo.datasets import world
from lumo.miniature.clusters import k_means

CONFIG = SpectralConfig()


def clips(count: int, seed: int) -> Tensor:
    """Clips of combinations that are in training, music and effects half and half: float32 [count samples]."""
    rng = np.random.default_rng(seed)
    seen = {kind: world.seen(kind) for kind in ("music", "sfx")}
    kinds = rng.choice(["music", "sfx"], size=count)
    return torch.from_numpy(
        np.concatenate([world.play(seen[kind][rng.integers(len(seen[kind]))], rng).samples for kind in kinds])
    )


def train(
    folder: Path, config: SpectralConfig = CONFIG, seed: int = 0, clip_count: int = 1600, rounds: int = 25
) -> None:
    """Codebooks from the spectra of clips that may appear in training, saved to `folder`."""
    rng = torch.Generator().manual_seed(seed)
    residual = torch.cat([_sounding(part, config) for part in clips(clip_count, seed).split(64)])
    books = []
    for _ in range(config.codebooks - 1):
        # centres as they will be stored, so that training sees the residuals that encoding will see
        books.append(k_means(residual, config.cardinality, rounds, rng).half().float())
        residual = residual - books[-1][nearest(residual, books[-1])]
    SpectralCodec.save(folder, config, torch.stack(books))


def _sounding(wave: Tensor, config: SpectralConfig) -> Tensor:
    """Shapes of the frames that aren't silence: float32 [n f]."""
    magnitude = spectra(wave, config).abs()
    return shapes(magnitude)[level_codes(magnitude, config) > 0]
