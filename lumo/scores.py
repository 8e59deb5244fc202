"""Scores: how much of what was asked for is there.

The miniature's evidence is attribute accuracy, judged by the world's readers. Samples of other sources have no known attributes
and get no score here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lumo.datasets import readers, world
from lumo.media import Audio, Image


def scene_of_row(row: Mapping, modality: str) -> world.Scene | None:
    """What a row's picture or clip shows, if the world knows it; other datasets may have a `kind` of their own."""
    medium = row["modalities"].get(modality)
    meta = medium["meta"] if medium else {}
    known = world.ATTRIBUTES.get(str(meta.get("kind")))
    return world.scene_of(meta) if known and set(known) <= meta.keys() else None


def attributes(media: Image | Audio | str | None, scene: world.Scene) -> dict[str, bool]:
    """For each attribute whether the media shows it; nothing is right in what isn't there."""
    return readers.right(media, scene) if media is not None else dict.fromkeys(scene.attributes, False)


def all_right(scored: Sequence[Mapping[str, bool]]) -> float:
    """Share of cases with every attribute right."""
    return sum(all(case.values()) for case in scored) / len(scored)


def attributes_right(scored: Sequence[Mapping[str, bool]]) -> float:
    """Share of attributes that are right, over all cases."""
    flat = [right for case in scored for right in case.values()]
    return sum(flat) / len(flat)
