"""LAION-Audio-630K as WebDataset tars: pairs of `12.flac` and `12.json`, {"text": [captions], "tag": [...], "original_data": {...}}, in folders
of the parts' names (train, valid, test). Source: https://github.com/LAION-AI/audio-dataset (data_preprocess/README.md)

Members are read where they lie in the tar; nothing is unpacked into the folder.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from lumo.datasets.formats.reading import Files, license_name, named
from lumo.datasets.manifest import ManifestError
from lumo.datasets.splits import SPLIT_WORDS
from lumo.datasets.table import Lines
from lumo.files import printable


def read(files: Files, left_out: list[str]) -> Lines:
    for path in files.named("*.tar"):
        archive = path.relative_to(files.folder).as_posix()
        for key, pair in _pairs(path, left_out):
            where = f"{archive}:{key}"
            with named(where, left_out):
                if pair.keys() != {".flac", ".json"} or not isinstance(pair[".json"], dict):
                    raise ManifestError(f"has {' and '.join(pair)}, expected {key}.flac, and {key}.json with an object")
                said, sound = pair[".json"], pair[".flac"]
                line = {
                    "file": f"{archive}/{key}.flac",
                    "archive": archive,
                    "offset": str(sound.offset_data),
                    "size": str(sound.size),
                    "split": SPLIT_WORDS.get(path.parent.name),
                } | _origin(said.get("original_data"))
                captions = said["text"] if isinstance(said.get("text"), list) else []
                for n, caption in enumerate(captions or [None], start=1):
                    yield where, line | {"caption": caption, "id": f"laion-audio-{archive}-{key}-{n}"}


def _origin(about: Any) -> dict[str, str | None]:
    """What the source said of a sound: its licence where there is one; on Freesound its number. Raises ManifestError."""
    if not isinstance(about, dict):
        return {}
    address, freesound = about.get("license"), "freesound.org" in str(about.get("download_url"))
    return {
        "license": license_name(str(address)) if address else None,
        "group": f"freesound/{about.get('id')}" if freesound else None,
    }


def _pairs(path: Path, left_out: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Members by key: the sound's place in the tar, the JSON's content."""
    pairs: dict[str, dict[str, Any]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                name, suffix = PurePosixPath(member.name), PurePosixPath(member.name).suffix
                if member.isdir():
                    continue
                if name.is_absolute() or ".." in name.parts or not member.isfile() or member.issparse():
                    left_out.append(f"{path.name}:{member.name!r:.80}: leaves the folder or is no plain file; not read")
                    continue
                content = _json(tar.extractfile(member).read()) if suffix == ".json" else member
                pair = pairs.setdefault(str(name.with_suffix("")), {})
                if suffix in pair:
                    left_out.append(f"{path.name}:{printable(member.name)}: appears twice, the first is kept")
                    continue
                pair[suffix] = content
            tar.fileobj.seek(tar.offset)
            if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile lets a tar that was cut pass
                raise tarfile.ReadError("no end mark")
    except (tarfile.TarError, OSError, EOFError) as error:
        left_out.append(f"{path.name}: the tar is damaged ({error}), what stands before is kept; download it again")
    yield from pairs.items()


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None
