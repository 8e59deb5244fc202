"""Datasets: one small file a format. `manifest_of` finds, or writes, what a profile trains on."""

from __future__ import annotations

from pathlib import Path

from lumo.datasets.world import write_world
from lumo.params import ROOT, Profile


def manifest_of(profile: Profile, world_folder: Path) -> Path:
    """The manifest that a profile names; without one the miniature's world, written to `world_folder` unless it is there whole."""
    if profile.data.manifest:
        return ROOT / Path(profile.data.manifest).expanduser()
    amounts = profile.world
    return write_world(world_folder, amounts.images, amounts.clips, amounts.pairs, profile.seed)
