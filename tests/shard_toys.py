"""A few rows of the generated world with their media, and shards of them."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from lumo.datasets import world
from lumo.media import Image, png_bytes, wav_bytes
from lumo.shards import SPLITS, Plan, read_shards, write_shards

PLAN = Plan(eval_share=0.3, golden_source="world-held-out", samples_per_shard=3)


def write_media(folder: Path, row: dict) -> None:
    for medium in row["modalities"].values():
        media = world.render(medium["meta"])
        path = folder / medium["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png_bytes(media) if isinstance(media, Image) else wav_bytes(media))


def write_manifest(folder: Path, rows: list[dict]) -> Path:
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make_rows() -> list[dict]:
    """Five pictures, three clips, two of both, two held out."""
    everything = list(world.rows(seed=0, images=5, clips=3, pairs=2))
    return [*everything[:10], everything[10], everything[-1]]


@pytest.fixture(name="described", scope="module")
def fixture_described(tmp_path_factory) -> tuple[Path, list[dict]]:
    folder = tmp_path_factory.mktemp("media")
    rows = make_rows()
    for row in rows:
        write_media(folder, row)
    write_manifest(folder, rows)
    return folder, rows


@pytest.fixture(name="shards", scope="module")
def fixture_shards(described, tokenizer, tmp_path_factory) -> Path:
    """What an unbroken run writes."""
    folder = tmp_path_factory.mktemp("shards")
    write_shards(described[0] / "manifest.jsonl", folder, tokenizer, PLAN)
    return folder


@pytest.fixture(name="own")
def fixture_own(tmp_path):
    """A folder for media of one's own, with the first rows of the world."""
    rows = make_rows()[:10]
    for row in rows:
        write_media(tmp_path, row)
    return tmp_path, rows


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def all_samples(folder, space):
    return [sample for split in SPLITS for sample in read_shards(folder, split, space)]


def members(folder: Path) -> list[str]:
    return [name for path in sorted(folder.glob("*.tar")) for name in tarfile.open(path).getnames()]
