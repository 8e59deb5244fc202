"""The world's manifest, and its files: what follows is the same code as for a published dataset."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from lumo.datasets.manifest import TASKS_BY_MEDIA, ManifestError
from lumo.datasets.world.content import ATTRIBUTES, WORDINGS, Scene, held_out, seen
from lumo.datasets.world.rendering import render
from lumo.files import locked, write_atomically
from lumo.media import Image, png_bytes, wav_bytes


def rows(*, seed: int, images: int = 0, clips: int = 0, pairs: int = 0, held_out_pairs: int = 0) -> Iterator[dict]:
    """Manifest rows, without files: `images` pictures, `clips` sounds and `pairs` samples that have both.

    Each kind walks through its scenes in a shuffled order again and again, so that every combination is seen about equally
    often. Held-out combinations have rows of their own, source `world-held-out`: each one in every wording, and last of all
    `held_out_pairs` of a picture with a sound.
    """
    rng = np.random.default_rng(seed)
    picture = _endless(seen("image"), rng)
    # a third of the clips are effects: fewer combinations, but noisy ones
    music, sfx = _endless(seen("music"), rng), _endless(seen("sfx"), rng)
    sound = (next(source) for source in itertools.cycle((music, music, sfx)))
    for index in range(images):
        yield _row(index, {"image": next(picture)}, rng, "world")
    for index in range(clips):
        yield _row(index, {"audio": next(sound)}, rng, "world")
    for index in range(pairs):
        yield _row(index, {"image": next(picture), "audio": next(sound)}, rng, "world")
    for kind in ATTRIBUTES:
        for scene in _held_out((kind,)):
            for wording in range(len(WORDINGS[kind])):
                modality = "image" if kind == "image" else "audio"
                yield _row(wording, {modality: scene}, rng, "world-held-out", wording)
    picture, sound = (_endless(_held_out(kinds), rng) for kinds in (("image",), ("music", "sfx")))
    for index in range(held_out_pairs):
        yield _row(index, {"image": next(picture), "audio": next(sound)}, rng, "world-held-out")


def _held_out(kinds: Iterable[str]) -> list[Scene]:
    return sorted((scene for kind in kinds for scene in held_out(kind)), key=lambda scene: scene.name)


def _endless(items: list[Scene], rng: np.random.Generator) -> Iterator[Scene]:
    while True:
        yield from (items[i] for i in rng.permutation(len(items)))


def _row(
    index: int, content: dict[str, Scene], rng: np.random.Generator, source: str, wording: int | None = None
) -> dict:
    wording = int(rng.integers(12)) if wording is None else wording
    name = f"{'+'.join(scene.name for scene in content.values())}-{index:05d}"
    folder = "held_out" if source == "world-held-out" else "seen"
    sound = content.get("audio")
    return {
        "id": name,
        "modalities": {
            modality: {
                "path": f"{modality}/{folder}/{name}.{'png' if modality == 'image' else 'wav'}",
                "meta": {"kind": scene.kind, **scene.attributes, "seed": int(rng.integers(2**31))},
            }
            for modality, scene in content.items()
        },
        "text": {"caption": ", and ".join(scene.caption(wording) for scene in content.values())},
        "task": TASKS_BY_MEDIA[tuple(content)][0],
        "source": source,
        "license": "CC0-1.0",
        "subtype": sound.kind if sound else None,
    }


def write_world(
    folder: Path, *, seed: int, images: int = 0, clips: int = 0, pairs: int = 0, held_out_pairs: int = 0
) -> Path:
    """Write the world's files and `manifest.jsonl`, of so much of everything as `rows` says; the manifest's path.

    The manifest is written last: one that is there and says the same means that the files are whole, and are kept,
    unless somebody has removed some.
    Raises ManifestError while another writes it.
    """
    described = list(rows(seed=seed, images=images, clips=clips, pairs=pairs, held_out_pairs=held_out_pairs))
    text = "".join(json.dumps(row, sort_keys=True) + "\n" for row in described)
    manifest = folder / "manifest.jsonl"
    paths = (content["path"] for row in described for content in row["modalities"].values())
    if manifest.is_file() and manifest.read_text() == text and all((folder / path).is_file() for path in paths):
        return manifest
    folder.mkdir(parents=True, exist_ok=True)
    taken = ManifestError(f"{folder}: another run is writing the world there; wait for it, or stop it first")
    with locked(folder.with_name(f".{folder.name}.lock"), taken):
        manifest.unlink(missing_ok=True)
        for row in described:
            for content in row["modalities"].values():
                _write_file(folder / content["path"], content["meta"])
        return write_atomically(manifest, text)


def _write_file(path: Path, meta: dict) -> None:
    media = render(meta)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png_bytes(media) if isinstance(media, Image) else wav_bytes(media))
