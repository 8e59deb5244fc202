"""Files that are whole or not there, and held by one at a time."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


def printable(text: str) -> str:
    """One line of text from outside, for a terminal or a list: what would move the cursor, or can't be written, is shown by its number."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def place_of(path: Path | str) -> Path:
    """A path that a person gave, absolute and without links. One that leads nowhere, as a loop of links or nobody's home, is for whoever
    opens it to refuse: pathlib's own `resolve` and `expanduser` fail with a RuntimeError."""
    return Path(os.path.realpath(os.path.expanduser(path)))


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def locked(path: Path, refusal: Exception) -> Iterator[None]:
    """Hold a file's lock; the system drops it when its holder is killed. Raises `refusal` while another holds it."""
    with path.open("a") as file:  # it may be somebody else's: nothing in it is touched
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise refusal from None
        yield


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, whole or not there: a neighbour first, renamed over the target when the block ends. Of several who write the same
    one each waits for its turn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with _alone(partial) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:  # an interrupt leaves nothing behind either
            partial.unlink(missing_ok=True)
            raise


@contextmanager
def _alone(path: Path) -> Iterator[BinaryIO]:
    """A file that is new or was left by a killed process, empty, and no other's while the block lasts."""
    while True:
        with path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _leads_to(path, file):  # else the one waited for has renamed it, and it isn't to be touched any more
                file.truncate(0)
                yield file
                return


def _leads_to(path: Path, file: BinaryIO) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    return False


def write_atomically(path: Path | str, data: bytes | str) -> Path:
    """Write data to a file that is whole or not there."""
    path = Path(path)
    with whole(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)
    return path
