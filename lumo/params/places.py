"""Where things lie: the project, its profiles, and the weights that a profile names."""

from __future__ import annotations

import os
from pathlib import Path

from lumo import hub_cache
from lumo.params.schema import ParamsError

ROOT = Path(__file__).resolve().parents[2]
PARAMS = ROOT / "params"
MINIATURE = ROOT / "lumo" / "miniature" / "weights"
PULL = "; `lumo pull` fetches published ones, of which a plan needs the small files alone (params/README.md)"


def weights_folder(path: str | None, miniature: str, files: tuple[str, ...] = ("config.json",)) -> Path:
    """Where a part's weights lie: a folder that the profile names, relative to the project or in the hub's cache (`hub:OWNER/NAME`,
    see `lumo.hub_cache`), or the miniature's own. Of EnCodec's, Meta's own `.th` file instead of a folder.

    files: what must lie there
    Raises ParamsError when one of them doesn't, or when there is no such `.th` file; HubError for what the cache hasn't.
    """
    folder = MINIATURE / miniature if path is None else _named(path)
    if folder.suffix == ".th":
        if not folder.is_file():
            raise ParamsError(f"{folder}: no such file; expected EnCodec's weights in Meta's format")
        return folder
    for file in files:
        if not (folder / file).is_file():
            more = PULL if file == "config.json" else ""
            raise ParamsError(f"{folder}: no {file} there; expected a folder with {' and '.join(files)}{more}")
    return folder


def has_weights(path: str | None) -> bool:
    """Whether weights lie where a profile's `path` points. A plan can be made from a folder with config.json alone; nothing can be run."""
    if path is None:
        return True
    place = _named(path)
    return place.suffix == ".th" or any(file.suffix in (".safetensors", ".pt", ".ckpt") for file in place.glob("*"))


def _named(path: str) -> Path:
    return hub_cache.snapshot(path) if hub_cache.is_hub(path) else ROOT / os.path.expanduser(path)
