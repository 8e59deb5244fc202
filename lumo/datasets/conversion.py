"""A file that a table names, converted into files that codecs take.

Beside these lies a note of what they were made from, and how: what is there already from the same is kept.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Condition
from typing import Any

from lumo.datasets.fitting import SILENCE_DBFS, Adoption, clips_of, fitted
from lumo.datasets.members import on_disk
from lumo.datasets.splits import hash_of
from lumo.datasets.table import PICTURES, SOUNDS
from lumo.files import sha256_of, write_atomically
from lumo.media import (
    MOST_SAMPLES,
    MediaError,
    picture_bytes,
    png_bytes,
    read_audio,
    read_image,
    sound_bytes,
    wav_bytes,
)


@dataclass(frozen=True)
class Converted:
    """What a file became.

    file: its one name; paths: below the folder that is written to, one, or one for each part; done: what was done to it, counted
    """

    medium: str
    file: str
    paths: list[str]
    done: Counter


class MemoryBudget:
    """Bytes that threads may hold together; who wants more than all of them waits until nobody else holds any."""

    def __init__(self, size: int) -> None:
        self.size, self.taken, self.changed = size, 0, Condition()

    @contextmanager
    def held(self, size: int) -> Iterator[None]:
        with self.changed:
            self.changed.wait_for(lambda: not self.taken or self.taken + size <= self.size)
            self.taken += size
        try:
            yield
        finally:
            with self.changed:
                self.taken -= size
                self.changed.notify_all()


class Converter:
    """Makes what codecs take of the files of a folder, into `out`. Several threads may convert at once, each another file."""

    def __init__(self, folder: Path, out: Path, how: Adoption) -> None:
        self.folder, self.out, self.how = folder.resolve(), out, how
        # all files in work take no more than the longest sound that is read at all: hours of music on many cores don't fill the memory
        self.memory = MemoryBudget(4 * MOST_SAMPLES)

    def convert(self, file: str, member: bytes | None = None) -> Converted:
        """What a file becomes, made now or, from the same file in the same way, before.

        member: the file's bytes where it lies within another one
        Raises MediaError for a file that can't be used, and OSError where `out` can't be written.
        """
        suffix = Path(file).suffix.lower()
        if suffix not in PICTURES + SOUNDS:
            raise MediaError(
                f"{file}: neither a picture nor a sound by its name; expected {' '.join(PICTURES + SOUNDS)}"
            )
        medium = "image" if suffix in PICTURES else "audio"
        with on_disk(self.folder, file, member) as source:
            note = self._note(source, f"{medium}/{hash_of(file)[:16]}")
        return Converted(medium, file, note["paths"], Counter(note["done"]))

    def _note(self, source: Path, stem: str) -> dict[str, Any]:
        """The note of what was made of a file, now or before. What was made of another file, or by another recipe, is removed first."""
        path, made_from = self.out / f"{stem}.json", [_sha256_of(source), *self.how.recipe]
        before = _earlier_note(path, stem)
        if before.get("from") == made_from and _are_whole(self.out, before):
            return before
        for stale in [path.relative_to(self.out), *before.get("paths", ())]:
            (self.out / stale).unlink(missing_ok=True)
        done: Counter = Counter()
        files = self._picture(source, stem, done) if stem.startswith("image") else self._clips(source, stem, done)
        for name, data in files.items():
            write_atomically(self.out / name, data)
        hashes = [hashlib.sha256(data).hexdigest() for data in files.values()]
        note = {"from": made_from, "paths": list(files), "sha256": hashes, "done": done}
        write_atomically(path, json.dumps(note) + "\n")  # last: all is there
        return note

    def _picture(self, source: Path, stem: str, done: Counter) -> dict[str, bytes]:
        with self.memory.held(picture_bytes(source)):
            picture = fitted(read_image(source), self.how, done)
        return {f"{stem}.png": png_bytes(picture)}

    def _clips(self, source: Path, stem: str, done: Counter) -> dict[str, bytes]:
        with self.memory.held(sound_bytes(source)):
            clips = clips_of(read_audio(source), self.how, done)
        if not clips:
            raise MediaError(f"{source}: silent (below {SILENCE_DBFS:g} dBFS), expected a sound; leave it out")
        if len(clips) == 1:
            return {f"{stem}.wav": wav_bytes(clips[0])}
        return {f"{stem}-{n:03d}.wav": wav_bytes(clip) for n, clip in enumerate(clips)}


def _sha256_of(source: Path) -> str:
    """Raises MediaError."""
    try:
        if not source.is_file():  # a pipe would be waited for
            raise MediaError(f"{source}: no file there; check the path in the table")
        return sha256_of(source)
    except OSError as error:
        raise MediaError(f"{source}: can't be read ({error.strerror or error}); check the path in the table") from error


def _earlier_note(path: Path, stem: str) -> dict[str, Any]:
    """What an earlier call wrote of this file; nothing where it can't be read, or names files that aren't this one's."""
    try:
        note = json.loads(path.read_text())
        mine = all(re.fullmatch(rf"{stem}(-\d+)?\.(png|wav)", name) for name in note["paths"])
        return note if mine and {"from", "sha256"} <= note.keys() and isinstance(note["done"], dict) else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _are_whole(out: Path, note: Mapping[str, Any]) -> bool:
    try:
        return bool(note["paths"]) and note["sha256"] == [sha256_of(out / name) for name in note["paths"]]
    except OSError:
        return False
