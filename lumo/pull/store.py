"""What was pulled, on disk: the hub's listing, kept before the first byte, and the receipt, written when all is there.

    weights/NAME/…                   the files, under the names that they have on the hub
    weights/NAME/.lumo/listing.json  repository, commit, and every wanted file with the hub's own hash: the pin of later calls
    weights/NAME/.lumo/HEX.part      a file on its way, named after what it will be
    weights/NAME/.lumo/receipt.json  the same with the SHA-256 of what came; its presence means that all is there

Nothing is ever unpickled, unpacked or run.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lumo.files import write_atomically
from lumo.pull import Hub, PullError

KEPT = ".lumo"
CHUNK = 2**20


class File(BaseModel):
    """hash: `sha256:…` of the content, or `git-sha1:…`, which is all that the hub has for small files"""

    model_config = ConfigDict(extra="forbid", frozen=True)
    path: str
    bytes: Annotated[int, Field(ge=0)]
    hash: Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64}|git-sha1:[0-9a-f]{40})$")]  # it names a file on disk

    @property
    def is_small(self) -> bool:
        """Too small for the hub to keep its SHA-256."""
        return self.hash.startswith("git-sha1")


class Listing(BaseModel):
    """What a repository holds at one commit, as far as it was asked for.

    licence: as the repository's own card says, "" for nothing
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    asked: Hub
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
    licence: str
    files: tuple[File, ...]

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)


class Shelf:
    """One entry's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def listing(self) -> Listing | None:
        return self._read("listing.json")

    @property
    def receipt(self) -> Listing | None:
        return self._read("receipt.json")

    def keep_listing(self, listing: Listing) -> None:
        """Write the listing; a receipt for another one is removed."""
        if listing != self.listing:
            (self.folder / KEPT / "receipt.json").unlink(missing_ok=True)
        self._write("listing.json", listing)

    def keep_receipt(self, listing: Listing) -> None:
        """Write the receipt, last of all: its presence means that all is there, each file held against the hub's hash."""
        small = {file.path: hash_of(self.place(file.path), "sha256") for file in listing.files if file.is_small}
        files = (file.model_copy(update={"hash": small.get(file.path, file.hash)}) for file in listing.files)
        self._write("receipt.json", listing.model_copy(update={"files": tuple(files)}))

    def place(self, path: str) -> Path:
        """Where a file of the hub's lies. Raises PullError for a name that leaves the folder, or lands among lumo's own files."""
        parts, place = PurePosixPath(path).parts, self.folder / path
        bad = not path.isprintable() or not parts or parts[0].lower() == KEPT or ".." in parts
        if bad or not place.resolve().is_relative_to(self.folder.resolve()):
            raise PullError(
                f"{self.folder}: the repository has a file {path!r}, which is no name inside this folder; nothing is fetched"
            )
        return place

    def part(self, file: File) -> Path:
        return self.folder / KEPT / f"{file.hash.partition(':')[2]}.part"

    def has(self, file: File) -> bool:
        """Whether a file of this size is there; `is_true` reads it too."""
        place = self.place(file.path)
        return place.is_file() and place.stat().st_size == file.bytes

    def is_true(self, file: File) -> bool:
        return self.has(file) and hash_of(self.place(file.path), file.hash.partition(":")[0]) == file.hash

    def missing_bytes(self, listing: Listing) -> int:
        """Bytes that are still to come, less those of parts that are there."""
        there = {file.hash: self.part(file).stat().st_size for file in listing.files if self.part(file).is_file()}
        return sum(file.bytes - there.get(file.hash, 0) for file in listing.files if not self.has(file))

    def faults(self, say: Callable[[str], None] = lambda line: None) -> Iterator[str]:
        """One line for each file that isn't what the receipt says. Needs no network. Raises PullError without a receipt."""
        receipt = self.receipt
        if receipt is None:
            raise PullError(f"{self.folder}: no receipt, so it isn't whole, or lumo didn't fetch it; pull it first")
        for file in receipt.files:
            say(f"checking {self.place(file.path)}")
            if not self.is_true(file):
                how = "has another content: remove it, and" if self.has(file) else "is missing or cut:"
                yield f"{self.place(file.path)}: {how} pull again, only what is wrong is fetched"

    def _read(self, name: str) -> Listing | None:
        path = self.folder / KEPT / name
        if not path.is_file():
            return None
        try:
            return Listing.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise PullError(f"{path}: damaged; remove it and pull again, files that are there are kept") from error

    def _write(self, name: str, listing: Listing) -> None:
        write_atomically(self.folder / KEPT / name, listing.model_dump_json(indent=1) + "\n")


def hash_of(path: Path, kind: str) -> str:
    """`sha256:…`, or `git-sha1:…`: git's name of a blob, the SHA-1 of `blob SIZE\\0` and the content."""
    digest = hashlib.sha256() if kind == "sha256" else hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return f"{kind}:{digest.hexdigest()}"


def disk_of(folder: Path) -> Path:
    """The nearest folder that is there: whose disk a folder to come will fill."""
    return next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(disk_of(folder)).free
