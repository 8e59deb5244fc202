"""Manifest to token shards, and back.

A shard is a WebDataset tar with a `.json` and one `.npy` of ids a modality for each sample. It is written deterministically,
whole or not at all, and resumed shard by shard: beside `train-000003.tar` stands `train-000003.json`, written last, with the
tar's SHA-256 and a fingerprint of what it was made from. `shards.json` closes the set.

Axes: n token.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import webdataset
from jaxtyping import Int

from lumo.codecs import CodecError
from lumo.datasets.manifest import ManifestError, Row, inside, read_manifest
from lumo.files import write_atomically
from lumo.media import MediaError
from lumo.space import SpaceError, TokenSpace
from lumo.tokenizer import UnifiedTokenizer

SPLITS = ("train", "eval", "golden")


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


@dataclass(frozen=True)
class Plan:
    """Which row goes where: the split is a hash of the id, but for rows of `golden_source`, which are kept for the golden suites,
    and for rows whose media say it themselves: `meta.split`, `train` or `eval`, is a published dataset's own.

    Rows whose media say the same `meta.group` (several captions, or parts, of one file) go the same way.
    """

    eval_share: float
    golden_source: str
    samples_per_shard: int

    def split(self, row: Row) -> str:
        if row.source == self.golden_source:
            return "golden"
        said = [medium.meta.get("split") for _, medium in row.modalities.items()]
        for split in ("eval", "train"):
            if split in said:
                return split
        groups = [str(medium.meta["group"]) for _, medium in row.modalities.items() if "group" in medium.meta]
        return "eval" if unit_hash(groups[0] if groups else row.id) < self.eval_share else "train"


def unit_hash(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def write_shards(
    manifest: Path,
    folder: Path,
    tokenizer: UnifiedTokenizer,
    plan: Plan,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> dict[str, Any]:
    """Tokenise a manifest into `folder`; shards that are already there whole, from the same input, are kept.

    progress: called with rows done and rows in all
    Returns the content of `shards.json`: for each split its shards, samples and tokens, and the rows left out with the reason.
    Raises ManifestError when the manifest can't be read.
    """
    rows, left_out = read_manifest(manifest)
    by_split = {split: [row for row in rows if plan.split(row) == split] for split in SPLITS}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "shards.json").unlink(missing_ok=True)  # until all is written again, this is no whole set
    index: dict[str, Any] = {"space_sha256": tokenizer.space.sha256, "splits": {}, "left_out": left_out}
    done = 0
    for split, members in by_split.items():
        index["splits"][split] = []
        for start in range(0, len(members), plan.samples_per_shard):
            chunk = members[start : start + plan.samples_per_shard]
            name = f"{split}-{start // plan.samples_per_shard:06d}"
            card = _whole(folder / name, fingerprint := _fingerprint(manifest.parent, chunk, tokenizer.space))
            if card is None:
                card = _write_shard(
                    folder / name,
                    chunk,
                    manifest.parent,
                    tokenizer,
                    fingerprint,
                    lambda n, d=done: progress(d + n, len(rows)),
                )
            done += len(chunk)
            progress(done, len(rows))
            index["left_out"] += card["left_out"]
            index["splits"][split].append({key: card[key] for key in ("name", "sha256", "samples", "tokens")})
    for stale in set(folder.glob("*.tar")) - {
        folder / s["name"] for shards in index["splits"].values() for s in shards
    }:
        stale.unlink()
        stale.with_suffix(".json").unlink(missing_ok=True)
    tokenizer.space.save(folder)
    # written last: its presence means that the set is whole
    write_atomically(folder / "shards.json", json.dumps(index, indent=2, sort_keys=True) + "\n")
    return index


def _fingerprint(base: Path, rows: list[Row], space: TokenSpace) -> str:
    """Of what a shard is made: the rows, the size and time of their files, and the space."""
    digest = hashlib.sha256(space.sha256.encode())
    for row in rows:
        digest.update(row.model_dump_json().encode())
        for _, medium in row.modalities.items():
            try:
                stat = (base / medium.path).stat()
                digest.update(f"{stat.st_size} {stat.st_mtime_ns}".encode())
            except OSError:
                digest.update(b"missing")
    return digest.hexdigest()


def _whole(stem: Path, fingerprint: str) -> dict[str, Any] | None:
    """The card of a shard that is there, whole, and made from this input."""
    try:
        card = json.loads(stem.with_suffix(".json").read_text())
        same = card["fingerprint"] == fingerprint and card["sha256"] == _sha256(stem.with_suffix(".tar"))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return card if same else None


def _write_shard(
    stem: Path,
    rows: list[Row],
    base: Path,
    tokenizer: UnifiedTokenizer,
    fingerprint: str,
    progress: Callable[[int], None],
) -> dict[str, Any]:
    left_out: list[str] = []
    samples = list(tokenise(rows, base, tokenizer, left_out, progress))
    tokens: Counter[str] = Counter()
    for sample in samples:
        tokens.update({modality: len(ids) for modality, ids in sample.ids.items()})
    data = tar_of(samples)
    write_atomically(stem.with_suffix(".tar"), data)
    card = {
        "name": f"{stem.name}.tar",
        "sha256": hashlib.sha256(data).hexdigest(),
        "fingerprint": fingerprint,
        "samples": len(samples),
        "tokens": dict(tokens),
        "left_out": left_out,
    }
    # written last: its presence means that the tar beside it is whole
    write_atomically(stem.with_suffix(".json"), json.dumps(card, indent=2, sort_keys=True) + "\n")
    return card


def tokenise(
    rows: list[Row],
    base: Path,
    tokenizer: UnifiedTokenizer,
    left_out: list[str],
    progress: Callable[[int], None],
    batch: int = 64,
) -> Iterator[Sample]:
    """Rows to samples, in order; a row whose media can't be used adds one line to `left_out`."""
    for start in range(0, len(rows), batch):
        chunk = rows[start : start + batch]
        media: dict[tuple[int, str], Any] = {}
        bad = set()
        for at, row in enumerate(chunk):
            for modality, medium in row.modalities.items():
                try:
                    media[at, modality] = tokenizer.codecs[modality].read(inside(base, medium.path))
                except (MediaError, ManifestError, CodecError) as error:
                    left_out.append(f"{row.id}: {error}")
                    bad.add(at)
        ids: dict[int, dict[str, Any]] = {at: {} for at in range(len(chunk)) if at not in bad}
        for modality, keys in groupby(
            sorted((key for key in media if key[0] not in bad), key=lambda key: key[1]), key=lambda key: key[1]
        ):
            keys = list(keys)
            for (at, _), line in zip(keys, tokenizer.encode(modality, [media[key] for key in keys]), strict=True):
                ids[at][modality] = line
        for at, lines in ids.items():
            row = chunk[at]
            yield Sample(row.id, lines | {"text": tokenizer.encode_text(row.text.caption)}, row.model_dump(mode="json"))
        progress(min(start + batch, len(rows)))


def tar_of(samples: list[Sample]) -> bytes:
    """A shard's bytes."""
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
        with io.BytesIO() as buffer:
            np.save(buffer, ids.astype(np.int32), allow_pickle=False)
            packed[f"{modality}.npy"] = buffer.getvalue()
    return packed


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
    """All samples of a split. Raises ShardError for a damaged tar, SpaceError for another token space."""
    samples = []
    for shard in read_index(folder, space)["splits"][split]:
        path = folder / shard["name"]
        if not path.is_file() or _sha256(path) != shard["sha256"]:
            raise ShardError(f"{path}: missing or damaged, its SHA-256 is not the one in shards.json; run 02_shards")
        # every process of a run reads every shard: which part of a batch is whose is decided later
        dataset = webdataset.WebDataset([str(path)], shardshuffle=False, empty_check=False, nodesplitter=iter)
        try:
            samples += [_unpack(members, space) for members in dataset]
        except SpaceError as error:
            raise SpaceError(f"{path}: {error}") from error
        except (ValueError, KeyError, tarfile.TarError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ShardError(f"{path}: holds what lumo doesn't write ({reason}); run 02_shards") from error
    return samples


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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
