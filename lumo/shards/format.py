"""A shard's bytes, and their way back: a WebDataset tar with a `.json` and one `.npy` of ids a modality for each sample.

Axes: n token.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import webdataset
from jaxtyping import Int

from lumo.files import sha256_of
from lumo.space import SpaceError, TokenSpace
from lumo.wording import in_short


class ShardError(ValueError):
    """Shards that are missing, damaged or of another token space; the message is one line."""


@dataclass(frozen=True)
class Sample:
    """A tokenised row. ids: for each modality (`text` always) int64 [n] in the unified space; row: the manifest's row."""

    id: str
    ids: dict[str, Int[np.ndarray, "n"]]
    row: dict[str, Any]

    @property
    def modalities(self) -> frozenset[str]:
        return frozenset(self.ids)


def tar_of(samples: Iterable[Sample]) -> bytes:
    """A shard's bytes; of the samples no more than one is held."""
    buffer = io.BytesIO()
    # fixed times, owners and member order: the same input gives the same bytes
    with webdataset.TarWriter(buffer, encoder=False, mtime=0, user="lumo", group="lumo") as tar:
        for number, sample in enumerate(samples):
            tar.write(_pack(sample, number))
    return buffer.getvalue()


def _pack(sample: Sample, number: int) -> dict[str, Any]:
    """A sample as WebDataset members. The key is a number: an id is data and never becomes a file name."""
    packed: dict[str, Any] = {
        "__key__": f"{number:06d}",
        "json": json.dumps({"id": sample.id, "row": sample.row}, sort_keys=True).encode(),
    }
    for modality, ids in sorted(sample.ids.items()):
        packed[f"{modality}.npy"] = _npy_head(len(ids)) + ids.astype(np.int32).tobytes()
    return packed


@cache
def _npy_head(length: int) -> bytes:
    """What numpy's format has before so many int32. `np.save` makes it anew for every line of ids, and takes most of its time for it."""
    with io.BytesIO() as buffer:
        np.save(buffer, np.empty(length, np.int32), allow_pickle=False)
        return buffer.getvalue()[: -4 * length or None]


def read_index(folder: Path, space: TokenSpace) -> dict[str, Any]:
    """`shards.json`, checked against the token space. Raises ShardError or SpaceError."""
    try:
        index = json.loads((folder / "shards.json").read_text())
        got, _ = index["space_sha256"], index["splits"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ShardError(f"{folder}: no whole set of shards (shards.json: {error}); run 02_shards") from error
    if got != space.sha256:
        space.check_same(TokenSpace.load(folder), str(folder))
        raise ShardError(f"{folder}/shards.json: token space {got[:12]}, expected {space.sha256[:12]}; run 02_shards")
    return index


def read_shards(folder: Path, split: str, space: TokenSpace) -> list[Sample]:
    """All samples of a split. Raises what `stream_shards` raises."""
    return list(stream_shards(folder, split, space))


def stream_shards(folder: Path, split: str, space: TokenSpace) -> Iterator[Sample]:
    """The samples of a split one by one. Raises ShardError for a damaged tar, SpaceError for another token space."""
    for shard in read_index(folder, space)["splits"][split]:
        path = folder / shard["name"]
        if not path.is_file() or sha256_of(path) != shard["sha256"]:
            raise ShardError(f"{path}: missing or damaged, its SHA-256 is not the one in shards.json; run 02_shards")
        # every process of a run reads every shard: which part of a batch is whose is decided later
        dataset = webdataset.WebDataset([str(path)], shardshuffle=False, empty_check=False, nodesplitter=iter)
        members = iter(dataset)
        while sample := _next(members, path, space):
            yield sample


def _next(members: Iterator[dict[str, Any]], path: Path, space: TokenSpace) -> Sample | None:
    try:
        found = next(members, None)
        return None if found is None else _unpack(found, space)
    except SpaceError as error:
        raise SpaceError(f"{path}: {error}") from error
    except (ValueError, KeyError, tarfile.TarError) as error:
        reason = in_short(error)
        raise ShardError(f"{path}: holds what lumo doesn't write ({reason}); run 02_shards") from error


def _unpack(members: dict[str, Any], space: TokenSpace) -> Sample:
    content = json.loads(members["json"])
    ids = {
        # allow_pickle stays off: a shard may come from anywhere
        name.removesuffix(".npy"): np.load(io.BytesIO(data), allow_pickle=False).astype(np.int64)
        for name, data in members.items()
        if name.endswith(".npy")
    }
    for line in ids.values():
        space.block_index(line)  # refuses ids outside the space
    return Sample(content["id"], ids, content["row"])
