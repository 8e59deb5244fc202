"""Losses of a batch, per task: sums and counts travel apart and are divided once.

Axes: m supervised token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lumo import parallel


@dataclass(frozen=True)
class Sums:
    """Loss sums in nats and token counts for each task: they travel apart and are divided once."""

    losses: Mapping[str, float]
    tokens: Mapping[str, int]

    def __add__(self, other: Sums) -> Sums:
        names = self.tokens.keys() | other.tokens.keys()
        return Sums(
            {name: self.losses.get(name, 0.0) + other.losses.get(name, 0.0) for name in names},
            {name: self.tokens.get(name, 0) + other.tokens.get(name, 0) for name in names},
        )

    def mean(self, name: str) -> float:
        """Token-weighted mean loss of a task; NaN when no token of it was seen."""
        return self.losses[name] / self.tokens[name] if self.tokens.get(name) else math.nan


def sums_of(losses: Tensor, groups: Tensor, names: Sequence[str]) -> Sums:
    """Per-token losses [m] with their groups [m] to sums per task, over all processes."""
    totals = torch.zeros(len(names), dtype=torch.float64, device=groups.device)
    totals.index_add_(0, groups, losses.detach().double())
    counts = torch.bincount(groups, minlength=len(names))
    parallel.add_up([totals])
    parallel.add_up([counts])
    return Sums(dict(zip(names, totals.tolist(), strict=True)), dict(zip(names, counts.tolist(), strict=True)))


def task_weights(groups: Tensor, tasks: int) -> Tensor:
    """Weights [m] of tokens, by their tasks [m]: they make the mean over the batch's tasks of each task's mean token loss. A caption
    of ten tokens weighs as much as a clip of two hundred, or reading would hardly be trained beside writing. Of several processes
    each gets the weights of its own part of the batch.

    tasks: how many there are
    """
    counts = torch.bincount(groups, minlength=tasks)
    parallel.add_up([counts])
    return 1.0 / (counts[groups] * (counts > 0).sum())
