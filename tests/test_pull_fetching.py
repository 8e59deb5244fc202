"""Fetching from a hub of the tests' own, by huggingface_hub's true code: whole, once, at one commit, on where it broke off."""

from __future__ import annotations

import hashlib
import json

import pytest
from hub import COMMIT
from pulls import BIG, ENTRY, FILES, WANTED, entry, fixture_api, fixture_hub, pulled, there  # noqa: F401 - fixtures
from refusals import refused

from lumo.pull import PullError
from lumo.pull.hub import configs_of, fetch, order
from lumo.pull.store import Shelf, hash_of

# --- whole, and once --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["backbone", "dataset"])
def test_what_is_wanted_comes_whole_with_a_receipt(tmp_path, hub, api, kind):
    shelf = pulled(tmp_path, api, kind=kind)
    assert shelf.folder == tmp_path / ("data" if kind == "dataset" else "weights") / "toy"
    assert there(shelf.folder) == WANTED
    receipt = json.loads((shelf.folder / ".lumo" / "receipt.json").read_text())
    assert receipt["commit"] == COMMIT and receipt["licence"] == "mit"
    assert {file["path"]: (file["bytes"], file["hash"]) for file in receipt["files"]} == {
        name: (len(content), f"sha256:{hashlib.sha256(content).hexdigest()}") for name, content in WANTED.items()
    }
    assert not list(shelf.folder.glob(".lumo/*.part")) and not list(shelf.faults())


def test_a_second_call_needs_no_network_and_keeps_the_commit(tmp_path, hub, api):
    shelf = pulled(tmp_path, api)
    hub.seen.clear()
    hub.commit = "b2" * 20
    assert pulled(tmp_path, api).listing.commit == COMMIT
    assert hub.seen == [] and shelf.receipt is not None


def test_a_file_that_was_removed_comes_again_alone(tmp_path, hub, api):
    shelf = pulled(tmp_path, api)
    (shelf.folder / "config.json").unlink()
    assert [fault.split(": ")[0] for fault in shelf.faults()] == [str(shelf.folder / "config.json")]
    hub.seen.clear()
    pulled(tmp_path, api)
    assert [path for path, _ in hub.seen] == [f"/some/thing/resolve/{COMMIT}/config.json"]
    assert there(shelf.folder) == WANTED


def test_a_receipt_never_takes_over_what_was_changed_later(tmp_path, hub, api):
    shelf = pulled(tmp_path, api)
    (shelf.folder / "config.json").write_bytes(FILES["config.json"][::-1])
    (shelf.folder / BIG).unlink()
    pulled(tmp_path, api)
    assert [fault.split(": ")[0] for fault in shelf.faults()] == [str(shelf.folder / "config.json")]


def test_files_that_lay_there_before_are_kept_if_they_are_right(tmp_path, hub, api):
    folder = tmp_path / "weights" / "toy"
    (folder / "sub").mkdir(parents=True)
    (folder / BIG).write_bytes(FILES[BIG])
    (folder / "config.json").write_bytes(FILES["config.json"].replace(b"toy", b"tot"))
    assert there(pulled(tmp_path, api).folder) == WANTED
    assert hub.ranges(BIG) == [] and hub.ranges("config.json") == [None]


def test_more_patterns_fetch_what_is_new_at_the_same_commit(tmp_path, hub, api):
    pulled(tmp_path, api)
    hub.seen.clear()
    shelf = pulled(tmp_path, api, hub=ENTRY["hub"] | {"files": ["*"]})
    assert there(shelf.folder) == FILES and hub.ranges(BIG) == []
    assert f"/api/models/some/thing/revision/{COMMIT}" in [path for path, _ in hub.seen]
    assert {file.path for file in shelf.receipt.files} == set(FILES)


def test_another_repository_in_the_same_folder_is_refused(tmp_path, hub, api):
    pulled(tmp_path, api)
    with refused(PullError, "holds some/thing at main", "the list says other/thing", "remove"):
        order(entry(hub=ENTRY["hub"] | {"repo": "other/thing"}), tmp_path, api)


# --- configs alone ----------------------------------------------------------------------------------------------------


def test_configs_come_alone_and_a_later_pull_completes_them(tmp_path, hub, api):
    item = configs_of(order(entry(), tmp_path, api))
    assert item.missing_bytes == len(FILES["config.json"])
    fetch(item, api)
    assert there(item.shelf.folder) == {name: FILES[name] for name in ("config.json", "empty.txt")}
    assert item.shelf.receipt is None and hub.ranges(BIG) == []
    hub.seen.clear()
    shelf = pulled(tmp_path, api)
    assert there(shelf.folder) == WANTED and shelf.receipt is not None and not list(shelf.faults())
    assert {path.rpartition("/")[2] for path, _ in hub.seen} == {"model.safetensors"}
    fetch(configs_of(order(entry(), tmp_path, api)), api)
    assert shelf.receipt is not None


def test_a_dataset_has_no_configs(tmp_path, api):
    with refused(PullError, "toy: a dataset has no configs", "without --configs"):
        configs_of(order(entry(kind="dataset"), tmp_path, api))


# --- what breaks off, or comes wrong ----------------------------------------------------------------------------------


def test_a_connection_that_breaks_off_goes_on_within_the_call(tmp_path, hub, api):
    hub.cuts[BIG] = [100_000, 50_000]
    assert there(pulled(tmp_path, api).folder) == WANTED
    assert hub.ranges(BIG) == [None, "bytes=100000-", "bytes=150000-"]


def test_an_error_in_the_middle_keeps_what_came_and_the_next_call_goes_on(tmp_path, hub, api):
    hub.cuts[BIG] = [100_000] + [0] * 6  # huggingface_hub gives up after five answers without a byte
    item = order(entry(), tmp_path, api)
    with refused(PullError, "toy (some/thing)", "can't reach http://127.0.0.1", "what came is kept"):
        fetch(item, api)
    assert item.shelf.receipt is None and item.missing_bytes < len(FILES[BIG]) - 90_000
    hub.seen.clear()
    hub.cuts.clear()
    assert there(pulled(tmp_path, api).folder) == WANTED
    assert hub.ranges(BIG) == ["bytes=100000-"]


def test_a_part_that_is_longer_than_the_file_is_begun_again(tmp_path, hub, api):
    item = order(entry(), tmp_path, api)
    for file in item.listing.files:
        item.shelf.part(file).parent.mkdir(parents=True, exist_ok=True)
        item.shelf.part(file).write_bytes(b"x" * (file.bytes + 1))
    fetch(item, api)
    assert there(item.shelf.folder) == WANTED


@pytest.mark.parametrize("name", ["config.json", BIG])
def test_a_file_with_another_content_is_refused_and_removed(tmp_path, hub, api, name):
    hub.lies[name] = FILES[name][::-1]
    with refused(PullError, f"toy: {name} came as", "the hub says", "removed"):
        pulled(tmp_path, api)
    shelf = Shelf(tmp_path / "weights" / "toy")
    assert name not in there(shelf.folder) and shelf.receipt is None
    assert not list(shelf.folder.glob(".lumo/*.part"))
    hub.lies.clear()
    assert there(pulled(tmp_path, api).folder) == WANTED


def test_a_file_of_another_size_is_refused(tmp_path, hub, api):
    hub.lies["config.json"] = b"short"
    with refused(PullError, "toy (some/thing)", "size"):
        pulled(tmp_path, api)
    assert "config.json" not in there(tmp_path / "weights" / "toy")


def test_hashes_are_gits_and_sha256(tmp_path):
    (tmp_path / "file").write_bytes(b"hello\n")
    assert (
        hash_of(tmp_path / "file", "git-sha1") == "git-sha1:ce013625030ba8dba906f756967f9e9ca394464a"
    )  # git hash-object
    assert hash_of(tmp_path / "file", "sha256") == "sha256:" + hashlib.sha256(b"hello\n").hexdigest()
