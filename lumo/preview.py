"""The samples that a run will have, before there are any: rows of the manifest, or of the generated world, with codes of the right number.

Of a world beyond `ROWS_LOOKED_AT` rows of a kind so many are made, and each counts for several.

Axes: n token.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from lumo.codecs.sizes import known_codecs
from lumo.datasets import world
from lumo.datasets.manifest import Row, read_manifest, task_fault
from lumo.params import ROOT, Profile, weights_folder
from lumo.shards import Plan, Sample
from lumo.tasks import Task
from lumo.tokenizer import UnifiedTokenizer

ROWS_LOOKED_AT = 4000


@dataclass(frozen=True)
class Preview:
    """splits: train, eval, golden; left_out: rows that can't be used
    times: for how many samples of a run one stands, by its modalities; held-out samples of the world stand for themselves
    """

    splits: dict[str, list[Sample]]
    left_out: int
    times: dict[frozenset[str], float]

    @property
    def samples(self) -> list[Sample]:
        return [sample for part in self.splits.values() for sample in part]

    def count(self, samples: Sequence[Sample]) -> int:
        """How many the run will have of those that these stand for."""
        return round(sum(self.weight(sample) for sample in samples))

    def shards(self, samples_per_shard: int) -> int:
        return sum(-(-self.count(part) // samples_per_shard) for part in self.splits.values())

    def weight(self, sample: Sample) -> float:
        return 1.0 if sample.row["source"] == "world-held-out" else self.times.get(sample.modalities, 1.0)

    def times_of(self, task: Task) -> float:
        """How many of a task's samples one of these stands for."""
        return self.times.get(frozenset({"text", *task.inputs, task.target}), 1.0)


def unified_tokenizer(profile: Profile) -> UnifiedTokenizer:
    """As `load_tokenizer`, but codecs without weights are no more than their sizes."""
    backbone, codecs = weights_folder(profile.backbone.path, "backbone"), known_codecs(profile.codecs)
    return UnifiedTokenizer.of(backbone, codecs)


def manifest(profile: Profile) -> Path | None:
    """The path of a profile's own manifest; None where the generated world is the data."""
    return ROOT / os.path.expanduser(profile.data.manifest) if profile.data.manifest else None


def preview(profile: Profile, tokenizer: UnifiedTokenizer) -> Preview:
    """Raises ManifestError for a manifest that can't be read."""
    rows, left_out, times = _rows(profile)
    media = {medium: _first_codes(medium, tokenizer) for medium in ("image", "audio")}
    captions = {caption: tokenizer.encode_text(caption) for caption in {row.text.caption for row in rows}}
    splits: dict[str, list[Sample]] = {"train": [], "eval": [], "golden": []}
    split_of = Plan.of(profile.data).split
    for row in rows:
        ids = {"text": captions[row.text.caption]} | {name: media[name] for name, _ in row.modalities.items()}
        splits[split_of(row)].append(Sample(row.id, ids, row.model_dump(mode="json")))
    return Preview(splits, left_out, times)


def _rows(profile: Profile) -> tuple[list[Row], int, dict[frozenset[str], float]]:
    """The rows of a run, without a manifest the world's; how many can't be used; and for how many one stands, see `Preview`.

    What can't be used: broken rows, those of unknown tasks, and those whose files aren't there.
    """
    path = manifest(profile)
    if path is None or not path.is_file():
        amounts = profile.world
        images, clips, pairs = (min(count, ROWS_LOOKED_AT) for count in (amounts.images, amounts.clips, amounts.pairs))
        times = {
            frozenset({"text", "image"}): amounts.images / max(1, images),
            frozenset({"text", "audio"}): amounts.clips / max(1, clips),
            frozenset({"text", "image", "audio"}): amounts.pairs / max(1, pairs),
        }
        made = world.rows(
            seed=profile.seed, images=images, clips=clips, pairs=pairs, held_out_pairs=amounts.held_out_pairs
        )
        return [Row.model_validate(row) for row in made], 0, times
    rows, broken = read_manifest(path)
    usable = [row for row in rows if not task_fault(row) and _is_there(row, path.parent)]
    return usable, len(broken) + len(rows) - len(usable), {}


def _is_there(row: Row, folder: Path) -> bool:
    return all((folder / medium.path).is_file() for _, medium in row.modalities.items())


def _first_codes(medium: str, tokenizer: UnifiedTokenizer) -> Int[np.ndarray, "n"]:
    """Ids of the length that a run's will have: the first code of each codebook, over and over."""
    starts = [tokenizer.space.block(name).start for name in tokenizer.blocks(medium)]
    return np.tile(np.array(starts), tokenizer.codecs[medium].frames)
