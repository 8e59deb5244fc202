"""`lumo pull` against a hub of the tests' own: huggingface_hub's true code, no network."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hub import COMMIT, Hub, serving
from huggingface_hub import HfApi, constants
from hypothesis import given
from hypothesis import strategies as st
from refusals import refused

from lumo import __main__ as terminal
from lumo.params import has_weights, weights_folder
from lumo.pull import Entry, PullError, choose, command, read_list
from lumo.pull import hub as pulling
from lumo.pull.hub import check_room, configs_of, fetch, order
from lumo.pull.store import Shelf, hash_of

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


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    with serving(Hub(dict(FILES))) as hub:
        # what HF_ENDPOINT sets when huggingface_hub is imported
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)  # what it holds back of a stream before it writes
        yield hub


@pytest.fixture
def api(hub):
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


WANTED = {name: content for name, content in FILES.items() if name != "notes.md"}


# --- the list ---


def test_the_list_is_valid_and_every_entry_complete():
    entries = read_list()
    assert len({entry.folder for entry in entries if entry.hub}) == len([entry for entry in entries if entry.hub])
    for one in entries:
        assert one.licence.strip() and one.page.startswith("https://")
        assert not (one.kind == "codec" and one.hub and one.gated), (
            "a codec that everybody needs should be free to fetch"
        )


@pytest.mark.parametrize(
    ("priority", "names"),
    [
        (
            "p0",
            [
                "Qwen3-8B-Base",
                "encodec_32khz",
                "seed2",
                "clap-htsat-fused",
                "clotho",
                "song-describer",
                "LLaVA-Pretrain",
            ],
        ),
        (
            "P1",
            [
                "WavCaps",
                "AudioCaps",
                "laion-audio-630k",
                "mtg-jamendo",
                "jamendo-fma-captions",
                "fma",
                "fsd50k",
                "coco-captions",
                "AnyInstruct",
                "MIO-7B-Base",
            ],
        ),
        ("P2", ["vggsound", "MusicCaps"]),
    ],
)
def test_the_list_has_what_the_plan_asks_for(priority, names):
    assert set(names) <= {one.name for one in choose(read_list(), [priority])}


def test_words_choose_by_name_and_priority_in_the_lists_order():
    entries = read_list()
    assert [one.name for one in choose(entries, ["SEED2", "qwen3-8b-base"])] == ["Qwen3-8B-Base", "seed2"]
    assert choose(entries, []) == []
    with refused(PullError, "nothing is called qwen9", "`lumo pull` lists the names"):
        choose(entries, ["seed2", "qwen9"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"colour": "red"}, ["0.colour", "Extra inputs"]),
        ({"licence": ""}, ["0.licence"]),
        ({"name": "../up"}, ["0.name"]),
        ({"into": "../up"}, ["0.into"]),
        ({"hub": {"repo": "some/thing", "files": []}}, ["0.hub.files"]),
        ({"hub": None}, ["either hub or by_hand"]),
        ({"by_hand": BY_HAND["by_hand"]}, ["either hub or by_hand"]),
        ({"priority": "P3"}, ["0.priority"]),
    ],
)
def test_a_list_with_a_fault_is_refused(tmp_path, changes, words):
    with refused(PullError, "list.yaml", *words):
        read_list(a_list(tmp_path, ENTRY | changes))


def test_a_list_with_a_name_twice_or_that_is_no_yaml_is_refused(tmp_path):
    with refused(PullError, "toy stands there twice"):
        read_list(a_list(tmp_path, ENTRY, ENTRY | {"name": "TOY"}))
    (tmp_path / "broken.yaml").write_text("- [")
    with refused(PullError, "broken.yaml: not YAML", "mend it"):
        read_list(tmp_path / "broken.yaml")
    with refused(PullError, "no.yaml"):
        read_list(tmp_path / "no.yaml")


# --- fetching ---


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


def test_configs_of_the_list_leave_its_datasets_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "order", lambda entry, root, api: entry)
    monkeypatch.setattr(command, "configs_of", lambda entry: entry)
    wanted = [entry for entry in choose(read_list(), ["P0"]) if entry.hub]
    kept, faults = command._orders(wanted, tmp_path, None, configs=True)
    assert {entry.name for entry in wanted} - {entry.name for entry in kept} == {"LLaVA-Pretrain"}
    assert not faults and "left out: LLaVA-Pretrain is a dataset" in capsys.readouterr().out


def test_the_command_fetches_configs_that_a_plan_then_finds(tmp_path, hub, capsys):
    the_list = a_list(tmp_path, ENTRY)
    words = ["pull", "toy", "--configs", "--list", str(the_list), "--into", str(tmp_path)]
    assert terminal.main(words) == 0 and "nothing was fetched" in capsys.readouterr().out
    assert terminal.main([*words, "--yes"]) == 0
    folder = tmp_path / "weights" / "toy"
    assert weights_folder(str(folder), "backbone") == folder and not has_weights(str(folder))


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


# --- what the hub refuses ---

GATED = (403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})


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


# --- the disk ---


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


def test_a_hash_that_is_no_hash_never_names_a_file(tmp_path, hub, api, monkeypatch):
    monkeypatch.setattr(Hub, "row", lambda self, path: {"type": "file", "path": path, "size": 1, "oid": "../../out"})
    with refused(PullError, "doesn't answer as the hub does"):
        order(entry(), tmp_path, api)


def test_hashes_are_gits_and_sha256(tmp_path):
    (tmp_path / "file").write_bytes(b"hello\n")
    assert (
        hash_of(tmp_path / "file", "git-sha1") == "git-sha1:ce013625030ba8dba906f756967f9e9ca394464a"
    )  # git hash-object
    assert hash_of(tmp_path / "file", "sha256") == "sha256:" + hashlib.sha256(b"hello\n").hexdigest()


# --- the command ---


def lumo(*words: str) -> int:
    return terminal.main(["pull", *map(str, words)])


@pytest.fixture
def at(tmp_path, hub):
    return ["--into", tmp_path, "--list", a_list(tmp_path, ENTRY, BY_HAND)]


def test_the_command_shows_then_fetches_then_checks(tmp_path, hub, at, capsys):
    assert lumo(*at) == 0
    assert "missing" in (shown := capsys.readouterr().out) and "by hand" in shown and hub.seen == []
    assert lumo("P0", *at) == 0
    shown = capsys.readouterr().out
    assert "500.0 KiB" in shown and COMMIT[:8] in shown and "with --yes" in shown
    assert "by hand: by-hand (MIT): unpack it · https://example.org/1 · into data/by-hand" in shown
    assert not (tmp_path / "weights").exists()
    assert lumo("P0", "--yes", *at) == 0
    assert there(tmp_path / "weights" / "toy") == WANTED and "--yes" not in capsys.readouterr().out
    assert lumo("--check", *at) == 0 and "toy: whole" in capsys.readouterr().out
    assert lumo(*at) == 0 and "whole" in capsys.readouterr().out


def test_the_check_names_what_was_changed_and_needs_no_network(tmp_path, hub, at, capsys):
    assert lumo("toy", "--yes", *at) == 0
    hub.seen.clear()
    (tmp_path / "weights" / "toy" / BIG).write_bytes(FILES[BIG][::-1])
    assert lumo("--check", "toy", *at) == 1
    error = capsys.readouterr().err
    assert (
        error.endswith("has another content: remove it, and pull again, only what is wrong is fetched\n")
        and BIG in error
    )
    assert hub.seen == []
    assert lumo("--check", "by-hand", *at) == 0 and "by-hand: by hand, not checked" in capsys.readouterr().out


def test_one_that_is_refused_doesnt_hold_up_the_others(tmp_path, hub, capsys):
    path = a_list(
        tmp_path,
        ENTRY | {"name": "closed", "note": "not for all", "hub": ENTRY["hub"] | {"repo": "other/thing"}},
        ENTRY,
    )
    hub.refusals["/api/models/other"] = GATED
    assert lumo("P0", "--yes", "--into", tmp_path, "--list", path) == 1
    shown, error = capsys.readouterr()
    assert "closed: not for all" in shown
    assert "PullError: closed (other/thing): its owner wants terms accepted" in error and "Traceback" not in error
    assert there(tmp_path / "weights" / "toy") == WANTED


def test_killed_in_the_middle_of_a_file_it_goes_on_at_that_byte(tmp_path, hub, at):
    hub.files[BIG] = FILES[BIG] * 50  # huggingface_hub writes in pieces of 10 MB
    hub.stalls[BIG] = 21_000_000
    command = [sys.executable, "-m", "lumo", "pull", "toy", "--yes", *map(str, at)]
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    first = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert hub.stalled.wait(60)
    shelf = Shelf(tmp_path / "weights" / "toy")
    first.send_signal(signal.SIGTERM)
    _, error = first.communicate(timeout=60)
    assert first.returncode == 130 and "run the same command again to go on" in error and "Traceback" not in error
    assert shelf.receipt is None and 0 < shelf.missing_bytes(shelf.listing) < len(hub.files[BIG])
    hub.go_on.set()
    second = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert second.returncode == 0, second.stderr
    (_, again) = hub.ranges(BIG)
    assert again is not None and int(again.removeprefix("bytes=").rstrip("-")) > 0
    assert there(shelf.folder) == WANTED | {BIG: hub.files[BIG]} and shelf.receipt is not None
