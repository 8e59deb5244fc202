"""Datasets: one small file a format. `manifest_of` finds, or writes, what a profile trains on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from lumo.datasets.manifest import ManifestError, Row, inside
from lumo.datasets.world import write_world
from lumo.media import Audio, Image, MediaError, read_audio, read_image
from lumo.params import ROOT, Profile


def previews(manifest: Path, rows: Sequence[Row], modality: str, count: int) -> list[tuple[Image | Audio, str]]:
    """The first few media of a manifest with their captions; a file that can't be read is passed over here, and counted when shards are made."""
    read = {"image": read_image, "audio": read_audio}[modality]
    found = []
    for row in rows:
        if len(found) == count:
            break
        if medium := getattr(row.modalities, modality):
            with suppress(MediaError, ManifestError):
                found.append((read(inside(manifest.parent, medium.path)), row.text.caption))
    return found


def manifest_of(profile: Profile, world_folder: Path) -> Path:
    """The manifest that a profile names; without one the miniature's world, written to `world_folder` unless it is there whole."""
    if profile.data.manifest:
        return ROOT / os.path.expanduser(profile.data.manifest)
    return write_world(world_folder, seed=profile.seed, **profile.world.model_dump())
