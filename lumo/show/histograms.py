"""Histograms: a panel for each name, all on the same bins, so that none covers another.

Axes: n distinct value · edges, of bins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lumo.show.figures import COLOURS, blank_figure, image_of, name_axes
from lumo.show.page import Page, beside, note, plain, tag, title_line
from lumo.show.tables import format_value, text_table

_WIDTH_PX, _HEIGHT_PX = 310, 180


@dataclass(frozen=True)
class _Counted:
    """Finite numbers, and how many there are of each; lost: those that aren't finite."""

    numbers: Float[np.ndarray, "n"]
    counts: Float[np.ndarray, "n"]
    lost: int

    @classmethod
    def of(cls, values: Sequence[float] | Mapping[float, int]) -> _Counted:
        numbers = np.array(list(values), dtype=float).ravel()
        counts = np.array(list(values.values()) if isinstance(values, Mapping) else np.ones(len(numbers)), dtype=float)
        finite = np.isfinite(numbers)
        return cls(numbers[finite], counts[finite], int(counts[~finite].sum()))

    def above(self, limit: float) -> int:
        return int(self.counts[self.numbers > limit].sum())

    def in_words(self, limit: tuple[str, float] | None) -> str:
        words = "no values"
        if total := int(self.counts.sum()):
            mean = np.average(self.numbers, weights=self.counts)
            low, mean, high = (format_value(float(value)) for value in (self.numbers.min(), mean, self.numbers.max()))
            words = f"{total} values, " + (f"{low} to {high}, mean {mean}" if low != high else f"all {low}")
        words += f", {self.lost} not finite" if self.lost else ""
        return words + (f", {self.above(limit[1])} above {limit[0]} {format_value(limit[1])}" if limit else "")


def histogram(
    values: Mapping[str, Sequence[float] | Mapping[float, int]],
    title: str = "",
    x: str = "",
    bins: int = 30,
    limit: tuple[str, float] | None = None,
) -> Page:
    """How often which value occurs; where all are the same, words say so and nothing is drawn.

    values: name → numbers, or number → how many of it, which is all that need be kept of a million rows; those that are
        not finite are left out of the picture and counted in words
    limit: its name and its value: what lies above has another colour, and is counted in words
    """
    counted = {name: _Counted.of(some) for name, some in values.items()}
    words = {name: plain(some.in_words(limit)) for name, some in counted.items()}
    distinct = np.unique(np.concatenate([*(some.numbers for some in counted.values()), np.zeros(0)]))
    edges = _edges(distinct, bins) if len(distinct) > 1 else None
    panels = []
    for name, some in counted.items():
        unit = f"{plain(x)}: " if plain(x) and edges is None else ""  # a picture has it at its axis
        drawn = _panel(some, edges, x, limit, f"{name}: {words[name]}") if edges is not None else ""
        panel = title_line(name) + drawn + note(unit + words[name]).html
        panels.append(Page(tag("div", panel, style=f"max-width:{_WIDTH_PX}px"), ""))
    text = text_table(["", plain(x) or "value"], [[plain(name), line] for name, line in words.items()])
    return Page(title_line(title) + beside(*panels).html, "\n".join(filter(None, [plain(title), text])))


def _edges(distinct: Float[np.ndarray, "n"], bins: int) -> Float[np.ndarray, "edges"]:
    """Edges of bins. Those of whole numbers all hold as many: bins of 1.3 would draw a comb that isn't there."""
    low, high = distinct[0], distinct[-1]
    if not np.array_equal(distinct, np.round(distinct)):
        return np.linspace(low, high, bins + 1)
    width = -(-(high - low + 1) // bins)
    return np.arange(low - 0.5, high + width, width)


def _panel(some: _Counted, edges: Float[np.ndarray, "edges"], x: str, limit: tuple[str, float] | None, alt: str) -> str:
    """HTML of one panel. The limit is drawn if the picture needn't be more than half as wide again for it."""
    figure, axes = blank_figure(_WIDTH_PX, _HEIGHT_PX, fonts=7.0)
    axes.set_position((0.16, 0.24, 0.81, 0.7))
    name_axes(axes, x, "count")
    above = some.numbers > limit[1] if limit else np.zeros(len(some.numbers), dtype=bool)
    under, _ = np.histogram(some.numbers[~above], edges, weights=some.counts[~above])
    over, _ = np.histogram(some.numbers[above], edges, weights=some.counts[above])
    axes.stairs(under, edges, color=COLOURS[0], fill=True, alpha=0.8)
    axes.stairs(under + over, edges, baseline=under, color=COLOURS[1], fill=True, alpha=0.8)
    left, right = edges[0], edges[-1]
    if limit and left - (right - left) / 2 <= limit[1] <= right + (right - left) / 2:
        axes.axvline(limit[1], color=COLOURS[1], linestyle="dashed", linewidth=1.2)
    return image_of(figure, alt, _WIDTH_PX)
