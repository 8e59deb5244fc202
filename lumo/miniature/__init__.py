"""The miniature of the real thing: what trains its codecs and its backbone, and the weights that came of it."""

from __future__ import annotations

import shutil
from pathlib import Path

from lumo.params import MINIATURE


def install_weights(folder: Path) -> dict[str, int]:
    """Copy what 90_miniature made into the package. Returns the bytes of each file."""
    sizes = {}
    for part in ("image_codec", "audio_codec", "backbone"):
        target = MINIATURE / part
        target.mkdir(parents=True, exist_ok=True)
        for file in sorted((folder / part).glob("*")):
            shutil.copyfile(file, target / file.name)
            sizes[f"{part}/{file.name}"] = file.stat().st_size
    return sizes
