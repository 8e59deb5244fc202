"""Line plots and interval bars, and what other figures are made with.

Figures are matplotlib's own `Figure` objects, never pyplot: widget callbacks run beside the cells and corrupt pyplot's
current figure. Names stand in the HTML around a figure, where they are escaped, can be copied, and have every glyph.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lumo.show.page import MUTED, Page, data_uri, escape, plain, tag, title_line
from lumo.show.tables import format_value, table, text_table

# Okabe and Ito's colours that are seen on white and on black, told apart by the colour-blind (jfly.uni-koeln.de/color)
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_DASHES = ("solid", "dashed", "dotted")
_INK = "#808080"  # reads on light and on dark; figures have no ground of their own
_WIDTH_PX, _HEIGHT_PX = 620, 280
_KEY = "display:inline-block;width:18px;vertical-align:middle;margin:0 6px 0 0"


def curves(
    series: Mapping[str, Sequence[tuple[float, float]]],
    title: str = "",
    x: str = "",
    y: str = "",
    log_y: bool = False,
) -> Page:
    """Lines over a common axis; the legend gives the first and the last value of each.

    series: name → (x, y) points, in order; a y that is not finite leaves a gap and is counted in the legend
    x, y: names of the axes, with their units; log_y: logarithmic y axis
    """
    figure, axes = blank_figure(_WIDTH_PX, _HEIGHT_PX, fonts=9.0)  # still read where a phone shrinks it
    keys, lines = [], []
    for index, (name, points) in enumerate(series.items()):
        values = np.asarray(points, dtype=float).reshape(-1, 2)
        colour, dash = COLOURS[index % len(COLOURS)], _DASHES[index // len(COLOURS) % len(_DASHES)]
        few = "o" if len(values) < 25 else None
        axes.plot(values[:, 0], values[:, 1], color=colour, linestyle=dash, linewidth=1.4, marker=few, markersize=3)
        keys.append((colour, dash, name, _first_to_last(values[:, 1])))
        lines.append([plain(name), _first_to_last(values[:, 1])])
    if log_y:
        axes.set_yscale("log")
    name_axes(axes, x, y)
    text = "\n".join(filter(None, [plain(title), text_table(["", f"{plain(y) or 'value'}, first → last"], lines)]))
    return Page(title_line(title) + image_of(figure, text, _WIDTH_PX) + legend(keys), text)


def bars(
    arms: Mapping[str, tuple[float, float, float]],
    title: str = "",
    x: str = "",
    reference: float = 0.0,
) -> Page:
    """Means with their intervals, one arm a row, on one scale with a line at `reference`.

    arms: name → (mean, low, high), low ≤ mean ≤ high
    Raises ValueError for an interval that doesn't hold its mean.
    """
    for name, (mean, low, high) in arms.items():
        if not low <= mean <= high:
            raise ValueError(f"arm {name!r} has mean {mean} and interval [{low}, {high}], expected low ≤ mean ≤ high")
    finite = [value for arm in arms.values() for value in arm if math.isfinite(value)] + [reference]
    least, most = min(finite), max(finite)
    margin = 0.05 * (most - least) or 1.0
    scale = (least - margin, most + margin)
    rows = [
        [name, mean, low, high, Page(_whisker(arm, reference, scale), "")]
        for name, arm in arms.items()
        for mean, low, high in [arm]
    ]
    columns = ["arm", "mean", "low", "high", plain(x)]
    drawn = table(rows, columns, title)
    # the drawn column says nothing in text
    words = text_table(
        columns[:4], [[plain(row[0]), *map(format_value, row[1:4])] for row in rows], [False, True, True, True]
    )
    head = " · ".join(filter(None, [plain(title), plain(x)]))
    limits = f"scale {format_value(scale[0])} to {format_value(scale[1])}, line at {format_value(reference)}"
    limits += "; orange: the interval holds the line"
    return Page(drawn.html + tag("div", escape(limits), style=MUTED), "\n".join(filter(None, [head, words])))


def _whisker(arm: tuple[float, float, float], reference: float, scale: tuple[float, float]) -> str:
    """One arm as a tiny SVG: line at the reference, whisker, dot."""
    width, middle = 260, 9
    if not all(map(math.isfinite, arm)):
        return "not finite"

    def place(value: float) -> str:
        return f"{(value - scale[0]) / (scale[1] - scale[0]) * width:.1f}"

    mean, low, high = map(place, arm)
    line, colour = place(reference), COLOURS[0] if arm[1] > reference or arm[2] < reference else COLOURS[4]
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="18">'
        f'<path d="M{line} 0V18" stroke="{_INK}" stroke-dasharray="2 2"/>'
        f'<path d="M{low} {middle}H{high}M{low} 5V13M{high} 5V13" stroke="{colour}" stroke-width="1.6"/>'
        f'<circle cx="{mean}" cy="{middle}" r="3.5" fill="{colour}"/></svg>'
    )
    return tag(
        "img",
        src=data_uri(svg.encode(), "image/svg+xml"),
        alt=f"{format_value(arm[0])}, {format_value(arm[1])} to {format_value(arm[2])}",
        width=width,
        height=18,
        style="max-width:none;margin:0;vertical-align:middle",
    )


def blank_figure(width_px: int, height_px: int, fonts: float) -> tuple[Figure, Axes]:
    """A see-through figure with bare grey axes; sizes are CSS pixels, `fonts` points at 100 dots per inch."""
    figure = Figure(figsize=(width_px / 100, height_px / 100), facecolor="none")
    axes = figure.add_axes((0.09, 0.17, 0.89, 0.78), facecolor="none")
    axes.tick_params(colors=_INK, labelsize=fonts, width=0.6, length=2.5, pad=2)
    for side, spine in axes.spines.items():
        spine.set(color=_INK, linewidth=0.6, visible=side in ("left", "bottom"))
    axes.xaxis.label.set(color=_INK, fontsize=fonts, parse_math=False)
    axes.yaxis.label.set(color=_INK, fontsize=fonts, parse_math=False)
    return figure, axes


def figure_uri(figure: Figure, kind: str) -> str:
    """The figure as a data URI: `png` for lines, `webp` (lossy, a few KB) for spectrograms."""
    buffer = io.BytesIO()
    options = {"pil_kwargs": {"quality": 80, "method": 4}} if kind == "webp" else {}
    figure.savefig(buffer, format=kind, dpi=150, **options)
    return data_uri(buffer.getvalue(), f"image/{kind}")


def name_axes(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(plain(x))
    axes.set_ylabel(plain(y))
    axes.grid(True, color=_INK, alpha=0.25, linewidth=0.5)


def legend(keys: Sequence[tuple[str, str, str, str]]) -> str:
    """HTML that says which line is which: (colour, dash, name, words) each."""
    lines = (
        tag("span", style=f"{_KEY};border-top:3px {dash} {colour}")
        + escape(name)
        + tag("span", escape(f"  {words}"), style="opacity:0.7;white-space:pre")
        for colour, dash, name, words in keys
    )
    return tag(
        "div",
        "".join(tag("div", line, style="margin:0 18px 0 0") for line in lines),
        style="display:flex;flex-wrap:wrap",
    )


def image_of(figure: Figure, alt: str, width_px: int) -> str:
    """HTML of a figure, loaded when it is looked at; it shrinks on a small screen."""
    return tag(
        "img",
        src=figure_uri(figure, "png"),
        alt=alt,
        width=width_px,
        loading="lazy",
        style="max-width:100%;height:auto;margin:0;display:block",
    )


def _first_to_last(values: np.ndarray) -> str:
    if not len(values):
        return "no points"
    lost = int((~np.isfinite(values)).sum())
    words = f"{format_value(values[0])} → {format_value(values[-1])}"
    return words + (f", {lost} of {len(values)} not finite" if lost else "")
