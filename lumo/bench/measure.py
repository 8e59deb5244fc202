"""What a comparison is made of: turns that alternate, ratios with their spread, peak memory."""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from lumo.machine import status_bytes, synchronise


class Disagreement(RuntimeError):
    """Two ways of computing the same thing gave different results: their speeds mean nothing."""


@dataclass(frozen=True)
class Goal:
    """At least or at most a number, which is given as it is to be read.

    >>> goal = Goal("≤", "1/3", "of the memory")
    >>> str(goal), goal.is_reached(0.3), goal.is_reached(0.4)
    ('≤ 1/3 of the memory', True, False)
    """

    sign: Literal["≥", "≤"]
    bound: str
    unit: str = ""

    def __str__(self) -> str:
        return f"{self.sign} {self.bound} {self.unit}".rstrip()

    def is_reached(self, ratio: float) -> bool:
        bound = float(Fraction(self.bound))
        return ratio >= bound if self.sign == "≥" else ratio <= bound


class Measured(NamedTuple):
    """ratio: how many times better than what it is held against; low, high: over the rounds. None where it wasn't measured."""

    ratio: float | None = None
    low: float | None = None
    high: float | None = None


NOT_MEASURED = Measured()


@dataclass(frozen=True)
class Comparison:
    """One row of the table. figures: what the ratio is made of"""

    name: str
    what: str
    against: str
    goal: Goal | None = None
    measured: Measured = NOT_MEASURED
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        return self.measured.ratio

    @property
    def reached(self) -> bool | None:
        """None without a goal, or a measurement."""
        return None if self.goal is None or self.ratio is None else self.goal.is_reached(self.ratio)

    def as_row(self) -> dict[str, Any]:
        """A line to show."""
        ratio, low, high = self.measured
        return {
            "what": self.what,
            "against": self.against,
            "goal": str(self.goal or ""),
            "median": "not measured" if ratio is None else f"{ratio:.3g}",
            "spread": "" if low is None else f"{low:.3g} to {high:.3g}",
            "reached": {None: "", True: "yes", False: "no"}[self.reached],
        }

    def as_dict(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "against": self.against,
            "goal": str(self.goal or ""),
            **self.measured._asdict(),
            "reached": self.reached,
            "figures": self.figures,
        }


def alternate(sides: Mapping[str, Callable[[], Any]], rounds: int, device: str = "cpu") -> dict[str, list[float]]:
    """Seconds of each side, round by round, after one round that isn't counted. Every other round goes backwards, so that a machine
    that slows down slows both sides."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name in list(sides)[:: 1 if number % 2 else -1]:
            synchronise(device)
            began = time.perf_counter()
            sides[name]()
            synchronise(device)
            if number:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def ratios(ours: list[float], theirs: list[float], scale: float = 1.0) -> Measured:
    """Median, smallest and largest of theirs over ours, round by round.

    scale: how much more work ours did

    >>> ratios([1.0, 2.0, 1.0], [4.0, 4.0, 5.0])
    Measured(ratio=4.0, low=2.0, high=5.0)
    """
    each = [scale * b / a for a, b in zip(ours, theirs, strict=True)]
    return Measured(statistics.median(each), min(each), max(each))


def operations(work: Callable[[], Any]) -> int:
    """Floating-point operations of the products in a piece of work, those of attention over whole rows among them.

    torch counts attention for CUDA's kernels and takes a CPU's for none (2.13).
    """
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    formulas = {
        attention: lambda query, key, value, *rest, **named: sdpa_flop_count(query, key, value),
        backward: lambda grad, query, key, value, *rest, **named: sdpa_backward_flop_count(grad, query, key, value),
    }
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        work()
    return counter.get_total_flops()


def peak_bytes(work: Callable[[], Any], device: str = "cpu") -> int | None:
    """Memory that a piece of work takes at its peak, above what was held before; None where the system doesn't tell."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    if status_bytes("VmRSS") is None:
        return None
    ctypes.CDLL(None).malloc_trim(0)  # give freed memory back, or the peak hides in it
    try:
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    except OSError:
        return None
    before = status_bytes("VmRSS")
    work()
    return status_bytes("VmHWM") - before
