"""Tables, and the two-column box of facts."""

from __future__ import annotations

import math
import numbers
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lumo.show.page import FAIL_COLOUR, LINE, MUTED, Page, escape, plain, tag, title_line

Row = Mapping[str, Any] | Sequence[Any]

_TABLE = "font-size:12px;border-collapse:collapse;table-layout:auto;margin:0;border:0"
_CELL = f"padding:3px 10px 3px 4px;border:0;border-bottom:{LINE};vertical-align:top;white-space:pre-wrap"
_FACT = "font-family:monospace;white-space:pre-wrap;max-width:680px;overflow-wrap:break-word"
_FAILED = "background-color:rgba(217,72,15,0.14)"


def table(
    rows: Sequence[Row],
    columns: Sequence[str] | None = None,
    caption: str = "",
    failed: Sequence[bool] | None = None,
) -> Page:
    """Rows as a table; in text, as aligned columns.

    rows: mappings (column → cell; a column that is missing stays empty) or sequences (a cell for each column). A cell
        is a plain value, escaped and, where a column holds only numbers, aligned right; or a `Page`, shown as it is.
    columns: names in order; None takes the mappings' keys in order of appearance
    failed: for each row, whether to mark it
    Raises ValueError for a row of another length than `columns`, and for sequences without `columns`.
    """
    names = list(columns) if columns is not None else _names(rows)
    cells = [_cells(row, names, index) for index, row in enumerate(rows)]
    marks = [bool(mark) for mark in failed] if failed is not None else [False] * len(cells)
    if len(marks) != len(cells):
        raise ValueError(f"a table of {len(cells)} rows has {len(marks)} marks in failed, expected one a row")
    right = [_is_numeric([row[index] for row in cells]) for index in range(len(names))]
    head = tag("thead", tag("tr", "".join(_head(name, to_right) for name, to_right in zip(names, right, strict=True))))
    body = "".join(_row(row, right, mark) for row, mark in zip(cells, marks, strict=True))
    empty = "" if cells else tag("div", "no rows", style=MUTED)
    html = title_line(caption) + tag("table", head + tag("tbody", body), style=_TABLE) + empty
    words = [[cell.text if isinstance(cell, Page) else plain(format_value(cell)) for cell in row] for row in cells]
    text = text_table(list(map(plain, names)), words, right) + ("" if cells else "\nno rows")
    return Page(html, f"{plain(caption)}\n{text}" if plain(caption) else text)


def facts(values: Mapping[str, Any], title: str = "") -> Page:
    """Names and values in a two-column box: what a run was made from.

    values: name → plain value or `Page`; mappings inside are written out as `outer.inner`
    """
    flat = list(_flatten(values))
    body = "".join(
        tag(
            "tr",
            tag(
                "td",
                escape(name),
                style="padding:1px 16px 1px 10px;border:0;opacity:0.7;text-align:left;vertical-align:top",
            )
            + tag(
                "td",
                value.html if isinstance(value, Page) else tag("div", escape(format_value(value)), style=_FACT),
                style="padding:1px 10px 1px 0;border:0;text-align:left;vertical-align:top",
            ),
            style="background:transparent",
        )
        for name, value in flat
    )
    box = tag("table", tag("tbody", body), style=f"{_TABLE};border:{LINE};border-radius:4px")
    words = [
        [plain(name), value.text if isinstance(value, Page) else plain(format_value(value))] for name, value in flat
    ]
    width = max((_width(name) for name, _ in words), default=0)
    lines = [_pad(name, width, False) + "  " + value.replace("\n", "\n" + " " * (width + 2)) for name, value in words]
    return Page(title_line(title) + box, "\n".join(([plain(title)] if plain(title) else []) + lines))


def format_value(value: Any) -> str:
    """A plain value in the fewest characters that say it.

    >>> [format_value(value) for value in (3, 0.123456, 61234.5, 1e-5, float("nan"), True, None, 20261120, [0.123456, 2])]
    ['3', '0.1235', '61234', '1.00e-05', 'nan', 'yes', '–', '20261120', '[0.1235, 2]']
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None:
        return "–"
    if is_bool(value):
        return "yes" if value else "no"
    if isinstance(value, float):
        size = abs(value)
        if not math.isfinite(value) or (value == int(value) and size < 1e9):
            return f"{value:g}" if size < 1e4 or not math.isfinite(value) else f"{value:.0f}"
        if 1e-3 <= size < 1e4:
            return f"{value:.4g}"
        return f"{value:.0f}" if 1e4 <= size < 1e9 else f"{value:.2e}"
    if isinstance(value, list | tuple):  # an interval
        return f"[{', '.join(map(format_value, value))}]"
    return str(value)


def size(count: int) -> str:
    """Bytes as one reads them.

    >>> size(812), size(3 * 2**20), size(5 * 2**30)
    ('812 B', '3.0 MiB', '5.0 GiB')
    """
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} B"


def is_bool(value: Any) -> bool:
    """Whether the value is Python's or numpy's own boolean."""
    return isinstance(value, bool | np.bool_)


def text_table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool] | None = None) -> str:
    """Strings as aligned columns; a cell may have several lines.

    >>> print(text_table(["arm", "loss"], [["correct", "3.1"], ["empty", "12.4"]], [False, True]))
    arm      loss
    -------  ----
    correct   3.1
    empty    12.4
    """
    right = right or [False] * len(columns)
    split = [[cell.split("\n") for cell in row] for row in rows]
    widths = [
        max([_width(name), *(_width(line) for row in split for line in row[index])])
        for index, name in enumerate(columns)
    ]
    lines = [[columns[index] for index in range(len(columns))], ["-" * width for width in widths]]
    for row in split:
        for height in range(max((len(cell) for cell in row), default=0)):
            lines.append([cell[height] if height < len(cell) else "" for cell in row])
    return "\n".join(
        "  ".join(
            _pad(cell, width, to_right) for cell, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )


def _names(rows: Sequence[Row]) -> list[str]:
    if any(not isinstance(row, Mapping) for row in rows):
        raise ValueError("rows without column names: give columns, or rows that are mappings")
    return list(dict.fromkeys(name for row in rows for name in row))


def _cells(row: Row, names: Sequence[str], index: int) -> list[Any]:
    if isinstance(row, Mapping):
        return [row.get(name, "") for name in names]
    if len(row) != len(names):
        raise ValueError(f"row {index} has {len(row)} cells, expected {len(names)}: {', '.join(map(str, names))}")
    return list(row)


def _is_numeric(cells: Sequence[Any]) -> bool:
    filled = [cell for cell in cells if cell is not None and cell != ""] if cells else []
    return bool(filled) and all(isinstance(cell, numbers.Real) and not is_bool(cell) for cell in filled)


def _head(name: str, to_right: bool) -> str:
    side = "right" if to_right else "left"
    return tag("th", escape(name), style=f"{_CELL};text-align:{side};font-weight:600;opacity:0.8;white-space:nowrap")


def _row(cells: Sequence[Any], right: Sequence[bool], mark: bool) -> str:
    made = []
    for index, (cell, to_right) in enumerate(zip(cells, right, strict=True)):
        side = "right" if to_right else "left"
        edge = f";border-left:4px solid {FAIL_COLOUR}" if mark and index == 0 else ""
        inner = cell.html if isinstance(cell, Page) else escape(format_value(cell))
        made.append(tag("td", inner, style=f"{_CELL};text-align:{side}{edge}"))
    return tag("tr", "".join(made), style=_FAILED if mark else "background:transparent")


def _flatten(values: Mapping[str, Any], above: str = "") -> Any:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _width(text: str) -> int:
    """Columns of a terminal: Chinese and Japanese characters take two, combining marks none."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def _pad(text: str, width: int, to_right: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if to_right else text + space
