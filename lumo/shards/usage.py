"""How evenly the codes of a codebook are used.

Axes: v code of one codebook.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int


@dataclass(frozen=True)
class CodebookUse:
    """name: the block's; counts: how often each of its codes occurs in train"""

    name: str
    counts: Int[np.ndarray, "v"]

    @property
    def used(self) -> int:
        return int((self.counts > 0).sum())

    @property
    def unused(self) -> int:
        return len(self.counts) - self.used

    @property
    def entropy_bits(self) -> float:
        """Entropy of a code drawn from train; at most log2 of the codebook's size."""
        share = self.counts[self.counts > 0] / max(1, self.counts.sum())
        return float(-(share * np.log2(share)).sum())

    @property
    def perplexity(self) -> float:
        """How many codes, evenly used, would say as much; 0 where none occurs."""
        return 2**self.entropy_bits if self.used else 0.0

    def as_row(self) -> dict[str, Any]:
        """One line of a table. drawn: codes that train holds: a codebook that is larger can't be used whole"""
        return {"codebook": self.name, "codes": len(self.counts), "drawn": int(self.counts.sum()), "never used": self.unused,
                "perplexity": round(self.perplexity, 1), "perplexity, % of codes": round(100 * self.perplexity / len(self.counts), 1),
                "entropy, bits": round(self.entropy_bits, 2), "bits at most": round(float(np.log2(len(self.counts))), 2)}  # fmt: skip

    def ranked(self, points: int = 200) -> list[tuple[float, float]]:
        """Used codes, the most used first: (rank in % of the codebook, how many times as often as if all were used alike).

        points: at most so many, evenly spread over the ranks, first and last among them
        """
        often = np.sort(self.counts[self.counts > 0])[::-1] * len(self.counts) / max(1, self.counts.sum())
        at = np.unique(np.linspace(0, max(0, len(often) - 1), points).round().astype(int))[: len(often)]
        return [(100 * float(rank + 1) / len(self.counts), float(often[rank])) for rank in at]


def unused_line(books: Sequence[CodebookUse]) -> str:
    """Which codebooks have codes that train never shows, in one line.

    >>> unused_line([CodebookUse("a", np.array([3, 0, 1])), CodebookUse("b", np.array([1, 1]))])
    'never in train: 1 of 3 codes of a'
    """
    lacking = [f"{book.unused} of {len(book.counts)} codes of {book.name}" for book in books if book.unused]
    return f"never in train: {', '.join(lacking)}" if lacking else "every code occurs in train"
