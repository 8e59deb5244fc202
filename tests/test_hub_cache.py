"""Weights in the hub's cache: a layout as huggingface_hub leaves it, written by hand; never a network."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants
from refusals import refused

from lumo.backbone import skeleton
from lumo.codecs import load_codecs
from lumo.hub_cache import HubError, commit, snapshot
from lumo.params import ROOT, ParamsError, load_profile, weights_folder
from lumo.tokenizer import load_tokenizer
from lumo.workbook.provenance import provenance

OLD, NEW = "0123456789abcdef" * 2 + "01234567", "fedcba9876543210" * 2 + "fedcba98"


def cached(cache: Path, repo: str, commit: str, refs: tuple[str, ...], folder: Path) -> Path:
    """`folder` as a snapshot: files are links to blobs, a ref is a file that holds a commit."""
    home = cache / f"models--{repo.replace('/', '--')}"
    files = home / "snapshots" / commit
    for name in ("refs", "blobs"):
        (home / name).mkdir(parents=True, exist_ok=True)
    files.mkdir(parents=True)
    for file in sorted(folder.iterdir()):
        blob = home / "blobs" / f"{commit[:8]}-{file.name}"
        shutil.copy(file, blob)
        (files / file.name).symlink_to(f"../../blobs/{blob.name}")
    for ref in refs:
        (home / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
        (home / "refs" / ref).write_text(commit)
    return files


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache; whoever opens a socket fails."""
    folder = tmp_path / "home" / "hub"
    folder.mkdir(parents=True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a run went to the network"))
    return folder


@pytest.fixture
def small(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def test_a_name_is_the_folder_of_its_commit(cache, small):
    old = cached(cache, "some/codec", OLD, ("v1", "refs/pr/7"), small)
    new = cached(cache, "some/codec", NEW, ("main",), small)
    expected = {"": new, "@main": new, "@v1": old, "@refs/pr/7": old, f"@{OLD}": old, f"@{NEW}": new}
    for revision, folder in expected.items():
        assert snapshot(f"hub:some/codec{revision}") == folder
        assert commit(f"hub:some/codec{revision}") == f"hub:some/codec@{folder.name}"


def test_it_is_the_cache_that_the_environment_names(tmp_path, small):
    folder = cached(tmp_path / "hub", "some/codec", OLD, ("main",), small)
    script = "import sys, lumo.params; print('huggingface_hub' in sys.modules, lumo.params.weights_folder('hub:some/codec', ''))"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")} | {
        "HF_HOME": str(tmp_path)
    }
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, env=environment, cwd=ROOT
    )
    assert done.stdout == f"False {folder}\n", done


def test_every_part_of_a_profile_may_lie_there(cache, toy_folder):
    for part in ("image_codec", "encodec", "backbone"):
        cached(cache, f"toys/{part}", NEW, ("main",), toy_folder / part)

    def profile(name):
        audio = {"name": "encodec", "path": name("encodec"), "bandwidth_kbps": 0.4}
        codecs = {"image": {"path": name("image_codec")}, "audio": audio}
        return load_profile("smoke", {"codecs": codecs, "backbone": {"path": name("backbone")}})

    hub, local = profile(lambda part: f"hub:toys/{part}"), profile(lambda part: str(toy_folder / part))
    assert load_tokenizer(hub).space.sha256 == load_tokenizer(local).space.sha256
    assert skeleton(hub).base_bytes == skeleton(local).base_bytes
    names = {"image codec": "image_codec", "audio codec": "encodec", "backbone": "backbone"}
    assert provenance(hub)["hub"] == {part: f"hub:toys/{name}@{NEW}" for part, name in names.items()}
    assert "hub" not in provenance(local)


def test_what_the_cache_has_not_is_refused(cache, small):
    where = f"not in the hub's cache, {cache} holds "
    with refused(HubError, f"hub:some/codec: {where}no model; fetch it with `hf download some/codec --revision main`"):
        snapshot("hub:some/codec")
    cached(cache, "other/codec", OLD, ("main",), small)
    with refused(HubError, f"{where}other/codec;", "or give the path of a folder"):
        snapshot("hub:some/codec")
    cached(cache, "some/codec", OLD, ("main", "v1"), small)
    cached(cache, "some/codec", NEW, (), small)
    with refused(HubError, f"{where}some/codec at main, v1 ({OLD}) and no branch ({NEW})", "--revision v2"):
        snapshot("hub:some/codec@v2")
    shutil.rmtree(cache)
    with refused(HubError, f"{where}nothing; fetch"):
        snapshot("hub:some/codec@v2")


@pytest.mark.parametrize("path", ["hub:", "hub:codec", "hub:a/b/c", "hub:a/b@", "hub:a/../b", "hub:a/b@../../x", "hub:a/b@/x", "hub:a/b c"])  # fmt: skip
def test_another_form_is_refused(cache, path):
    with refused(HubError, f"{path}: expected hub:OWNER/NAME or hub:OWNER/NAME@REVISION"):
        weights_folder(path, "backbone")


def test_what_the_hub_calls_no_name_is_refused(cache):
    with refused(HubError, "hub:-a/b: no name of a repository", "mend it"):
        snapshot("hub:-a/b")


def test_a_snapshot_without_a_model_is_refused(cache, tmp_path):
    (tmp_path / "empty").mkdir()
    folder = cached(cache, "some/codec", OLD, ("main",), tmp_path / "empty")
    codecs = load_profile("smoke", {"codecs": {"audio": {"path": "hub:some/codec"}}}).codecs
    with refused(ParamsError, f"{folder}: no config.json there"):
        load_codecs(codecs)


def test_a_ref_that_is_no_commit_leads_nowhere(cache, small, tmp_path):
    cached(cache, "some/model", NEW, ("main",), small)
    (tmp_path / "elsewhere").mkdir()
    (cache / "models--some--model" / "refs" / "main").write_text("../../../../elsewhere")
    with refused(HubError, "hub:some/model: "):
        snapshot("hub:some/model")
