"""Paths that lead nowhere, as a person may give them to a command: one line, and status 1."""

from __future__ import annotations

import os

import pytest
from refusals import check_line

from lumo.__main__ import main

COMMANDS = [
    ("run", "01", "--profile", "smoke", "--run-dir", "PATH"),
    ("run", "01", "--profile", "PATH.yaml"),
    ("plan", "--profile", "PATH.yaml"),
    ("train", "PATH"),
    ("adopt", "PATH", "captions.csv", "out"),
    ("adopt", "folder", "PATH", "out"),
    ("adopt", "folder", "captions.csv", "PATH"),
    ("join", "out", "PATH", "folder"),
    ("kernel", "install", "--mount", "PATH", "--prefix", "folder"),
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to stand in, with links that lead to each other, and a file."""
    for name in ("loop", "loop.yaml"):
        (tmp_path / f"other-{name}").symlink_to(tmp_path / name)
        (tmp_path / name).symlink_to(tmp_path / f"other-{name}")
    (tmp_path / "file").write_text("words\n")
    (tmp_path / "file.yaml").mkdir()
    (tmp_path / "folder").mkdir()
    (tmp_path / "captions.csv").write_text("file,caption\na.wav,a tone\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("path", ["loop", "file/below", "~nobody-of-that-name"])
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_path_that_leads_nowhere(command, path, here, capsys):
    if path.startswith("~") and command[-1] == "PATH" and command[0] in ("run", "adopt"):
        pytest.skip("a folder of that name can be made")
    assert main([word.replace("PATH", path) for word in command]) == 1
    check_line(capsys.readouterr().err.strip().splitlines()[-1], path.partition("/")[0])


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_folder_that_one_may_not_read(command, here, capsys):
    (here / "closed").mkdir(mode=0)
    if os.access(here / "closed", os.X_OK):
        pytest.skip("nothing is closed to root")
    assert main([word.replace("PATH", "closed/below") for word in command]) == 1
    check_line(capsys.readouterr().err.strip().splitlines()[-1], "closed")


@pytest.mark.parametrize(
    ("name", "words"),
    [("caption.csv", "no file there (perhaps 'captions.csv'?)"), ("elsewhere/captions.csv", "no file there; name a table"),
     ("clothos", "neither a table of captions nor a published dataset (perhaps 'clotho'?)")],
)  # fmt: skip
def test_captions_that_are_not_there(name, words, here, capsys):
    assert main(["adopt", "folder", name, "out"]) == 1
    error = capsys.readouterr().err.strip()
    check_line(error, name, words)
    assert "UTF-8" not in error


def test_a_place_to_pull_into_that_leads_nowhere_holds_nothing(here, capsys):
    assert main(["pull", "--into", "loop", "--check"]) == 0
    assert capsys.readouterr().out == "nothing here that lumo pull fetched\n"


def test_a_list_to_pull_that_is_none(here, capsys):
    assert main(["pull", "--list", "file"]) == 1
    check_line(capsys.readouterr().err.strip(), "file: the file: Input should be a valid list")


@pytest.mark.parametrize("path", ["file", "loop", "file/below"])
def test_a_run_folder_that_is_none_says_so(path, here, capsys):
    assert main(["run", "01", "--profile", "smoke", "--run-dir", path]) == 1
    check_line(capsys.readouterr().err.strip(), f"{path}: no folder can be made there; choose another path")
