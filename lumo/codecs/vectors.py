"""Vector quantisation, as far as the miniature's codecs share it.

Axes: n vector · d value · v code.
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor


def nearest(vectors: Float[Tensor, "n d"], book: Float[Tensor, "v d"]) -> Int[Tensor, "n"]:
    """The code of the closest codebook vector, the first of equals."""
    return (book.square().sum(1) - 2 * vectors @ book.T).argmin(1)
