"""k-means, for codebooks.

Axes: n vector · d value · v code.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from lumo.codecs.vectors import nearest


def k_means(vectors: Float[Tensor, "n d"], size: int, rounds: int, rng: torch.Generator) -> Float[Tensor, "v d"]:
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
