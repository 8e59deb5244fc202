"""Make the miniature's audio codec: codebooks of spectra by k-means, each on the residual of those before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lumo.codecs.spectral import SpectralCodec, SpectralConfig, compressed, nearest
from lumo.datasets import world


def clips(count: int, seed: int) -> Tensor:
    """Clips of combinations that are in training, music and effects two to one: float32 [count samples]."""
    rng = np.random.default_rng(seed)
    seen = {kind: world.seen(kind) for kind in ("music", "sfx")}
    kinds = rng.choice(["music", "music", "sfx"], size=count)
    return torch.from_numpy(
        np.concatenate([world.play(seen[kind][rng.integers(len(seen[kind]))], rng).samples for kind in kinds])
    )


def train(folder: Path, seed: int = 0, clip_count: int = 2000, rounds: int = 30) -> None:
    """Codebooks from the spectra of clips that may appear in training, saved to `folder`."""
    config = SpectralConfig()
    rng = torch.Generator().manual_seed(seed)
    wave = clips(clip_count, seed)
    residual = torch.cat([compressed(part, config).transpose(1, 2).flatten(0, 1) for part in wave.split(64)])
    books = []
    for _ in range(config.codebooks):
        # centres as they will be stored, so that training sees the residuals that encoding will see
        books.append(k_means(residual, config.cardinality, rounds, rng).half().float())
        residual = residual - books[-1][nearest(residual, books[-1])]
    SpectralCodec.save(folder, config, torch.stack(books))


def k_means(vectors: Float[Tensor, "n f"], size: int, rounds: int, rng: torch.Generator) -> Float[Tensor, "v f"]:
    """Lloyd's algorithm; a centre that nobody chose moves to a vector that is badly served."""
    centres = vectors[torch.randperm(len(vectors), generator=rng)[:size]].clone()
    for _ in range(rounds):
        chosen = nearest(vectors, centres)
        count = torch.bincount(chosen, minlength=size)
        sums = torch.zeros_like(centres).index_add_(0, chosen, vectors)
        error = (vectors - centres[chosen]).square().sum(1)
        centres = sums / count.clamp(min=1)[:, None]
        empty = (count == 0).nonzero().flatten()
        if len(empty):
            centres[empty] = vectors[torch.multinomial(error + 1e-12, len(empty), generator=rng)]
    return centres
