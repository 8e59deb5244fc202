"""What the hub and the disk refuse is one line that says what to do, and no name leaves its folder."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest
from hub import Hub
from huggingface_hub import HfApi, constants
from hypothesis import given
from hypothesis import strategies as st
from pulls import BIG, ENTRY, GATED, WANTED, entry, fixture_api, fixture_hub, pulled, there  # noqa: F401 - fixtures
from refusals import refused

from lumo.pull import PullError
from lumo.pull import hub as pulling
from lumo.pull.hub import check_room, fetch, order
from lumo.pull.store import Shelf

# --- what the hub refuses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "answer", "words"),
    [
        (
            "/api/models/some/thing/revision",
            GATED,
            ["wants terms accepted", "https://huggingface.co/some/thing", "hf auth login"],
        ),
        ("/some/thing/resolve", GATED, ["wants terms accepted", "hf auth login"]),
        ("/api/models", (404, {"X-Error-Code": "RepoNotFound"}), ["no model of that name"]),
        ("/api/models", (401, {}), ["answers 401", "hf auth login"]),
        ("/api/models", (404, {"X-Error-Code": "RevisionNotFound"}), ["has no revision 'main'"]),
        ("/some/thing/resolve", (404, {"X-Error-Code": "EntryNotFound"}), ["answers 404"]),
        ("/api/models", (503, {}), ["answers 503", "again later"]),
        ("/api/models", (200, {"Content-Type": "text/html"}), ["doesn't answer as the hub does"]),
    ],
)
def test_a_refusal_is_one_line_that_says_what_to_do(tmp_path, hub, api, start, answer, words):
    hub.refusals[start] = answer
    with refused(PullError, "toy", *words):
        pulled(tmp_path, api)
    assert Shelf(tmp_path / "weights" / "toy").receipt is None


def test_a_gated_repository_is_said_before_anything_is_fetched(tmp_path, hub, api):
    hub.gated = "manual"
    hub.refusals["/api/models/some/thing/auth-check"] = GATED
    with refused(PullError, "wants terms accepted"):
        order(entry(), tmp_path, api)
    hub.refusals.clear()
    assert there(pulled(tmp_path, api).folder) == WANTED


def test_offline_mode_and_no_network_are_one_line(tmp_path, hub, api, monkeypatch):
    nowhere = HfApi(endpoint="http://127.0.0.1:9", token=False)
    with refused(PullError, "can't reach http://127.0.0.1:9 (ConnectError)"):
        order(entry(), tmp_path, nowhere)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with refused(PullError, "HF_HUB_OFFLINE is set"):
        order(entry(), tmp_path, api)


def test_patterns_that_nothing_matches_are_refused(tmp_path, hub, api):
    with refused(PullError, "nothing in some/thing", "*.gguf", "mend files"):
        order(entry(hub=ENTRY["hub"] | {"files": ["*.gguf"]}), tmp_path, api)


def test_a_hash_that_is_no_hash_never_names_a_file(tmp_path, hub, api, monkeypatch):
    monkeypatch.setattr(Hub, "row", lambda self, path: {"type": "file", "path": path, "size": 1, "oid": "../../out"})
    with refused(PullError, "doesn't answer as the hub does"):
        order(entry(), tmp_path, api)


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["../out.json", "/out.json", "a/../../out.json", "a/../.lumo/x.json", ".lumo/x.json", ".LUMO/x.json", "a\nb.json"],
)
def test_names_that_leave_the_folder_are_refused_before_anything_is_fetched(tmp_path, hub, api, name):
    hub.files[name] = b"{}"
    with refused(PullError, "no name inside this folder", "nothing is fetched"):
        order(entry(), tmp_path, api)
    assert list(tmp_path.iterdir()) == []


@given(st.text(min_size=1))
def test_a_place_is_inside_its_folder_or_refused(name):
    shelf = Shelf(Path("/nowhere/toy"))
    try:
        place = shelf.place(name)
    except PullError:
        return
    assert place.resolve().is_relative_to("/nowhere/toy") and place != shelf.folder / ".lumo"


def test_a_link_that_leads_out_of_the_folder_is_refused(tmp_path, hub, api):
    (tmp_path / "weights" / "toy").mkdir(parents=True)
    (tmp_path / "weights" / "toy" / "sub").symlink_to(tmp_path)
    with refused(PullError, BIG, "no name inside"):
        order(entry(), tmp_path, api)


def test_a_folder_that_is_a_link_to_another_disk_is_followed(tmp_path, hub, api):
    (tmp_path / "large").mkdir()
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "toy").symlink_to(tmp_path / "large")
    pulled(tmp_path, api)
    assert there(tmp_path / "large") == WANTED


# --- the disk ---------------------------------------------------------------------------------------------------------


def test_a_disk_that_cant_hold_it_is_refused(tmp_path, hub, api, monkeypatch):
    orders = [order(entry(name=name), tmp_path, api) for name in ("one", "two")]
    size = orders[0].missing_bytes
    assert size == sum(map(len, WANTED.values()))
    monkeypatch.setattr(pulling, "free_bytes", lambda folder: 2 * size)
    check_room(orders)
    monkeypatch.setattr(pulling, "free_bytes", lambda folder: 2 * size - 1)
    with refused(PullError, "two", f"{2 * size:,} bytes are to come", "make room"):
        check_room(orders)


def test_a_full_disk_stays_what_it_is_and_no_right_to_write_is_one_line(tmp_path, hub, api, monkeypatch):
    item = order(entry(), tmp_path, api)

    def fail(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pulling, "http_get", fail)
    with pytest.raises(OSError, match="No space") as caught:
        fetch(item, api)
    assert caught.value.errno == errno.ENOSPC
    (tmp_path / "weights").rename(tmp_path / "aside")
    (tmp_path / "weights").write_text("a file where a folder should be")
    with refused(PullError, "toy (some/thing)", "weights"):
        fetch(item, api)


def test_two_at_once_in_one_folder_are_refused(tmp_path, hub, api):
    item = order(entry(), tmp_path, api)
    (item.shelf.folder / ".lumo").mkdir(parents=True)
    with (item.shelf.folder / ".lumo" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with refused(PullError, "another lumo pull"):
            fetch(item, api)
    fetch(item, api)


@pytest.mark.parametrize("name", ["listing.json", "receipt.json"])
def test_a_damaged_record_is_refused(tmp_path, hub, api, name):
    shelf = pulled(tmp_path, api)
    (shelf.folder / ".lumo" / name).write_text("{")
    with refused(PullError, name, "damaged; remove it"):
        pulled(tmp_path, api)
