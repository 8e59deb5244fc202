"""Pieces of error lines: what another library said, and what a misspelt name was perhaps meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST = 200  # characters: a library may say pages


def in_short(said: object) -> str:
    """Another library's error, or its words, as a part of one line.

    >>> in_short(ValueError("no such file:\\n    model.yaml"))
    'no such file: model.yaml'
    """
    line = " ".join(str(said).split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"


def perhaps(name: str, known: Iterable[str]) -> str:
    """A clause for an error line that names the nearest known name; empty where none is near.

    >>> perhaps("stepz", ["steps", "seed"])
    " (perhaps 'steps'?)"
    >>> perhaps("x", ["steps"])
    ''
    """
    found = difflib.get_close_matches(name, known, n=1)
    return f" (perhaps '{found[0]}'?)" if found else ""
