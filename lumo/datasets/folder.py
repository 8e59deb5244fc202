"""A folder of pictures and sounds, one's own or a published dataset's, into files that a codec takes and a manifest.

Codecs want one size and one length (`fitting`). What can't be used is named with its reason. Of a table of any length one row is held, and
of all rows their ids, the recordings and what was left out.
"""

from __future__ import annotations

import errno
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from lumo.datasets.conversion import Converted, Converter
from lumo.datasets.fitting import Adoption
from lumo.datasets.manifest import TASKS_BY_MEDIA, ChangedError, ManifestError, check_row
from lumo.datasets.place import claimed
from lumo.datasets.prefetch import Pending, Prefetch
from lumo.datasets.published import Published
from lumo.datasets.splits import Splits, hash_of, splits_of
from lumo.datasets.spool import Spool
from lumo.datasets.table import Lines, read_table, usable
from lumo.files import printable, whole, write_atomically
from lumo.media import MediaError
from lumo.progress import OnProgress, untold


@dataclass
class Adopted:
    """rows: in the manifest, by what they have (`image`, `audio`, `image+audio`); done: what was done to files, counted; left_out: one line each."""

    manifest: Path
    rows: Counter = field(default_factory=Counter)
    done: Counter = field(default_factory=Counter)
    left_out: list[str] = field(default_factory=list)


def adopt(
    folder: Path,
    captions: Path | Published,
    out: Path,
    how: Adoption,
    progress: OnProgress = untold,
    workers: int = 1,
) -> Adopted:
    """Write `out/manifest.jsonl` and the files that it names. What is there already from the same file and the same way is kept.

    captions: a table, see `table.read_table`; or the published dataset whose files lie in `folder`
    progress: called with rows done and rows in all
    workers: threads that convert files; what is written is the same whatever their number
    A dataset's own validation and test rows are never learned from: they are the eval split, and a part of them golden.
    What is left out stands in `out/left_out.txt` too, also when it is too much.
    Raises ManifestError for a table that can't be read or changes meanwhile, for an `out` that can't be written or is written by another, and when too
    little can be used.
    """
    _check_places(folder, captions, out)
    result = Adopted(out / "manifest.jsonl")
    with TemporaryFile() as spooled_table:
        table = Spool(usable(_lines(folder, captions, how, result.left_out), result.left_out), spooled_table)
        with claimed(out, "adopt", {"from": folder.name} | asdict(how)), TemporaryFile(dir=out) as spooled_rows:
            try:
                prefetch = Prefetch(Converter(folder, out, how), workers)
                rows = Spool(_all_rows(table, prefetch, result, progress), spooled_rows)
                splits = _set_apart(rows, captions, how, result)
            finally:
                result.left_out[:] = map(printable, result.left_out)
                write_atomically(out / "left_out.txt", "".join(f"{line}\n" for line in result.left_out))
            with whole(result.manifest) as manifest:
                for row in rows:
                    splits.mark(row, result.done)
                    manifest.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    return result


def _check_places(folder: Path, captions: Path | Published, out: Path) -> None:
    """Raises ManifestError."""
    if not folder.is_dir():
        raise ManifestError(f"{folder}: no folder there; name the one that holds the files")
    if folder.is_relative_to(out) or (isinstance(captions, Path) and captions.is_relative_to(out)):
        raise ManifestError(f"{out}: holds the files or the table themselves; choose another folder to write to")


def _lines(folder: Path, captions: Path | Published, how: Adoption, left_out: list[str]) -> Lines:
    if isinstance(captions, Path):
        return read_table(captions, how.columns, left_out)
    if how.columns:
        raise ManifestError(f"{captions}: has columns of its own; --columns is for a table")
    return captions.lines(folder, left_out)


def _all_rows(table: Spool, prefetch: Prefetch, result: Adopted, progress: OnProgress) -> Iterator[dict[str, Any]]:
    """The manifest's rows in the table's order; what can't be used adds a line to `left_out`."""
    ids: set[str] = set()
    progress(0, len(table))
    with closing(prefetch.ready(table)) as lines:
        for number, pending in enumerate(lines, start=1):
            try:
                for row in _rows(pending, prefetch.converter.how, result.done):
                    if row["id"] in ids:
                        raise ManifestError(f"id '{row['id']}' appears twice, the first is kept")
                    ids.add(row["id"])
                    yield row
            except ChangedError:
                raise  # other rows may hold another's file too
            except (ManifestError, MediaError) as error:
                result.left_out.append(f"{pending.where}: {error}")
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise  # said in one line, as everywhere
                raise ManifestError(
                    f"{prefetch.converter.out}: can't be written ({error}); choose another folder"
                ) from error
            progress(number, len(table))


def _rows(pending: Pending, how: Adoption, done: Counter) -> Iterator[dict[str, Any]]:
    """The manifest's rows of a line: one, or one for each part of a long sound, with the same picture if it has one."""
    files = []
    for future in pending.media:
        files.append(future.result())
        done.update(files[-1].done)
    count = max(len(file.paths) for file in files)
    name = pending.line.get("id") or _name(pending.line)
    for part in range(count):
        row = _row(f"{name}-{part:03d}" if count > 1 else name, pending.line, files, part, how)
        check_row(row)
        yield row


def _row(name: str, line: Mapping[str, str], files: Sequence[Converted], part: int, how: Adoption) -> dict[str, Any]:
    known = {key: line[key] for key in ("group", "split", "start_s", "end_s") if key in line}
    media = {
        file.medium: {
            "path": file.paths[part % len(file.paths)],
            "meta": {"file": file.file, "group": file.file} | known,
        }
        for file in files
    }
    subtype = line.get("subtype", how.subtype) if "audio" in media else None
    return {
        "id": name,
        "modalities": media,
        "text": {"caption": line["caption"]},
        "task": TASKS_BY_MEDIA[tuple(media)][0],
        "source": line.get("source", how.source),
        "license": line.get("license", how.license),
    } | ({"subtype": subtype} if subtype else {})


def _name(line: Mapping[str, str]) -> str:
    """An id for a row without one: several captions of one file are several rows."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(line["file"]).stem)[:60]
    return f"{plain}-{hash_of(line['file'] + chr(0) + line['caption'])[:8]}"


def _set_apart(rows: Spool, captions: Path | Published, how: Adoption, result: Adopted) -> Splits:
    """The splits of `splits_of`; a refusal says what was left out before."""
    left_out = result.left_out
    if not rows:
        why = f"the first reason: {left_out[0]}" if left_out else "the table is empty"
        raise ManifestError(f"{captions}: no row can be used ({why}); mend the table")
    try:
        splits = splits_of(rows, how.golden)
    except ManifestError as error:
        why = f"; {len(left_out)} rows were left out, the first: {left_out[0]}" if left_out else ""
        raise ManifestError(f"{error}{why}") from error
    result.rows = splits.counts
    return splits
