"""Lines about media: where each stands, and its columns. One's own table gives them, as the published datasets' readers do.

A line has `file` (below the folder) and `caption`; `id`, `license`, `source`, `subtype` where known. What only readers give:

    picture                   of the same moment as the sound in `file`
    group                     the recording: all of its rows go into one split
    split                     `train` or `eval`, the dataset's own
    start_s, end_s            of the clip within its recording
    archive, offset, size     for a member of a tar
    shard, column, row        for a file in a parquet's cell

What is None or empty counts as not said.
"""

from __future__ import annotations

import csv
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from lumo.datasets import parquet
from lumo.datasets.manifest import ManifestError, inside

Lines = Iterator[tuple[str, dict[str, Any]]]

COLUMNS = ("file", "caption", "id", "license", "source", "subtype")
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
SOUNDS = (".wav", ".flac", ".mp3", ".ogg", ".oga")


def usable(lines: Lines, left_out: list[str]) -> Lines:
    """The lines that say enough, in plain text; of each other one the reason goes to `left_out`. A number as id becomes text."""
    for where, line in lines:
        if type(line.get("id")) is int:
            line = line | {"id": str(line["id"])}
        strange = [key for key, value in line.items() if not isinstance(value, str | None)]
        if strange:
            left_out.append(f"{where}: {strange[0]} is {line[strange[0]]!r:.60}, expected text; mend the row")
            continue
        columns = {key: text for key, value in line.items() if value and (text := value.strip())}
        lacking = [name for name in ("file", "caption") if not columns.get(name)]
        if lacking:
            left_out.append(f"{where}: no {' and no '.join(lacking)}; mend the row")
            continue
        columns["caption"] = " ".join(columns["caption"].split())
        if re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", "".join(columns.values())):
            left_out.append(f"{where}: holds control characters or halves of characters; mend the row")
            continue
        yield where, columns


def spelled(root: Path, name: str) -> str:
    """A file's one name below a folder, however a table writes it: a Mac gives é as two characters, others as one.

    root: the folder resolved
    Raises ManifestError.
    """
    forms = dict.fromkeys((name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)))
    paths = [inside(root, form, root) for form in forms]
    there = next((path for path in paths if os.path.exists(path)), paths[0])
    return there.relative_to(root).as_posix()


def read_table(path: Path, columns: Mapping[str, str], left_out: list[str]) -> Lines:
    """The lines of a CSV with a header, a JSONL, a JSON with a list, a parquet, or a folder of parquet shards. Only a JSON's list is held.

    columns: lumo's names → the table's, where they differ
    Raises ManifestError for a table that can't be read, or that hasn't its columns.
    """
    if path.is_dir() or path.suffix.lower() == ".parquet":
        for shard in parquet.shards(path):
            found = _found(shard, [name for name, _ in parquet.columns_of(shard)], columns)
            name = shard.relative_to(path).as_posix() if path.is_dir() else path.name
            for where, line in parquet.lines(shard, name, found, left_out):
                yield where, line | {"split": parquet.split_of(shard, path)}
        return
    read = _json_rows if path.suffix.lower() in (".jsonl", ".json") else _csv_rows
    with _opened(path) as file:
        names, rows = read(path, file)
        found = _found(path, names, columns) if names is not None else {}
        for number, row in rows:
            if isinstance(row, str):
                left_out.append(f"{path.name}:{number}: {row}")
            else:
                yield f"{path.name}:{number}", {key: row[name] for key, name in found.items() if name in row}


def _found(path: Path, names: list[str], columns: Mapping[str, str]) -> dict[str, str]:
    """The table's name for each column that it has. Raises ManifestError when one is missing that must be there, or when any appears twice."""
    asked = {key: columns.get(key, key) for key in COLUMNS}
    # a CSV's header is in small letters here
    found = {
        key: name if name in names else name.lower() for key, name in asked.items() if {name, name.lower()} & {*names}
    }
    missing = [asked[key] for key in COLUMNS if key not in found and key in {"file", "caption", *columns}]
    if missing or len({*names}) < len(names):
        fault = f"no column {' and no column '.join(missing)}" if missing else "a column appears twice"
        raise ManifestError(
            f"{path}: {fault}, got {names or 'an empty file'}; expected a header such as file,caption, or say what stands for them: --columns file=NAME,caption=NAME"
        )
    return found


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """Raises ManifestError, also where reading goes on."""
    try:
        with path.open(encoding="utf-8-sig") as file:  # spreadsheets put a mark before the first letter
            yield file
    except UnicodeDecodeError as error:
        raise ManifestError(
            f"{path}: can't be read ({error}); expected captions as CSV, JSONL or parquet; save the table as UTF-8"
        ) from error
    except OSError as error:
        raise ManifestError(f"{path}: can't be read ({error.strerror or error}); name a table of captions") from error


def _csv_rows(path: Path, file: TextIO) -> tuple[list[str], Iterable[tuple[Any, Any]]]:
    """Columns, and (line, row or its fault). Raises ManifestError."""
    # spreadsheets of many countries write semicolons
    first = file.readline()
    comma = max((",", ";", "\t"), key=first.count)
    reader = csv.DictReader(chain([first], file), delimiter=comma, strict=True)
    reader.fieldnames = [name.strip().lower() for name in header_of(reader, path)]
    surplus = "more fields than the header has; put a caption that holds commas in quotes"
    return reader.fieldnames, ((reader.line_num, surplus if None in row else row) for row in csv_lines(reader, path))


def _json_rows(path: Path, file: TextIO) -> tuple[list[str] | None, Iterable[tuple[Any, Any]]]:
    """Columns, None where there is no object to have them, and (line, row or its fault). Lines are read twice, first for the columns."""
    entries = _list_of(path, file) if path.suffix.lower() == ".json" else None

    def rows() -> Iterable[tuple[Any, Any]]:
        return _json_lines(file) if entries is None else entries

    names = dict.fromkeys(name for _, row in rows() if isinstance(row, dict) for name in row)
    return list(names) or None, rows()


def _list_of(path: Path, file: TextIO) -> list[tuple[str, Any]] | None:
    """The entries of a JSON; None where it is no list. Raises ManifestError."""
    text = file.read()
    if not text.lstrip().startswith("["):
        return None
    try:
        return [(f"[{n}]", _object(entry)) for n, entry in enumerate(json.loads(text))]
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{path}: not JSON ({error}); export it again") from error


def _json_lines(file: TextIO) -> Iterator[tuple[int, Any]]:
    file.seek(0)
    return ((n, _json_line(line)) for n, line in enumerate(file, start=1) if line.strip())


def _json_line(line: str) -> dict[str, Any] | str:
    try:
        return _object(json.loads(line))
    except (ValueError, RecursionError) as error:
        return f"not JSON ({error}); mend the row"


def _object(found: Any) -> dict[str, Any] | str:
    return found if isinstance(found, dict) else f"got {type(found).__name__}, expected an object; mend the row"


def header_of(reader: csv.DictReader, path: Path) -> list[str]:
    """Raises ManifestError."""
    try:
        return list(reader.fieldnames or ())
    except csv.Error as error:
        raise ManifestError(f"{path}:1: not CSV ({error}); export it again") from error


def csv_lines(reader: Any, path: Path) -> Iterator[Any]:
    """What a csv reader gives. Raises ManifestError where it fails."""
    try:
        yield from reader
    except csv.Error as error:
        raise ManifestError(f"{path}:{reader.line_num}: not CSV ({error}); export it again") from error
