"""A toy of a list's entry, the files it is for, and a hub that has them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hub import Hub, serving
from huggingface_hub import HfApi, constants

from lumo.pull import Entry
from lumo.pull.hub import fetch, order
from lumo.pull.store import Shelf

FILES = {
    "config.json": b'{"model_type": "toy"}',
    "sub/model.safetensors": bytes(range(256)) * 2000,
    "empty.txt": b"",
    "notes.md": b"left there",
}
ENTRY = {
    "name": "toy",
    "priority": "P0",
    "kind": "backbone",
    "licence": "MIT",
    "gated": False,
    "hub": {"repo": "some/thing", "files": ["*.json", "*.safetensors", "*.txt"]},
}
BY_HAND = {k: ENTRY[k] for k in ("priority", "licence", "gated")} | {
    "name": "by-hand",
    "kind": "dataset",
    "by_hand": {"url": "https://example.org/1", "steps": "unpack it"},
}
BIG = "sub/model.safetensors"
WANTED = {name: content for name, content in FILES.items() if name != "notes.md"}
GATED = (403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})


@pytest.fixture(name="hub")
def fixture_hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    with serving(Hub(dict(FILES))) as hub:
        # what HF_ENDPOINT sets when huggingface_hub is imported
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)  # what it holds back of a stream before it writes
        yield hub


@pytest.fixture(name="api")
def fixture_api(hub):
    return HfApi(endpoint=hub.url, token=False)


def entry(**changes) -> Entry:
    return Entry.model_validate(ENTRY | changes)


def pulled(root: Path, api: HfApi, **changes) -> Shelf:
    item = order(entry(**changes), root, api)
    fetch(item, api)
    return item.shelf


def a_list(folder: Path, *entries: dict) -> Path:
    path = folder / "list.yaml"
    path.write_text(yaml.safe_dump(list(entries)))
    return path


def there(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and ".lumo" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
