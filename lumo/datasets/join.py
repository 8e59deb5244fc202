"""One dataset of several: a manifest of all their rows, and beside it their files, in a folder for each.

Ids and paths begin with the dataset's name, which is its folder's. Files are linked where the disk allows it, else copied: what is joined can
be moved as one, and takes no room twice. Sources, licences and subtypes stay each row's own, so that the ledger shows them all.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lumo.datasets.folder import Adopted
from lumo.datasets.manifest import ManifestError, Row, inside, stream_manifest, task_fault
from lumo.datasets.place import MARKS, check_name, claimed
from lumo.datasets.splits import STRICTEST, group_of, said_split
from lumo.files import printable, write_atomically

# recordings that several datasets take from; any other group is a name within its own dataset
SHARED = ("youtube/", "freesound/", "jamendo/", "coco/")
Check = Callable[[str, Path], Any]


def join(manifests: Sequence[Path], out: Path, golden_source: str, check: Check = lambda medium, path: None) -> Adopted:
    """Write `out/manifest.jsonl` and the files that it names. Called again it links only what is new.

    manifests: JSONL files, or the folders that `lumo adopt` wrote
    golden_source: rows of this source are golden, as are those that say `split: golden`
    check: called with the medium and the path of each dataset's first picture and first sound; what it raises ends the join before it begins
    A recording that one dataset keeps for eval or golden is learned from in none. Rows whose files aren't there, or whose task isn't one of
    their media's, are left out with a line.
    Raises ManifestError, also when a medium has nothing that is golden.
    """
    parts = _by_name(manifests, out)
    marks = _marks(parts, golden_source, check)
    result = Adopted(out / "manifest.jsonl")
    with claimed(out, "join", {"from": list(parts)}):
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in _rows(parts, out, golden_source, marks, result)]
        result.left_out[:] = map(printable, result.left_out)
        write_atomically(out / "left_out.txt", "".join(f"{line}\n" for line in result.left_out))
        _check_golden(result)
        write_atomically(result.manifest, "".join(lines))
    return result


def _by_name(manifests: Sequence[Path], out: Path) -> dict[str, Path]:
    """Each manifest by its folder's name. Raises ManifestError for names that can't stand beside each other."""
    check_name(out.name, f"{out}: its name")
    parts: dict[str, Path] = {}
    for given in manifests:
        manifest = given / "manifest.jsonl" if given.is_dir() else given
        if not manifest.is_file():
            raise ManifestError(f"{manifest}: no manifest there; name a folder that lumo adopt wrote, or a manifest")
        name = manifest.parent.resolve().name
        check_name(name, f"{manifest}: its folder's name")
        if name in parts:
            raise ManifestError(
                f"{manifest}: its folder is called {name!r}, as that of {parts[name]} is; rename one of the two"
            )
        if manifest.is_relative_to(out):
            raise ManifestError(f"{out}: holds {manifest}, which is to be joined; choose another folder to write to")
        parts[name] = manifest
    if len(parts) < 2:
        raise ManifestError(f"join: got {len(parts)} manifest, expected two or more; name what is to be joined")
    return parts


def _marks(parts: Mapping[str, Path], golden_source: str, check: Check) -> dict[str, str]:
    """The strictest split that is said of each recording. Raises ManifestError for an adopted dataset of which nothing is golden."""
    marks: dict[str, str] = {}
    for name, manifest in parts.items():
        unseen, golden = {"image", "audio"}, False
        for _, row in stream_manifest(manifest):
            if not isinstance(row, Row):
                continue
            for medium, content in row.modalities.items():
                if medium in unseen and (path := _file(manifest.parent, content.path)):
                    unseen.discard(medium)
                    check(medium, path)
            said = said_split(row, golden_source)
            golden |= said == "golden"
            if said:
                group = _group(row, name)
                marks[group] = min(said, marks.get(group, said), key=STRICTEST.index)
        if (manifest.parent / MARKS["adopt"]).is_file() and not golden:
            raise ManifestError(
                f"{manifest}: no row says split: golden, as an older lumo left it; run lumo adopt again"
            )
    return marks


def _rows(
    parts: Mapping[str, Path], out: Path, golden_source: str, marks: Mapping[str, str], result: Adopted
) -> Iterator[dict[str, Any]]:
    """All rows as the joined manifest has them, their files linked; what can't be used adds a line to `left_out`."""
    for name, manifest in parts.items():
        for _, row in stream_manifest(manifest):
            if fault := row if isinstance(row, str) else task_fault(row):
                result.left_out.append(f"{name}: {fault}")
                continue
            try:
                files = [(inside(manifest.parent, medium.path), medium.path) for _, medium in row.modalities.items()]
                targets = [inside(out, f"{name}/{relative}") for _, relative in files]
                if missing := [path for path, _ in files if not path.is_file()]:
                    raise ManifestError(f"{missing[0]}: no file there; run lumo adopt again, or mend the row")
            except ManifestError as error:
                result.left_out.append(f"{name}: {row.id}: {error}")
                continue
            for (path, _), target in zip(files, targets, strict=True):
                _link(path, target)
            group, said = _group(row, name), said_split(row, golden_source)
            mark = marks.get(group)
            split = "eval" if mark == "golden" != said else mark
            result.done["rows moved to eval with their recording"] += split == "eval" != said
            kind = "+".join(medium for medium, _ in row.modalities.items())
            result.rows.update({kind: 1, f"{kind} golden": int(split == "golden")})
            yield _renamed(row, name, group, split)


def _file(folder: Path, relative: str) -> Path | None:
    """The file that a path names, if it is one that may be read; rows of others are left out later, with a line."""
    try:
        path = inside(folder, relative)
    except ManifestError:
        return None
    return path if path.is_file() else None


def _group(row: Row, name: str) -> str:
    """A recording's name among all datasets."""
    group = group_of(row)
    return group if group.startswith(SHARED) else f"{name}/{group}"


def _renamed(row: Row, name: str, group: str, split: str | None) -> dict[str, Any]:
    content = row.model_dump(mode="json", exclude_none=True) | {"id": f"{name}/{row.id}"}
    for medium in content["modalities"].values():
        medium["path"] = f"{name}/{medium['path']}"
        medium["meta"] |= {"group": group} | ({"split": split} if split else {})
    return content


def _link(source: Path, target: Path) -> None:
    """The file under a second name, or a copy of it where it can't have one. What is there already is kept."""
    if target.exists():
        there, wanted = target.stat(), source.stat()
        if target.samefile(source) or (there.st_size, there.st_mtime_ns) == (wanted.st_size, wanted.st_mtime_ns):
            return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        os.link(source, partial)
    except OSError:  # another disk, or one without links
        shutil.copy2(source, partial)
    partial.replace(target)


def _check_golden(result: Adopted) -> None:
    """Raises ManifestError."""
    if not result.rows:
        raise ManifestError(f"join: no row can be used; {result.manifest.with_name('left_out.txt')} says why")
    if not any(count for kind, count in result.rows.items() if kind.endswith(" golden")):
        raise ManifestError("join: nothing is golden, expected some rows to measure on; give some meta.split golden")
    for medium in ("image", "audio"):
        if result.rows[medium] and not result.rows[f"{medium} golden"]:
            raise ManifestError(
                f"join: no {medium} is golden, expected some to measure on; give some rows meta.split golden, or join what lumo adopt made"
            )
