"""What shards must hold, looked at as samples pass by: of each some hashes of 8 bytes are kept, and nothing else.

Axes: n token.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from lumo.datasets.manifest import inside
from lumo.shards.format import Sample
from lumo.shards.usage import CodebookUse
from lumo.tokenizer import UnifiedTokenizer

NAMED = 20  # faulty samples that are named; the rest is counted
Hashes = defaultdict[str, array]  # by split


class ShardAudit:
    """Every sample that `watch` was given is seen; `findings` and `usage` say of them all.

    every: of how many samples one is kept in `spots`, for `spot_checks`
    faults: the first samples whose ids aren't as many as their codec gives, or aren't each in its own block
    rows: how many samples there are of which (source, task, split)
    """

    def __init__(self, tokenizer: UnifiedTokenizer, every: int):
        self.tokenizer, self.every = tokenizer, every
        self.spots: list[Sample] = []
        self.faults: list[str] = []
        self.rows: Counter[tuple[str, str, str]] = Counter()
        self._faulty = self._samples = 0
        self._counts = np.zeros(tokenizer.space.size, dtype=np.int64)
        self._ids, self._media, self._contents = (Hashes(lambda: array("Q")) for _ in range(3))
        self._whole = hashlib.sha256()

    def watch(self, split: str, samples: Iterable[Sample]) -> Iterator[Sample]:
        """Hands the samples on, and looks at each."""
        for sample in samples:
            self._see(split, sample)
            yield sample

    def _see(self, split: str, sample: Sample) -> None:
        if self._samples % self.every == 0:
            self.spots.append(sample)
        self._samples += 1
        self.rows[sample.row["source"], sample.row["task"], split] += 1
        if fault := _fault(sample, self.tokenizer):
            self._faulty += 1
            self.faults += [f"{split}: {sample.id}: {fault}"] if len(self.faults) < NAMED else []
        lines = {name: name.encode() + ids.tobytes() for name, ids in sorted(sample.ids.items())}
        self._ids[split].append(_hash(sample.id.encode()))
        self._media[split].extend(_hash(line) for name, line in lines.items() if name != "text")
        self._contents[split].append(_hash(b"".join(lines.values())))
        self._whole.update(hashlib.sha256(sample.id.encode() + b"".join(lines.values())).digest())
        if split == "train":
            for ids in sample.ids.values():
                np.add.at(self._counts, ids, 1)

    def findings(self) -> dict[str, Any]:
        """Counts of what must not be, and the SHA-256 of every sample's own.

        media_in_two_splits: pictures and clips of eval or golden, whatever their ids are called, whose codes are learned from too
        golden_media_learned: those of golden alone
        repeated: samples with the same codes and words as one before, in the same split
        """
        learned, golden = _unique(self._media["train"]), _unique(self._media["golden"])
        held = np.union1d(_unique(self._media["eval"]), golden)
        return {
            "samples": self._samples,
            "out_of_place": self._faulty,
            "in_two_splits": _shared(self._ids),
            "media_in_two_splits": len(np.intersect1d(learned, held)),
            "golden_media_learned": len(np.intersect1d(learned, golden)),
            "repeated": sum(len(part) - len(_unique(part)) for part in self._contents.values()),
            "samples_sha256": self._whole.hexdigest(),
        }

    def usage(self) -> list[CodebookUse]:
        """How often each code of each block occurs in train."""
        return [
            CodebookUse(block.name, self._counts[block.start : block.end]) for block in self.tokenizer.space.blocks[2:]
        ]


def spot_checks(spots: Iterable[Sample], tokenizer: UnifiedTokenizer, base: Path) -> dict[str, int]:
    """How many of these samples decode, and how many get the same ids when their files and words are tokenised again.

    base: the manifest's folder
    only_read: of these, samples with a medium that its codec can't decode
    """
    counts = {"retokenised": 0, "retokenised_same": 0, "decoded": 0, "only_read": 0}
    for sample in spots:
        counts["retokenised"] += 1
        counts["retokenised_same"] += _holds(_same, sample, tokenizer, base)
        if any(tokenizer.codecs[modality].cannot_decode for modality in sample.modalities - {"text"}):
            counts["only_read"] += 1
        else:
            counts["decoded"] += _holds(_decodes, sample, tokenizer)
    return counts


def _holds(check: Any, *arguments: Any) -> bool:
    """A file that is gone and ids that don't decode are findings, not errors."""
    try:
        return check(*arguments)
    except (ValueError, OSError):
        return False


def _same(sample: Sample, tokenizer: UnifiedTokenizer, base: Path) -> bool:
    for modality in sample.modalities - {"text"}:
        path = inside(base, sample.row["modalities"][modality]["path"])
        again = tokenizer.encode(modality, [tokenizer.codecs[modality].read(path)])[0]
        # a codec may round a code the other way in a batch of another size: one in a hundred is let pass
        if again.shape != sample.ids[modality].shape or np.mean(again == sample.ids[modality]) < 0.99:
            return False
    return np.array_equal(tokenizer.encode_text(sample.row["text"]["caption"]), sample.ids["text"])


def _decodes(sample: Sample, tokenizer: UnifiedTokenizer) -> bool:
    for modality in sample.modalities - {"text"}:
        tokenizer.decode(modality, sample.ids[modality][None])
    return bool(tokenizer.decode_text(sample.ids["text"]))


def _fault(sample: Sample, tokenizer: UnifiedTokenizer) -> str | None:
    """What is wrong with a sample's ids: their number, or a block that isn't theirs."""
    for modality, ids in sample.ids.items():
        names = ["text"] if modality == "text" else tokenizer.blocks(modality)
        wanted = len(ids) if modality == "text" else tokenizer.tokens_of(modality)
        if len(ids) != wanted or not len(ids):
            return f"{len(ids)} ids of {modality}, expected {wanted or 'some'}"
        if outside := _outside(ids, names, tokenizer):
            return outside
    return None


def _outside(ids: Int[np.ndarray, "n"], names: list[str], tokenizer: UnifiedTokenizer) -> str | None:
    """The first id that isn't in the block of its place; blocks take turns."""
    for at, name in enumerate(names):
        block, own = tokenizer.space.block(name), ids[at :: len(names)]
        wrong = own[(own < block.start) | (own >= block.end)]
        if len(wrong):
            return f"{tokenizer.space.name_of(int(wrong[0]))} where {name} stands"
    return None


def _shared(hashes: Hashes) -> int:
    """How many hashes occur in more than one split."""
    parts = [_unique(part) for part in hashes.values()]
    return sum(map(len, parts)) - len(np.unique(np.concatenate(parts))) if parts else 0


def _unique(hashes: array) -> Int[np.ndarray, "n"]:
    return np.unique(np.frombuffer(hashes, np.uint64))


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")
