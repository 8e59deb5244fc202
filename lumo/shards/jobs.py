"""What there is to do for a manifest, cut into jobs of one shard each; and one job, which gives the same bytes on whatever machine.

Axes: b row · n token.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from lumo.codecs import CodecError
from lumo.datasets.manifest import ManifestError, Row, inside, rows_at, stream_manifest, task_fault
from lumo.datasets.splits import group_of, said_split
from lumo.files import sha256_of, write_atomically
from lumo.media import Audio, Image, MediaError
from lumo.params import Data
from lumo.shards.format import Sample, tar_of
from lumo.space import TokenSpace
from lumo.tokenizer import UnifiedTokenizer

SPLITS = ("train", "eval", "golden")
BATCH = 64
Card = dict[str, Any]
# modality and media to lines of ids, as `UnifiedTokenizer.encode`
Encode = Callable[[str, Sequence[Image | Audio]], Int[np.ndarray, "b n"]]


@dataclass(frozen=True)
class Plan:
    """Which row goes where: the split is a hash of the id, but for rows of `golden_source`, which are kept for the golden suites,
    and for rows whose media say it themselves: `meta.split` is `train` or `eval` where a published dataset says so, and `golden`.

    Rows whose media say the same `meta.group` (several captions, or parts, of one file) go the same way.
    """

    eval_share: float
    golden_source: str
    samples_per_shard: int

    @classmethod
    def of(cls, data: Data) -> Plan:
        """The plan that a profile asks for."""
        return cls(data.eval_share, data.golden_source, data.samples_per_shard)

    def split(self, row: Row) -> str:
        by_hash = "eval" if unit_hash(group_of(row)) < self.eval_share else "train"
        return said_split(row, self.golden_source) or by_hash


def unit_hash(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


@dataclass(frozen=True)
class Job:
    """One shard to make. starts: the bytes at which its rows begin in the manifest, so that a job is small whatever the rows hold."""

    manifest: Path
    folder: Path
    split: str
    number: int
    starts: array[int]

    @property
    def stem(self) -> Path:
        return self.folder / f"{self.split}-{self.number:06d}"


def jobs_of(manifest: Path, folder: Path, plan: Plan) -> tuple[list[Job], list[str]]:
    """All shards of a manifest, split by split, and a line for each row that can't be used. 8 bytes a row are held.

    Raises ManifestError when the manifest can't be read.
    """
    starts, left_out = {split: array("q") for split in SPLITS}, []
    for at, row in stream_manifest(manifest):
        if fault := task_fault(row) if isinstance(row, Row) else row:
            left_out.append(fault)
        else:
            starts[plan.split(row)].append(at)
    size = plan.samples_per_shard
    jobs = [
        Job(manifest, folder, split, number, own[number * size : (number + 1) * size])
        for split, own in starts.items()
        for number in range(-(-len(own) // size))
    ]
    return jobs, left_out


def make(job: Job, tokenizer: UnifiedTokenizer, encode: Encode, tell: Callable[[int], None]) -> Card:
    """The shard of a job, and its card; a shard that is already there whole, from the same input, is kept.

    encode: the tokenizer's own, or one that hands the batch to another thread
    tell: called with the number of rows that are done since
    Raises ManifestError when the manifest was changed meanwhile.
    """
    rows, base = rows_at(job.manifest, job.starts), job.manifest.parent
    fingerprint = _fingerprint(base, rows, tokenizer.space)
    if card := _whole(job.stem, fingerprint):
        tell(len(rows))
        return card
    left_out: list[str] = []
    counts: Counter[str] = Counter()
    data = tar_of(_counted(tokenise(rows, base, tokenizer, encode, left_out, tell), counts))
    samples = counts.pop("samples", 0)
    write_atomically(job.stem.with_suffix(".tar"), data)
    card = {
        "name": f"{job.stem.name}.tar",
        "sha256": hashlib.sha256(data).hexdigest(),
        "fingerprint": fingerprint,
        "samples": samples,
        "tokens": dict(counts),
        "left_out": left_out,
    }
    # written last: its presence means that the tar beside it is whole
    write_atomically(job.stem.with_suffix(".json"), json.dumps(card, indent=2, sort_keys=True) + "\n")
    return card


def _counted(samples: Iterable[Sample], counts: Counter[str]) -> Iterator[Sample]:
    """Hands the samples on, and counts them and the tokens of each of their modalities."""
    for sample in samples:
        counts.update({"samples": 1} | {modality: len(ids) for modality, ids in sample.ids.items()})
        yield sample


def _fingerprint(base: Path, rows: list[Row], space: TokenSpace) -> str:
    """A hash of what a shard is made from: the rows, the size and time of their files, and the space."""
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


def _whole(stem: Path, fingerprint: str) -> Card | None:
    """The card of a shard that is there, whole, and made from this input."""
    try:
        card = json.loads(stem.with_suffix(".json").read_text())
        same = card["fingerprint"] == fingerprint and card["sha256"] == sha256_of(stem.with_suffix(".tar"))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return card if same else None


def tokenise(
    rows: list[Row],
    base: Path,
    tokenizer: UnifiedTokenizer,
    encode: Encode,
    left_out: list[str],
    tell: Callable[[int], None],
) -> Iterator[Sample]:
    """Rows to samples, in order; a row whose media can't be used adds one line to `left_out`."""
    root = base.resolve()
    for start in range(0, len(rows), BATCH):
        chunk = rows[start : start + BATCH]
        media: dict[tuple[int, str], Image | Audio] = {}
        bad = set()
        for at, row in enumerate(chunk):
            for modality, medium in row.modalities.items():
                try:
                    media[at, modality] = tokenizer.codecs[modality].read(inside(base, medium.path, root))
                except (MediaError, ManifestError, CodecError) as error:
                    left_out.append(f"{row.id}: {error}")
                    bad.add(at)
        ids: dict[int, dict[str, Any]] = {at: {} for at in range(len(chunk)) if at not in bad}
        for modality in sorted({modality for at, modality in media if at in ids}):
            places = [at for at in ids if (at, modality) in media]
            for at, line in zip(places, encode(modality, [media[at, modality] for at in places]), strict=True):
                ids[at][modality] = line
        for at, lines in ids.items():
            row = chunk[at]
            yield Sample(row.id, lines | {"text": tokenizer.encode_text(row.text.caption)}, row.model_dump(mode="json"))
        tell(len(chunk))
