"""Sets of shards that are half-written, foreign or damaged aren't read."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from refusals import refused
from shard_toys import (  # noqa: F401 - fixtures
    content,
    fixture_described,
    fixture_shards,
)

from lumo.shards import ShardError, read_index, read_shards
from lumo.space import SpaceError

# --- foreign and damaged sets -----------------------------------------------------------------------------------------


def test_a_folder_without_its_index_is_not_read(shards, tokenizer, tmp_path):
    for name, data in content(shards).items():
        if name != "shards.json":
            (tmp_path / name).write_bytes(data)
    for folder in (tmp_path, tmp_path / "nowhere"):
        with refused(ShardError, f"{folder}: no whole set of shards", "run 02_shards"):
            read_shards(folder, "train", tokenizer.space)


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", "null", '{"space_sha256": "a"}'])
def test_an_index_that_is_none_is_refused(shards, tokenizer, tmp_path, text):
    (tmp_path / "shards.json").write_text(text)
    with refused(ShardError, f"{tmp_path}: no whole set of shards", "run 02_shards"):
        read_index(tmp_path, tokenizer.space)


@pytest.mark.parametrize(
    ("card", "field", "value"),
    [("audio", "bandwidth_kbps", 9.9), ("image", "weights_sha256", "0" * 64), ("text", "sha256", "1" * 64)],
)
def test_another_token_space_is_refused_and_its_field_named(shards, space, card, field, value):
    other = dataclasses.replace(space, **{card: {**getattr(space, card), field: value}})
    with refused(SpaceError, f"{shards}: another token space", f"field '{card}.{field}' is", f"expected {value!r}"):
        read_shards(shards, "train", other)


def test_an_index_of_another_space_than_its_file_says_is_refused(shards, space, tmp_path):
    index = json.loads((shards / "shards.json").read_text()) | {"space_sha256": "f" * 64}
    (tmp_path / "shards.json").write_text(json.dumps(index))
    space.save(tmp_path)
    with refused(ShardError, "token space ffffffffffff, expected", "run 02_shards"):
        read_index(tmp_path, space)


def crafted(shards: Path, folder: Path, data: bytes) -> Path:
    """A set whose first training shard is `data`, hash and all."""
    for name, old in content(shards).items():
        (folder / name).write_bytes(old)
    index = json.loads((folder / "shards.json").read_text())
    (folder / "train-000000.tar").write_bytes(data)
    index["splits"]["train"][0]["sha256"] = hashlib.sha256(data).hexdigest()
    (folder / "shards.json").write_text(json.dumps(index))
    return folder


def tar_of(**content: bytes) -> bytes:
    with io.BytesIO() as buffer:
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for name, data in content.items():
                member = tarfile.TarInfo(f"000000.{name.replace('_', '.')}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    with io.BytesIO() as buffer:
        np.save(buffer, array, allow_pickle=True)
        return buffer.getvalue()


class Bomb:
    """Runs when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


ROW = json.dumps({"id": "a", "row": {}}).encode()


def test_a_pickle_in_a_shard_is_refused_and_never_run(shards, space, tmp_path):
    marker = tmp_path / "marker"
    bomb = npy(np.array([Bomb(marker)], dtype=object))
    np.load(io.BytesIO(bomb), allow_pickle=True)
    assert marker.exists()  # it would have run
    marker.unlink()
    folder = crafted(shards, tmp_path, tar_of(json=ROW, image_npy=bomb))
    with refused(ShardError, "train-000000.tar: holds what lumo doesn't write", "allow_pickle=False", "run 02_shards"):
        read_shards(folder, "train", space)
    assert not marker.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"no tar at all" * 100,
        tar_of(json=b"{", text_npy=npy(np.arange(3))),
        tar_of(json=b"{}", text_npy=npy(np.arange(3))),
        tar_of(text_npy=npy(np.arange(3))),
        tar_of(json=ROW, text_npy=b"no array"),
    ],
    ids=["no tar", "no json", "empty json", "json missing", "no array"],
)
def test_what_lumo_does_not_write_is_refused(shards, space, tmp_path, data):
    with refused(ShardError, "train-000000.tar: holds what lumo doesn't write", "run 02_shards"):
        read_shards(crafted(shards, tmp_path, data), "train", space)


def test_ids_outside_the_space_are_refused(shards, space, tmp_path):
    folder = crafted(shards, tmp_path, tar_of(json=ROW, text_npy=npy(np.array([3, space.size]))))
    with refused(SpaceError, "train-000000.tar: token space holds ids 0 to", f"got 3 to {space.size}"):
        read_shards(folder, "train", space)
