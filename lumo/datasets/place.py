"""A folder that lumo writes a dataset to: new or its own, and written by one at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lumo.datasets.manifest import ManifestError
from lumo.files import locked, write_atomically

MARKS = {"adopt": "adopted.json", "join": "joined.json"}
LOCK = ".lock"


def check_name(name: str, where: str) -> None:
    """Raises ManifestError for a dataset's name that can't be a folder's."""
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", name):
        raise ManifestError(f"{where} is {name!r}, expected letters, digits, . _ -: it names folders")


@contextmanager
def claimed(out: Path, command: str, card: Mapping[str, Any]) -> Iterator[None]:
    """Hold `out` for a command, which leaves its card there as a mark. Nothing of a user's is ever written over.

    Raises ManifestError for a folder that holds something else, that can't be written, or in which the command is at work already.
    """
    mark = out / MARKS[command]

    def unwritable(error: OSError) -> ManifestError:
        return ManifestError(f"{out}: can't be written ({error}); choose another folder")

    try:
        # with a lock it may be another's that has only just begun: who holds the lock will see
        if not (out / LOCK).exists():
            _check_own(out, mark, command)
        out.mkdir(parents=True, exist_ok=True)
        (out / LOCK).touch()
    except OSError as error:
        raise unwritable(error) from error
    taken = ManifestError(f"{out}: another lumo is writing there; wait for it, or stop it first")
    with locked(out / LOCK, taken):
        try:
            _check_own(out, mark, command)
            write_atomically(mark, json.dumps(dict(card), indent=2) + "\n")
        except OSError as error:
            raise unwritable(error) from error
        yield


def _check_own(out: Path, mark: Path, command: str) -> None:
    """Raises ManifestError for a folder that holds something else."""
    if out.exists() and not mark.is_file() and {path.name for path in out.iterdir()} - {LOCK}:
        raise ManifestError(f"{out}: isn't empty and wasn't made by lumo {command}; choose another folder")
