"""Lines about media: where each stands, and its columns. One's own table gives them, as the published datasets' readers do.

A line has `file` (below the folder) and `caption`; `id`, `license`, `source`, `subtype` where known. What only readers give:
`picture` (of the same moment as the sound in `file`), `group` (the recording: all of its rows go into one split), `split` (`train` or `eval`, the dataset's own), `start_s` and `end_s` (of the
clip within its recording), and for a member of a tar `archive`, `offset` and `size`. What is None or empty counts as not said.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import tempfile
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lumo.datasets.manifest import ManifestError, inside
from lumo.media import MediaError

Lines = Iterator[tuple[str, dict[str, Any]]]

COLUMNS = ("file", "caption", "id", "license", "source", "subtype")
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
SOUNDS = (".wav", ".flac", ".mp3", ".ogg", ".oga")


def usable(lines: Lines, left_out: list[str]) -> Lines:
    """The lines that say enough, in plain text; of each other one the reason goes to `left_out`."""
    for where, line in lines:
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


def spelled(folder: Path, name: str) -> str:
    """A file's one name below the folder, however a table writes it: a Mac gives é as two characters, others as one. Raises ManifestError."""
    paths = [inside(folder, name), *(inside(folder, unicodedata.normalize(form, name)) for form in ("NFC", "NFD"))]
    there = next((path for path in paths if os.path.exists(path)), paths[0])
    return there.relative_to(folder.resolve()).as_posix()


@contextmanager
def on_disk(folder: Path, line: Mapping[str, str], file: str) -> Iterator[Path]:
    """The file as one that can be opened; a tar's member lies in a folder of its own for as long as it is needed."""
    if "archive" not in line:
        yield folder.resolve() / file
        return
    with inside(folder, line["archive"]).open("rb") as archive, tempfile.TemporaryDirectory() as here:
        archive.seek(int(line["offset"]))
        path = Path(here) / f"member{Path(file).suffix}"
        path.write_bytes(archive.read(int(line["size"])))
        try:
            yield path
        except MediaError as error:
            raise MediaError(str(error).replace(str(path), file)) from error


def read_table(path: Path, left_out: list[str]) -> Lines:
    """The lines of a CSV with a header, or of a JSONL. Raises ManifestError for a table that can't be read."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets put a mark before the first letter
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(
            f"{path}: can't be read ({error}); expected captions as CSV or JSONL; save the table as UTF-8"
        ) from error
    if path.suffix.lower() in (".jsonl", ".json"):
        lines = ((n, _json_line(line)) for n, line in enumerate(text.split("\n"), start=1) if line.strip())
    else:
        # spreadsheets of many countries write semicolons
        first = text.split("\n", 1)[0]
        comma = max((",", ";", "\t"), key=first.count)
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=comma, strict=True)
        header = [name.strip().lower() for name in header_of(reader, path)]
        missing = {"file", "caption"} - set(header)
        if missing or len(set(header)) < len(header):
            fault = f"no column {' and no column '.join(sorted(missing))}" if missing else "a column stands there twice"
            raise ManifestError(
                f"{path}: {fault}, got {header or 'an empty file'}; expected a header such as file,caption"
            )
        reader.fieldnames = header
        lines = ((reader.line_num, line) for line in csv_lines(reader, path))
    for number, line in lines:
        where = f"{path.name}:{number}"
        if not isinstance(line, dict):
            left_out.append(f"{where}: {line}; mend the row")
        elif None in line:
            left_out.append(f"{where}: more fields than the header has; put a caption that holds commas in quotes")
        else:
            yield where, {key: line[key] for key in COLUMNS if key in line}


def _json_line(line: str) -> Any:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"not JSON ({error})"
    return found if isinstance(found, dict) else f"got {type(found).__name__}, expected an object"


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
