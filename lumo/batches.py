"""Sequences to batches: packed rows in which nothing is cut and no sequence sees its neighbour.

Axes: b row · s step in a row · _ any number.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional as F

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

    def in_one_row(self) -> Batch:
        """The real tokens alone, in one row, with its segments numbered anew; in their order here, so losses keep theirs."""
        real = self.segment_ids > 0
        ids, labels, positions, groups = (
            part[real][None] for part in (self.input_ids, self.labels, self.position_ids, self.groups)
        )
        return Batch(ids, labels, (positions == 0).cumsum(1), positions, groups)

    def segment_lengths(self) -> list[int]:
        """How many tokens each segment has, in a batch of one row."""
        return self.segment_ids[0].bincount()[1:].tolist()

    def attention_mask(self) -> Bool[Tensor, "b 1 s s"]:
        """True where a step may look: itself and what came before in its own segment. Padding sees itself, lest softmax divide by 0."""
        steps = torch.arange(self.input_ids.shape[1])
        same = self.segment_ids[:, :, None] == self.segment_ids[:, None, :]
        return (same & (steps[:, None] >= steps[None, :]))[:, None]


def pack(
    sequences: Sequence[TokenSequence],
    pad_id: int,
    groups: Sequence[int] | None = None,
    read: Sequence[Int[np.ndarray, "_"]] | None = None,
) -> Batch:
    """Pack sequences into rows, none cut or left out, as `layout` says.

    groups: an index for each sequence, carried along to its positions
    read: what the model reads in place of each sequence's ids; the labels stay the sequence's own
    """
    read = read if read is not None else [sequence.ids for sequence in sequences]
    groups = groups if groups is not None else [0] * len(sequences)
    rows, capacity = layout([len(sequence) for sequence in sequences])
    shape = (len(rows), capacity)
    input_ids, labels = torch.full(shape, pad_id), torch.full(shape, IGNORE)
    segments, positions, owners = (torch.zeros(shape, dtype=torch.long) for _ in range(3))
    for row, members in enumerate(rows):
        start = 0
        for segment, i in enumerate(members, start=1):
            ids, is_target = torch.from_numpy(sequences[i].ids), torch.from_numpy(sequences[i].is_target)
            span = slice(start, start + len(ids))
            input_ids[row, span] = torch.from_numpy(read[i])
            labels[row, span] = torch.where(is_target, ids, IGNORE)
            segments[row, span] = segment
            positions[row, span] = torch.arange(len(ids))
            owners[row, span] = groups[i]
            start += len(ids)
    return Batch(input_ids, labels, segments, positions, owners)


class Lines(NamedTuple):
    """Lines of several lengths that end at the same step. is_real: false in the padding before them; mask: true where a step may look"""

    ids: Int[Tensor, "b s"]
    position_ids: Int[Tensor, "b s"]
    is_real: Bool[Tensor, "b s"]
    mask: Bool[Tensor, "b 1 s s"]


def pad_left(lines: Sequence[Int[Tensor, "_"]], pad_id: int) -> Lines:
    """Lines as a batch to be gone on from. Padding has position 0 and is looked at by nothing but itself, lest softmax divide by 0.

    >>> made = pad_left([torch.tensor([5, 6, 7]), torch.tensor([8])], pad_id=0)
    >>> made.ids.tolist(), made.position_ids.tolist()
    ([[5, 6, 7], [0, 0, 8]], [[0, 1, 2], [0, 0, 0]])
    """
    width = max(map(len, lines))
    ids = torch.stack([F.pad(line, (width - len(line), 0), value=pad_id) for line in lines])
    lengths = torch.tensor([len(line) for line in lines])
    steps = torch.arange(width)
    is_real = steps >= width - lengths[:, None]
    mask = (is_real[:, None] & (steps[:, None] >= steps)) | torch.eye(width, dtype=torch.bool)
    return Lines(ids, (is_real.cumsum(1) - 1).clamp(min=0), is_real, mask[:, None])


class Layout(NamedTuple):
    """rows: indices of the sequences in each; capacity: tokens in the fullest row, so in all of them."""

    rows: list[list[int]]
    capacity: int

    @property
    def cost(self) -> float:
        """Tokens computed, and what their attention costs: on a CPU rows of 900 tokens take twice as long a token as the shortest
        (measured on the miniature: 0.38 s for 24 rows of 64, 0.42 for 8 of 192, 0.55 for 3 of 512, 1.00 for 1 of 1,536)."""
        return len(self.rows) * self.capacity * (1 + self.capacity / 900)


def layout(lengths: Sequence[int]) -> Layout:
    """Rows for sequences of these lengths: as many rows, of about one to five of the longest, as cost least.

    >>> layout([300, 200, 100, 200, 300])
    Layout(rows=[[0, 2], [4], [1, 3]], capacity=400)
    """
    longest, total = max(lengths), sum(lengths)
    counts = range(max(1, total // (5 * longest)), total // longest + 1)
    some = counts[:: max(1, len(counts) // 32)]  # of many numbers of rows neighbours differ little
    return min((_spread(lengths, count) for count in some), key=lambda found: found.cost)


def _spread(lengths: Sequence[int], count: int) -> Layout:
    """Longest first, each into the emptiest row (Graham 1969): within a token or two of the best for packing's lengths."""
    rows: list[list[int]] = [[] for _ in range(count)]
    used = [(0, row) for row in range(count)]
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        filled, row = used[0]
        rows[row].append(i)
        heapq.heapreplace(used, (filled + lengths[i], row))
    return Layout(rows, max(used)[0])
