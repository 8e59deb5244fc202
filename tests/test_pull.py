"""`lumo pull`: the list is whole, and the command shows, fetches, checks, and goes on where it was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from hub import COMMIT
from pulls import BIG, BY_HAND, ENTRY, FILES, GATED, WANTED, a_list, fixture_hub, there  # noqa: F401 - fixtures
from refusals import refused

from lumo import __main__ as terminal
from lumo.params import has_weights, weights_folder
from lumo.pull import PullError, choose, command, read_list
from lumo.pull.store import Shelf

# --- the list ---------------------------------------------------------------------------------------------------------


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
    with refused(PullError, "toy appears twice"):
        read_list(a_list(tmp_path, ENTRY, ENTRY | {"name": "TOY"}))
    (tmp_path / "broken.yaml").write_text("- [")
    with refused(PullError, "broken.yaml: not YAML", "mend it"):
        read_list(tmp_path / "broken.yaml")
    with refused(PullError, "no.yaml"):
        read_list(tmp_path / "no.yaml")


# --- the command ------------------------------------------------------------------------------------------------------


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


def test_the_command_fetches_configs_that_a_plan_then_finds(tmp_path, hub, capsys):
    the_list = a_list(tmp_path, ENTRY)
    words = ["pull", "toy", "--configs", "--list", str(the_list), "--into", str(tmp_path)]
    assert terminal.main(words) == 0 and "nothing was fetched" in capsys.readouterr().out
    assert terminal.main([*words, "--yes"]) == 0
    folder = tmp_path / "weights" / "toy"
    assert weights_folder(str(folder), "backbone") == folder and not has_weights(str(folder))


def test_configs_of_the_list_leave_its_datasets_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "order", lambda entry, root, api: entry)
    monkeypatch.setattr(command, "configs_of", lambda entry: entry)
    wanted = [entry for entry in choose(read_list(), ["P0"]) if entry.hub]
    kept, faults = command._orders(wanted, tmp_path, None, configs=True)
    assert {entry.name for entry in wanted} - {entry.name for entry in kept} == {"LLaVA-Pretrain"}
    assert not faults and "left out: LLaVA-Pretrain is a dataset" in capsys.readouterr().out


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
