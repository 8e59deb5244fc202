"""The order in which a codec's codebooks become one line of tokens, and its inverse.

Axes: k codebook · t frame.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int


def flatten(codes: Int[np.ndarray, "k t"]) -> Int[np.ndarray, "n"]:
    """Flatten by time: frame t gives cb0[t] cb1[t] … cbK-1[t].

    >>> flatten(np.array([[1, 2, 3],
    ...                   [7, 8, 9]]))
    array([1, 7, 2, 8, 3, 9])
    """
    return codes.T.reshape(-1)


def unflatten(line: Int[np.ndarray, "n"], codebooks: int) -> Int[np.ndarray, "k t"]:
    """The inverse of `flatten`. Raises ValueError for a line that ends inside a frame.

    >>> unflatten(np.array([1, 7, 2, 8, 3, 9]), 2)
    array([[1, 2, 3],
           [7, 8, 9]])
    """
    if len(line) % codebooks:
        raise ValueError(
            f"line of {len(line)} codes, expected a multiple of {codebooks} codebooks; the last frame is not whole"
        )
    return line.reshape(-1, codebooks).T
