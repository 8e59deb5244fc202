"""Figures of a run: one file a notebook in `metrics/`, and all of them together in `metrics.json`.

Figures that are not finite are results too, and JSON has no word for them: they are written as the text "nan", "inf" or
"-inf". Every file is written whole or not at all.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lumo.files import write_atomically
from lumo.params import dotted
from lumo.workbook.errors import WorkbookError
from lumo.workbook.folders import read_json


def nested(figures: Mapping[str, Any]) -> dict:
    """Dotted keys opened up, values made plain.

    >>> nested({"golden.t2a": {"cases": 64, "hits": (1, 2)}, "golden.loss": float("nan")})
    {'golden': {'t2a': {'cases': 64, 'hits': [1, 2]}, 'loss': 'nan'}}
    """
    result: dict = {}
    for key, value in figures.items():
        if not isinstance(key, str):
            raise WorkbookError(f"a figure is named {key!r}, expected text")
        result = merged(result, dotted(key, _plain(key, value)))
    return result


def _plain(key: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return nested(value)
    if isinstance(value, (list, tuple)):
        return [_plain(key, item) for item in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy's and torch's numbers and arrays
        return _plain(key, value.tolist())
    raise WorkbookError(f"figure '{key}' is {type(value).__name__}, expected a number, text, list or mapping")


def merged(base: dict, more: dict, where: str = "") -> dict:
    """Figures of both; more wins. A number and a group of the same name would lose one of them, so that is refused."""
    result = dict(base)
    for key, value in more.items():
        if key in result and isinstance(result[key], dict) != isinstance(value, dict):
            raise WorkbookError(f"figure '{where}{key}' is both a value and a group of figures; rename one")
        result[key] = (
            merged(result[key], value, f"{where}{key}.") if isinstance(value, dict) and key in result else value
        )
    return result


def part_path(folder: Path, part: str) -> Path:
    """One notebook's figures."""
    return folder / "metrics" / f"{part}.json"


def read_part(folder: Path, part: str) -> dict:
    return read_json(part_path(folder, part))


def write_part(folder: Path, part: str, figures: dict) -> None:
    """Replace one notebook's figures and rebuild metrics.json."""
    together = _together(folder, {part: figures})
    write_atomically(part_path(folder, part), _json(figures))
    write_atomically(folder / "metrics.json", _json(together))


def rebuild(folder: Path) -> None:
    """metrics.json anew from the notebooks' own figures: a damaged one may have been removed, as its error line says."""
    write_atomically(folder / "metrics.json", _json(_together(folder, {})))


def _together(folder: Path, new: Mapping[str, dict]) -> dict:
    """The figures of all notebooks; new: in the place of what they have written."""
    names = sorted({path.stem for path in (folder / "metrics").glob("*.json")} | new.keys())
    together: dict = {}
    for name in names:
        together = merged(together, new[name] if name in new else read_part(folder, name))
    return together


def read_metrics(folder: Path) -> dict:
    """All figures of a run; empty before the first."""
    return read_json(folder / "metrics.json")


def at(figures: dict, key: str) -> Any:
    """The value under a dotted key, or None.

    >>> at({"golden": {"t2a": {"cases": 64}}}, "golden.t2a.cases")
    64
    """
    value: Any = figures
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _json(figures: dict) -> str:
    return json.dumps(figures, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
