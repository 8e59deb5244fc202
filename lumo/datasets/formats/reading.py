"""What the readers share: files found by name, tables and JSON checked, licences named, and bad rows left out by name."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from lumo.datasets.manifest import ManifestError
from lumo.datasets.table import PICTURES, SOUNDS, csv_lines, header_of
from lumo.files import printable

# what stands in licence columns beside Creative Commons' own addresses
OTHER_LICENSES = {
    "flickr.com/commons/usage": "no known copyright restrictions",
    "usa.gov/copyright": "US government work",
    "artlibre.org/": "LAL-1.3",
}


class Files:
    """Everything below a folder, by name. Media are found wherever an archive was unpacked; nothing outside can be named."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.all = sorted(
            (Path(parent) / name).relative_to(folder).as_posix()
            for parent, _, names in os.walk(folder)
            for name in names
        )
        self.by_stem: dict[str, list[str]] = {}
        for file in self.all:
            if PurePosixPath(file).suffix.lower() in SOUNDS + PICTURES:
                self.by_stem.setdefault(_nfc(PurePosixPath(file).stem), []).append(file)

    def named(self, *patterns: str) -> list[Path]:
        """Metadata files by patterns of their name. Raises ManifestError when there is none."""
        found = self.any_named(*patterns)
        if not found:
            raise ManifestError(
                f"{self.folder}: no {' or '.join(patterns)} in it, nor in a folder below; put the dataset's metadata there"
            )
        return found

    def any_named(self, *patterns: str) -> list[Path]:
        """Metadata files by patterns of their name, if there are any."""
        names = ((file, PurePosixPath(file).name) for file in self.all)
        return [self.folder / file for file, name in names if any(fnmatch(name, pattern) for pattern in patterns)]

    def sound(self, *names: str, under: str = "") -> str:
        """The sound of the first of these names that is there. Raises ManifestError when there is none, or more than one."""
        return self._one(SOUNDS, names, under) or self._missing("sound", names, under)

    def any_sound(self, *names: str) -> str:
        """The sound of the first of these names that is there; empty without one. Raises ManifestError when there is more than one."""
        return self._one(SOUNDS, names, "")

    def picture(self, *names: str, under: str = "") -> str:
        """The picture of the first of these names that is there. Raises ManifestError when there is none, or more than one."""
        return self._one(PICTURES, names, under) or self._missing("picture", names, under)

    def any_picture(self, *names: str) -> str:
        """The picture of the first of these names that is there; empty without one. Raises ManifestError when there is more than one."""
        return self._one(PICTURES, names, "")

    def _one(self, suffixes: Sequence[str], names: Sequence[str], under: str) -> str:
        """names: without their suffix, with folders where the name alone says too little; under: what a folder's name holds"""
        for name in map(_nfc, names):
            found = [
                file
                for file in self.by_stem.get(PurePosixPath(name).name, ())
                if PurePosixPath(file).suffix.lower() in suffixes
                and _nfc(f"/{PurePosixPath(file).with_suffix('')}").endswith(f"/{name}")
                and any(under in parent for parent in PurePosixPath(file).parts[:-1] or ("",))
            ]
            if len(found) > 1:
                raise ManifestError(f"{name}: found as {found[0]} and as {found[1]}; keep one")
            if found:
                return found[0]
        return ""

    def _missing(self, medium: str, names: Sequence[str], under: str) -> str:
        place = f"a folder named …{under}…" if under else "the folder"
        raise ManifestError(f"{names[0]}: no {medium} of that name in {place}; was it downloaded?")


def _nfc(name: str) -> str:
    """A name as it is compared: a Mac's archives hold é as two characters, metadata as one."""
    return unicodedata.normalize("NFC", name)


@contextmanager
def named(where: str, left_out: list[str]) -> Iterator[None]:
    """A row that raises ManifestError is left out, and the line says where it stands and why."""
    try:
        yield
    except ManifestError as error:
        left_out.append(printable(f"{where}: {error}"))  # a name in a quoted field may hold a line's end


def csv_rows(
    path: Path, columns: Sequence[str], left_out: list[str], header: bool = True
) -> Iterator[tuple[str, dict[str, str]]]:
    """(where, row by column) of a CSV. Without a header the columns are these, with one it must have them.

    Raises ManifestError for a table without them, or that can't be read.
    """
    reader = csv.DictReader(io.StringIO(text_of(path), newline=""), None if header else list(columns), strict=True)
    lacking = set(columns) - set(header_of(reader, path))
    if lacking:
        raise ManifestError(
            f"{path}: no column {' and no column '.join(sorted(lacking))}, expected {','.join(columns)}"
        )
    for row in csv_lines(reader, path):
        where = f"{path.name}:{reader.line_num}"
        if None in row or None in row.values():
            left_out.append(f"{where}: expected {len(reader.fieldnames)} fields; mend the row")
        else:
            yield where, row


def text_of(path: Path) -> str:
    """A metadata file's text: UTF-8, or Latin-1, which some of Clotho's are. Raises ManifestError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ManifestError(f"{path}: can't be read ({error.strerror or error}); check the file") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def json_of(path: Path) -> Any:
    """Raises ManifestError."""
    try:
        return json.loads(text_of(path))
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{path}: not JSON ({error}); download it again") from error


def objects(
    path: Path, content: Any, keys: Mapping[str, type], left_out: list[str], name: str = ""
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, object) of a list of objects, of those that have these keys, with values of these types.

    name: of the list, where it isn't the whole file. Raises ManifestError for what is no list.
    """
    if not isinstance(content, list):
        raise ManifestError(
            f"{path}: {name or 'it'} is no list, expected one of objects with {', '.join(keys)}; download it again"
        )
    for number, entry in enumerate(content):
        where = f"{path.name}:{name}[{number}]"
        wrong = [
            key for key, kind in keys.items() if not isinstance(entry, dict) or not isinstance(entry.get(key), kind)
        ]
        if wrong:
            left_out.append(f"{where}: no {' and no '.join(wrong)} as expected; mend the row")
        else:
            yield where, entry


def stem(name: str) -> str:
    """A published file name without its suffix, its folders kept: the file may lie there in another format.

    >>> stem("14/214.mp3"), stem("Y-abc.wav")
    ('14/214', 'Y-abc')
    """
    return re.sub(r"\.[^./]+$", "", name)


def license_name(address: str) -> str:
    """A licence's short name from its address. Raises ManifestError for one that isn't known.

    >>> license_name("http://creativecommons.org/licenses/by-nc/3.0/"), license_name("http://creativecommons.org/publicdomain/zero/1.0/")
    ('CC-BY-NC-3.0', 'CC0-1.0')
    """
    found = re.search(
        r"creativecommons\.org/(?:licenses|publicdomain)/([a-z+-]+)/(\d\.\d)(?:/([a-z]{2})\b)?", address.lower()
    )
    if found:
        kind, version, country = found.groups()
        short = {"zero": "CC0", "mark": "PDM"}.get(kind, f"CC-{kind.upper()}")
        return "-".join(filter(None, (short, version, country and country.upper())))
    for known, short in OTHER_LICENSES.items():
        if known in address.lower():
            return short
    raise ManifestError(f"licence {address!r:.80}: not known; expected an address of Creative Commons")
