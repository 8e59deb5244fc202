"""Parquet tables, the Hugging Face hub's usual form, read row group by row group with pyarrow (the extra `parquet`).

A media column holds paths, or what `datasets` writes of its Audio and Image features: {"bytes": the file itself, "path": its name, or
nothing}. Where there are bytes they are the file, and the path is never followed. Shards are named for their split,
`train-00000-of-00002.parquet`, or lie in a folder that is, as `en/train/0000.parquet`. Source: https://huggingface.co/docs/hub/datasets-pyarrow
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from lumo.datasets.manifest import ChangedError, ManifestError
from lumo.datasets.splits import SPLIT_WORDS

BATCH = 16  # rows: of pictures and sounds few are to be held, and text comes nearly as fast as in thousands
# how files begin; what a path says of its bytes may be wrong, and often there is none
KINDS = {
    rb"\x89PNG\r\n": ".png",
    rb"\xff\xd8\xff": ".jpg",
    rb"RIFF....WEBP": ".webp",
    rb"RIFF....WAVE": ".wav",
    rb"fLaC": ".flac",
    rb"OggS": ".ogg",
    rb"ID3|\xff[\xe2-\xfe]": ".mp3",
}


def shards(path: Path) -> list[Path]:
    """The file itself, or of a folder all parquet files below it. Raises ManifestError when there is none."""
    # Spark writes a folder of shards under a file's name
    found = sorted(file for file in path.rglob("*.parquet") if not file.is_dir()) if path.is_dir() else [path]
    if not found:
        raise ManifestError(f"{path}: no *.parquet in it, nor in a folder below; name a table, or a folder of shards")
    return found


def split_of(shard: Path, table: Path) -> str | None:
    """The split that a shard is named for, by its first word; else the nearest folder's within the table that is named for one.

    table: the folder of shards, or the shard itself. What lies above it is the user's own and says nothing, but for the folder of a shard
    that has only a number, as the hub's and Spark's have.

    >>> hub = Path("test/hub")
    >>> [split_of(hub / name, hub) for name in ("val-00000-of-00001.parquet", "en/train/part-0.parquet", "a.parquet")]
    ['eval', 'train', None]
    """
    within = shard.relative_to(table).parts[:-1]
    if re.fullmatch(r"\d+|part[-_.]\d.*", shard.stem):
        within = within or (shard.parent.name,)
    words = (re.split(r"[-._]", name.removeprefix("split="))[0].lower() for name in (shard.stem, *reversed(within)))
    return next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), None)


def columns_of(path: Path) -> list[tuple[str, str]]:
    """(name, type) of the table's columns. Raises ManifestError for what isn't parquet."""
    with _opened(path) as file:
        return [(field.name, str(field.type)) for field in file.schema_arrow]


def rows(path: Path, names: Sequence[str], first: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, row by column) of these columns, from a row on. Raises ManifestError for a file that can't be read."""
    with _opened(path) as file:
        start = 0
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            if start + size > first:
                batches = file.iter_batches(BATCH, row_groups=[group], columns=list(names))
                cells = chain.from_iterable(batch.to_pylist() for batch in batches)
                yield from ((number, row) for number, row in enumerate(cells, start) if number >= first)
            start += size


def lines(
    path: Path, name: str, columns: Mapping[str, str], left_out: list[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The lines of a table; see `table`. A file that lies in a cell is named by its contents, so that the same bytes are the same file.

    name: what lines call the table; columns: lumo's names → the table's. Raises ManifestError.
    """
    for number, row in rows(path, list(columns.values())):
        where, line = f"{name}:[{number}]", {key: row[column] for key, column in columns.items()}
        data, line["file"] = _contents(line["file"])
        if not isinstance(data, bytes | None):
            kind = type(data).__name__
            left_out.append(f"{where}: bytes in {columns['file']} are of type {kind}, expected binary; mend the table")
            continue
        if data is not None:
            suffix = next((kind for begin, kind in KINDS.items() if re.match(begin, data, re.DOTALL)), None)
            if suffix is None:
                left_out.append(f"{where}: {columns['file']} holds neither a picture nor a sound that is known here")
                continue
            file = f"{hashlib.sha256(data).hexdigest()}{suffix}"
            line |= {"file": file, "shard": str(path), "column": columns["file"], "row": str(number)}
        yield where, line


class Cells:
    """Files in a table's cells, by their row. Asked for in the table's order, each row group is read once."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self.rows: Iterator[tuple[int, dict[str, Any]]] = iter(())
        self.next = 0

    def read(self, path: Path, column: str, row: int, sha256: str) -> bytes:
        """Raises ChangedError where the cell isn't there, can't be read, or holds other bytes than those of this hash."""
        if path != self.path or row < self.next:
            self.path, self.rows = path, rows(path, [column], row)
        self.next = row + 1
        try:
            cell = next((cells.get(column) for number, cells in self.rows if number == row), None)
        except ManifestError as error:
            raise ChangedError(path) from error
        data = _contents(cell)[0]
        if not isinstance(data, bytes) or hashlib.sha256(data).hexdigest() != sha256:
            raise ChangedError(path)
        return data


def _contents(cell: Any) -> tuple[bytes | None, Any]:
    """What a media cell holds: the file itself, or None; and the path that it names."""
    if isinstance(cell, dict) and "bytes" in cell:
        return cell["bytes"], cell.get("path")
    return (cell, None) if isinstance(cell, bytes) else (None, cell)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A ParquetFile; whatever fails while it is read is one line. Raises ManifestError."""
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ManifestError(
            f"{path}: pyarrow, which reads it, can't be imported ({error}); in lumo's folder pip install -e \".[parquet]\", or save the table as CSV"
        ) from error
    try:
        with ParquetFile(path, buffer_size=2**20) as file:
            yield file
    # ValueError: text that isn't UTF-8; MemoryError: a header that promises terabytes
    except (pyarrow.ArrowException, OSError, ValueError, MemoryError) as error:
        raise ManifestError(
            f"{path}: can't be read ({' '.join(str(error).split())}); expected a whole parquet file; download it again"
        ) from error
