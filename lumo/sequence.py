"""A line of tokens that knows which of them are to be learned.

Axes: n token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int


@dataclass(frozen=True)
class TokenSequence:
    """ids: int64 [n]; is_target: bool [n], true where the loss looks."""

    ids: Int[np.ndarray, "n"]
    is_target: Bool[np.ndarray, "n"]

    def __len__(self) -> int:
        return len(self.ids)


class SequenceBuilder:
    """Appends ids and target flags in one motion, so that they can't drift apart.

    >>> sequence = SequenceBuilder().add([5, 6]).add([7], target=True).build()
    >>> sequence.ids, sequence.is_target
    (array([5, 6, 7]), array([False, False,  True]))
    """

    def __init__(self) -> None:
        self._ids: list[np.ndarray] = []
        self._flags: list[np.ndarray] = []

    def add(self, ids: int | Sequence[int] | Int[np.ndarray, "n"], target: bool = False) -> SequenceBuilder:
        """Append one id or a line of them, all of them target or none."""
        ids = np.atleast_1d(np.asarray(ids, dtype=np.int64))
        self._ids.append(ids)
        self._flags.append(np.full(len(ids), target))
        return self

    def build(self) -> TokenSequence:
        return TokenSequence(np.concatenate(self._ids), np.concatenate(self._flags))
