"""What a misspelt name was perhaps meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def perhaps(name: str, known: Iterable[str]) -> str:
    """A clause for an error line that names the nearest known name; empty where none is near.

    >>> perhaps("stepz", ["steps", "seed"])
    " (perhaps 'steps'?)"
    >>> perhaps("x", ["steps"])
    ''
    """
    found = difflib.get_close_matches(name, known, n=1)
    return f" (perhaps '{found[0]}'?)" if found else ""
