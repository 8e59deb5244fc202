"""Sequences to batches: packed rows in which nothing is cut and no sequence sees its neighbour.

Axes: b row · s step in a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lumo.sequence import TokenSequence

IGNORE = -100  # where labels are not looked at


@dataclass(frozen=True)
class Batch:
    """Rows of packed sequences.

    input_ids: padded with the pad id
    labels: each stands under its own input, -100 outside targets; the loss shifts them, once
    segment_ids: 0 is padding, then 1, 2, … along each row
    position_ids: from 0 in each segment
    groups: for each position the index of the group (task) its sequence came with
    """

    input_ids: Int[Tensor, "b s"]
    labels: Int[Tensor, "b s"]
    segment_ids: Int[Tensor, "b s"]
    position_ids: Int[Tensor, "b s"]
    groups: Int[Tensor, "b s"]

    @property
    def tokens(self) -> int:
        """Real tokens, padding left aside."""
        return int((self.segment_ids > 0).sum())

    @property
    def real_share(self) -> float:
        return self.tokens / self.input_ids.numel()

    def attention_mask(self) -> Bool[Tensor, "b 1 s s"]:
        """True where a step may look: itself and what came before in its own segment. Padding sees itself, lest softmax divide by 0."""
        steps = torch.arange(self.input_ids.shape[1])
        same = self.segment_ids[:, :, None] == self.segment_ids[:, None, :]
        return (same & (steps[:, None] >= steps[None, :]))[:, None]


def pack(sequences: Sequence[TokenSequence], pad_id: int, groups: Sequence[int] | None = None) -> Batch:
    """Pack sequences into rows as long as the longest, best fit first; none is cut or left out.

    groups: an index for each sequence, carried along to its positions
    """
    groups = groups if groups is not None else [0] * len(sequences)
    capacity = max(len(sequence) for sequence in sequences)
    rows: list[list[int]] = []
    free: list[int] = []
    for i in sorted(range(len(sequences)), key=lambda i: (-len(sequences[i]), i)):
        length = len(sequences[i])
        fitting = [row for row in range(len(rows)) if free[row] >= length]
        if fitting:
            row = min(fitting, key=lambda row: free[row])
        else:
            row = len(rows)
            rows.append([])
            free.append(capacity)
        rows[row].append(i)
        free[row] -= length
    shape = (len(rows), capacity)
    input_ids, labels = torch.full(shape, pad_id), torch.full(shape, IGNORE)
    segments, positions, owners = (torch.zeros(shape, dtype=torch.long) for _ in range(3))
    for row, members in enumerate(rows):
        start = 0
        for segment, i in enumerate(members, start=1):
            ids, is_target = torch.from_numpy(sequences[i].ids), torch.from_numpy(sequences[i].is_target)
            span = slice(start, start + len(ids))
            input_ids[row, span] = ids
            labels[row, span] = torch.where(is_target, ids, IGNORE)
            segments[row, span] = segment
            positions[row, span] = torch.arange(len(ids))
            owners[row, span] = groups[i]
            start += len(ids)
    return Batch(input_ids, labels, segments, positions, owners)
