"""How long a task's sequences are, and what a limit drops: counted as samples pass by, so that memory doesn't grow with their number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lumo.shards import Sample
from lumo.space import TokenSpace
from lumo.tasks import TASKS, Task

AROUND = (0.5, 0.75, 1, 1.5, 2)  # a limit, and others that one might take instead
NOTHING = np.zeros(0, dtype=np.int64)


@dataclass
class Lengths:
    """Lengths of one task's sequences.

    whole: length → how many have it; least: length → how many come down to it when all but one token of an input text is cut
    """

    whole: Counter[int] = field(default_factory=Counter)
    least: Counter[int] = field(default_factory=Counter)

    def dropped(self, max_seq_len: int, shorten_inputs: bool = False) -> int:
        """How many sequences `tasks.build_pools` would leave out."""
        lengths = self.least if shorten_inputs else self.whole
        return sum(count for length, count in lengths.items() if length > max_seq_len)

    def shortened(self, max_seq_len: int) -> int:
        """How many sequences `tasks.build_pools` would cut the input text of, if it may."""
        return self.dropped(max_seq_len) - self.dropped(max_seq_len, shorten_inputs=True)

    def kept(self, max_seq_len: int, shorten_inputs: bool = False) -> Counter[int]:
        """The sequences that would be left: length → how many."""
        fit = Counter({length: count for length, count in self.whole.items() if length <= max_seq_len})
        if shorten_inputs and (shortened := self.shortened(max_seq_len)):
            fit[max_seq_len] += shortened
        return fit

    def percentile(self, percent: float) -> int:
        """The shortest length that so many per cent of the sequences don't exceed; 0 where there are none.

        >>> Lengths(Counter({10: 3, 20: 1})).percentile(75), Lengths(Counter({10: 3, 20: 1})).percentile(76)
        (10, 20)
        """
        seen, wanted = 0, percent / 100 * self.whole.total()
        for length in sorted(self.whole):
            seen += self.whole[length]
            if seen >= wanted:
                return length
        return 0


def task_lengths(samples: Iterable[Sample], names: Sequence[str], space: TokenSpace) -> dict[str, Lengths]:
    """For each task the lengths of its sequences, in one pass."""
    lengths = {name: Lengths() for name in names}
    frames = {name: _frame(TASKS[name], space) for name in names}
    for sample in samples:
        for name in names:
            task = TASKS[name]
            if task.fits(sample):
                whole = frames[name] + sum(len(line) for line in sample.ids.values())
                spare = max(0, len(sample.ids["text"]) - 1) if "text" in task.inputs else 0
                lengths[name].whole[whole] += 1
                lengths[name].least[whole - spare] += 1
    return lengths


def _frame(task: Task, space: TokenSpace) -> int:
    """Tokens that a task's sequence has besides its samples'."""
    return len(task.sequence(dict.fromkeys((*task.inputs, task.target), NOTHING), space))


def drop_table(lengths: Mapping[str, Lengths], max_seq_len: int, shorten_inputs: bool = False) -> list[dict[str, Any]]:
    """For each task its lengths, and how many of its sequences the limit and others around it drop."""
    limits = [round(max_seq_len * share) for share in AROUND]
    return [
        {"task": name, "sequences": found.whole.total()}
        | {f"{percent} % up to": found.percentile(percent) for percent in (50, 95, 99, 100)}
        | {f"dropped at {limit}": found.dropped(limit, shorten_inputs) for limit in limits}
        for name, found in lengths.items()
    ]


def drop_line(lengths: Mapping[str, Lengths], max_seq_len: int, shorten_inputs: bool = False) -> str:
    """What a limit drops of which task, in one line.

    >>> drop_line({"t2a": Lengths(Counter({10: 3, 20: 1})), "i2t": Lengths(Counter({5: 1}))}, 15)
    'max_seq_len 15 drops 1 of 4 t2a (25 %)'
    """
    said = []
    for name, found in lengths.items():
        if count := found.dropped(max_seq_len, shorten_inputs):
            total = found.whole.total()
            said.append(f"{count} of {total} {name} ({100 * count / total:.3g} %)")
    return f"max_seq_len {max_seq_len} drops {', '.join(said) or 'no sequence'}"
