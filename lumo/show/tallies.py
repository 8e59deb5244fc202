"""Tables of counts, each with a bar: how much there is of what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

from lumo.show.figures import COLOURS, legend
from lumo.show.page import Page, data_uri, tag
from lumo.show.tables import table

_WIDTH_PX, _HEIGHT_PX, _LETTERS = 160, 12, 20
Rows = list[tuple[tuple[str, ...], dict[str, int]]]  # names, and how many of each series


def tally(
    counts: Mapping[Any, int],
    columns: Sequence[str],
    title: str = "",
    what: str = "rows",
    across: Sequence[str] = (),
    most: int = 20,
) -> Page:
    """How many there are of each, most first, with their share of all and a bar.

    counts: a name, or a tuple of one name a column → how many
    columns: what the names are; what: is counted
    across: series, in order; the last of the names is one of them, or another, and each gets a column of numbers and a colour; `columns` is without it
    most: rows that are shown; all others make one more, so that numbers add up
    """
    series = list(dict.fromkeys([*across, *(key[-1] for key in counts)])) if across else [what]
    rows = _most_first(counts, bool(across), what, most)
    total, longest = sum(counts.values()), max((sum(own.values()) for _, own in rows), default=0)
    lines = []
    for names, own in rows:
        numbers = [own.get(name, 0) for name in series]
        lines.append([*names, *numbers, round(100 * sum(numbers) / max(1, total), 1), _bar(numbers, longest)])
    page = table(lines, [*columns, *series, "share, %", ""], title)
    keys = legend([(colour, "solid", name, "") for name, colour in zip(series, cycle(COLOURS), strict=False)])
    return Page(page.html + keys, page.text) if across else page


def _most_first(counts: Mapping[Any, int], has_series: bool, what: str, most: int) -> Rows:
    grouped: dict[tuple[str, ...], dict[str, int]] = {}
    for key, count in counts.items():
        names = key if isinstance(key, tuple) else (key,)
        names, series = (names[:-1], names[-1]) if has_series else (names, what)
        _add(grouped.setdefault(names, {}), {series: count})
    rows = sorted(grouped.items(), key=lambda row: (-sum(row[1].values()), row[0]))
    shown, others = rows[:most], rows[most:]
    if others:
        sums: dict[str, int] = {}
        for _, own in others:
            _add(sums, own)
        shown.append(((f"{len(others)} others", *[""] * (len(others[0][0]) - 1)), sums))
    return shown


def _add(sums: dict[str, int], more: Mapping[str, int]) -> None:
    for name, count in more.items():
        sums[name] = sums.get(name, 0) + count


def _bar(numbers: Sequence[int], longest: int) -> Page:
    """Numbers as coloured stretches of one line, at most `longest`; in text one line of blocks."""
    at, stretches = 0.0, ""
    for number, colour in zip(numbers, cycle(COLOURS), strict=False):
        width = max(1.0, number / longest * _WIDTH_PX) if number else 0  # a few of many are to be seen too
        stretches += f'<path d="M{at:.1f} 1H{at + width:.1f}V11H{at:.1f}z" fill="{colour}"/>' if number else ""
        at += width
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH_PX}" height="{_HEIGHT_PX}">{stretches}</svg>'
    image = tag(
        "img",
        src=data_uri(svg.encode(), "image/svg+xml"),
        alt=" + ".join(map(str, numbers)),
        width=_WIDTH_PX,
        height=_HEIGHT_PX,
        style="max-width:none;margin:0;vertical-align:middle",
    )
    return Page(image, "█" * round(sum(numbers) / max(1, longest) * _LETTERS))
