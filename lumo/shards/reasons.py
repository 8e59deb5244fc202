"""Why rows were left out, as few reasons from many lines."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

ASIDE = re.compile(r"\([^()]*: [^()]*\)")  # what a library said, with a colon of its own
QUOTED = re.compile(r"(?<!codec )'[^']*'")
NUMBER = re.compile(r"(?<![a-wyz])\d+(\.\d+)?")  # 64x64, and not i2t


def reasons(lines: Iterable[str]) -> Counter[str]:
    """How many lines give which reason: what stands behind the name and before the advice, without what differs from row to row.

    >>> reasons(["a.wav: no file there; check the path", "b.wav: no file there; check the path"])
    Counter({'no file there': 2})
    >>> reasons(["x: codec 'image' reads 64x64 pixels, got 30x20; resize it first"])
    Counter({"codec 'image' reads …x… pixels, got …x…": 1})
    """
    return Counter(_reason(line) for line in lines)


def _reason(line: str) -> str:
    said = ASIDE.sub("…", line).rpartition(": ")[2].partition("; ")[0]
    return " ".join(NUMBER.sub("…", QUOTED.sub("'…'", said)).split())
