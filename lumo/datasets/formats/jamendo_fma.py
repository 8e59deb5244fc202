"""Jamendo-FMA captions: `train-*.parquet` with id, salmonn_text, chatgpt_texts and tags_text, by models, for tracks of MTG-Jamendo and FMA. No page
says the columns. They are those that https://github.com/qiuqiangkong/audio_flow reads of it (scripts/extract_features/fma.py,
create_jsonls/ttm/fma_tags.py), and the keys of its authors' own JSON, {id: {"salmonn_text": text, "chatgpt_texts": [texts]}}
(https://github.com/ETH-DISCO/discodiff, tools/inference_jamendo_salmonn.py), which is read as well where its name holds `salmonn`. The
published file was never seen. tags_text, a list of genres and instruments, isn't read.

An id is the name of a sound up to its suffix: a number, FMA's with six digits. So is one of MTG-Jamendo's from 100000 on, and only the folder tells
whose a file is: `56/123456.mp3` and `56/123456.low.mp3` are MTG-Jamendo's, `123/123456.mp3` is FMA's. An id for which both are there, or that
appears twice, is left out: nothing says which of the two is meant. Licences are those of MTG-Jamendo's `audio_licenses.txt` and of
`raw_tracks.csv` in FMA's fma_metadata.zip (track_id, license_url), where they lie in the folder.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lumo.datasets import parquet
from lumo.datasets.formats.mtg_jamendo import licenses, track_license
from lumo.datasets.formats.reading import Files, csv_rows, json_of, license_name, named
from lumo.datasets.manifest import ManifestError
from lumo.datasets.table import Lines

COLUMNS = ("id", "salmonn_text", "chatgpt_texts")


def read(files: Files, left_out: list[str]) -> Lines:
    jamendo, fma = licenses(files), _fma_licenses(files, left_out)
    seen = Counter(str(track) for _, track, _ in _entries(files))
    for where, track, entry in _entries(files):
        with named(where, left_out):
            if not isinstance(track, str) or not re.fullmatch(r"[0-9]+", track):
                raise ManifestError(f"id is {track!r:.40}, expected a track's number; mend the row")
            if seen[track] > 1:
                raise ManifestError(f"id {track} appears {seen[track]} times; keep the one that is meant")
            group, file = _found(files, track)
            known = track_license(jamendo, file) if group.startswith("jamendo/") else _fma_license(fma, track)
            line = {"file": file, "group": group, "license": known}
            for n, caption in enumerate(_captions(entry) or [None], start=1):
                yield where, line | {"caption": caption, "id": f"{group.replace('/', '-')}-{n}"}


def _entries(files: Files) -> Iterator[tuple[str, Any, Any]]:
    """(where, id, its texts). Raises ManifestError."""
    for path in files.named("train-*.parquet", "*salmonn*.json"):
        if path.suffix == ".json":
            content = json_of(path)
            if not isinstance(content, dict):
                raise ManifestError(f"{path}: is no object, expected texts by a track's number; download it again")
            yield from ((f"{path.name}:{track!r:.40}", track, entry) for track, entry in content.items())
            continue
        _check_columns(path)
        name = path.relative_to(files.folder).as_posix()
        yield from ((f"{name}:[{number}]", row["id"], row) for number, row in parquet.rows(path, COLUMNS))


def _check_columns(path: Path) -> None:
    """Raises ManifestError."""
    kinds = dict(parquet.columns_of(path))
    lacking = set(COLUMNS) - kinds.keys()
    if lacking:
        raise ManifestError(
            f"{path}: no column {' and no column '.join(sorted(lacking))}, got {[*kinds]}; name them {', '.join(COLUMNS)}"
        )
    if re.match("u?int|float|double|decimal", kinds["id"]):  # without its zeros 000002 could be MTG-Jamendo's 2
        raise ManifestError(
            f"{path}: id is {kinds['id']}, expected text: FMA's numbers have six digits; save the column as text, with its zeros"
        )


def _captions(entry: Any) -> list[Any]:
    """Raises ManifestError."""
    texts = (entry.get("chatgpt_texts") or []) if isinstance(entry, dict) else None
    if not isinstance(texts, list):
        raise ManifestError(f"got {entry!r:.60}, expected salmonn_text, and chatgpt_texts as a list; mend the row")
    return [text for text in (entry.get("salmonn_text"), *texts) if text]


def _found(files: Files, track: str) -> tuple[str, str]:
    """(group, file) by the folder. Raises ManifestError when there is none, or more than one."""
    theirs = f"{track[-2:]:0>2}/{track}"
    found = {
        f"jamendo/{track}": files.any_sound(theirs, f"{theirs}.low"),
        f"fma/{track}": files.any_sound(f"{track[:3]}/{track}"),
    }
    found = {group: file for group, file in found.items() if file}
    if len(found) > 1:
        raise ManifestError(
            f"{track}: {' and '.join(found.values())} are both of that name, MTG-Jamendo's and FMA's; keep the one that is meant"
        )
    if not found:
        raise ManifestError(f"{track}: no sound of that name in {theirs} nor {track[:3]}/{track}; was it downloaded?")
    return next(iter(found.items()))


def _fma_licenses(files: Files, left_out: list[str]) -> dict[str, str] | None:
    """Addresses of licences by track, in six digits; None where `raw_tracks.csv` isn't there."""
    paths = files.any_named("raw_tracks.csv")
    tracks = (row for path in paths for _, row in csv_rows(path, ("track_id", "license_url"), left_out))
    return {f"{row['track_id']:0>6}": row["license_url"] for row in tracks} if paths else None


def _fma_license(known: dict[str, str] | None, track: str) -> str | None:
    """Raises ManifestError for a track that isn't among the licences, or whose licence isn't known."""
    if known is None:
        return None
    if track not in known:
        raise ManifestError(f"{track}: no licence in raw_tracks.csv")
    return license_name(known[track])
