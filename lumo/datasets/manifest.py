"""The manifest: one JSON object a line, checked; what is wrong is named and left out, and stops nothing.

{"id": …, "modalities": {"image": {"path", "meta"}, "audio": {"path", "meta"}},
 "text": {"caption", "instruction", "response"}, "task": …, "source": …, "license": …, "subtype": "speech"|"sfx"|"music"}
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

# tasks that a row may name, by its media; the first is the one that reads them
TASKS_BY_MEDIA = {("image",): ("i2t", "t2i"), ("audio",): ("a2t", "t2a"), ("image", "audio"): ("ia2t",)}
CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")


def _plain(value: str) -> str:
    """Ids and paths are named in messages of one line."""
    if not value or CONTROL_CHARACTER.search(value):
        raise ValueError(f"got {value!r}, expected a name without control characters")
    return value


Plain = Annotated[str, AfterValidator(_plain)]


class ManifestError(ValueError):
    """A manifest or a row that can't be used; the message is one line."""


class ChangedError(ManifestError):
    """A file is another one than when it was first read: what was read of it no longer holds, so the whole run ends."""

    def __init__(self, path: Path):
        super().__init__(f"{path}: changed while it was worked on; run the same command again")


class Medium(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    path: Plain
    meta: dict[str, Any] = {}


class Modalities(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    image: Medium | None = None
    audio: Medium | None = None

    def items(self) -> list[tuple[str, Medium]]:
        return [(name, medium) for name, medium in (("image", self.image), ("audio", self.audio)) if medium]


class Text(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    caption: str | None = None
    instruction: str | None = None
    response: str | None = None


class Named(BaseModel):
    """A row's id alone, read by the parser of `Row`: the two agree on what an id is."""

    id: str


class Row(BaseModel):
    """One sample as a dataset describes it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    id: Plain
    modalities: Modalities
    text: Text
    task: str
    source: str
    license: str
    subtype: Literal["speech", "sfx", "music"] | None = None


def check_row(content: dict[str, Any]) -> Row:
    """A row as the manifest will hold it. Raises ManifestError."""
    try:
        return Row.model_validate(content)
    except ValidationError as error:
        raise ManifestError(f"{_fault(error)}; mend the row") from error


def task_fault(row: Row) -> str | None:
    """One line for a row whose task isn't one of its media's."""
    fitting = TASKS_BY_MEDIA[tuple(medium for medium, _ in row.modalities.items())]
    if row.task in fitting:
        return None
    return f"{row.id}: task is {row.task!r}, expected {' or '.join(fitting)} by its media; mend the row"


def _fault(error: ValidationError) -> str:
    first = error.errors()[0]
    key = " ".join(".".join(map(str, first["loc"])).split())
    reason = first["msg"].removeprefix("Value error, ")
    return f"{f'{key}: ' if key else ''}{reason[0].lower()}{reason[1:]}"


def read_manifest(path: Path) -> tuple[list[Row], list[str]]:
    """Rows, and one line for each row that was left out. Raises ManifestError when there is no manifest at all."""
    rows, left_out = [], []
    for _, row in stream_manifest(path):
        (rows if isinstance(row, Row) else left_out).append(row)
    return rows, left_out


def stream_manifest(path: Path) -> Iterator[tuple[int, Row | str]]:
    """A manifest's rows one by one: the byte at which a line begins, and its row, or one line that says why it is left out.

    It is read twice, the first time for the ids alone: 8 bytes are held for each of them, and then only those that appear twice.
    """
    twice, seen = _ids_twice(path), set()
    for number, at, text in _lines(path):
        row = _row_or_fault(text, f"{path.name}:{number}")
        if isinstance(row, Row) and _digest(row.id) in twice:
            known = row.id in seen
            seen.add(row.id)
            if known:
                row = f"{path.name}:{number}: id '{row.id}' appears twice, the first is kept; mend the row"
        yield at, row


def rows_at(path: Path, starts: Iterable[int]) -> list[Row]:
    """The rows that begin at these bytes. Raises ChangedError when the manifest was changed since it was streamed."""
    try:
        with path.open("rb") as file:
            return [Row.model_validate_json(_line_at(file, at)) for at in starts]
    except (OSError, ValidationError) as error:
        raise ChangedError(path) from error


def _line_at(file: BinaryIO, at: int) -> bytes:
    file.seek(at)
    return file.readline()


def _lines(path: Path) -> Iterator[tuple[int, int, str]]:
    """Number, first byte and text of each line that isn't blank."""
    at = 0
    try:
        with path.open("rb") as file:  # as bytes a line ends at \n alone: a caption may hold U+2028
            for number, line in enumerate(file, start=1):
                text = line.decode().rstrip("\r\n")
                if text.strip():
                    yield number, at, text
                at += len(line)
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: can't be read ({error}); expected a manifest, one JSON object a line") from error


def _row_or_fault(text: str, where: str) -> Row | str:
    try:
        row = Row.model_validate_json(text)
    except ValidationError as error:
        return f"{where}: {_fault(error)}; mend the row"
    if not (row.text.caption or "").strip():
        return f"{where}: '{row.id}' has an empty caption, expected words; mend the row"
    if not row.modalities.items():
        return f"{where}: '{row.id}' has neither image nor audio; mend the row"
    return row


def _ids_twice(path: Path) -> set[int]:
    """Digests that more than one id has, whether their rows are good or not."""
    names = (_id_of(text) for _, _, text in _lines(path))
    digests = np.fromiter((_digest(name) for name in names if name), np.uint64)
    digests.sort()
    return set(digests[1:][digests[1:] == digests[:-1]].tolist())


def _id_of(text: str) -> str | None:
    try:
        return Named.model_validate_json(text).id
    except ValidationError:
        return None


def _digest(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


def inside(folder: Path, relative: str, root: Path | None = None) -> Path:
    """A path that stands in a manifest, within the manifest's folder.

    root: the folder resolved, for a caller of many: that takes as long as the rest
    Raises ManifestError for a path that leaves the folder.
    """
    root = root or folder.resolve()
    try:
        path = _without_links(root / relative)
    except (OSError, ValueError, RuntimeError) as error:  # a loop of links, a null byte
        raise ManifestError(f"{relative!r}: no path ({error}); name a file in the manifest's folder") from error
    if not path.is_relative_to(root):
        raise ManifestError(f"{relative}: leaves the manifest's folder {folder}; put the file inside it")
    return path


def _without_links(path: Path) -> Path:
    """Where the path leads, whether or not something is there. Raises OSError or RuntimeError for a loop of links.

    Of `loop/../x` Python drops the loop and lets `x` stand as it is: it may be a link to anywhere.
    """
    try:
        return path.resolve(strict=True)
    except OSError:  # whoever opens it will say so: no file there, too long a name
        found = path.resolve()
        if found != found.resolve():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None
        return found
