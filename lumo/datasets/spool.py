"""Rows by the million, in a file: one at a time is held in memory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO


class Spool:
    """Values of JSON, each a line of a file, to be gone through as often as is needed, once at a time.

        with TemporaryFile() as file:
            rows = Spool(rows_of(table), file)

    file: empty, written and read here. A temporary one goes with the process, however that ends
    """

    def __init__(self, values: Iterable[Any], file: BinaryIO) -> None:
        self._file, self._count = file, 0
        for value in values:
            file.write(json.dumps(value).encode() + b"\n")
            self._count += 1

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Any]:
        self._file.seek(0)
        return map(json.loads, self._file)
