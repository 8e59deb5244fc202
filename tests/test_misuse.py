"""What people do to a run beside using it: two at once in one folder, files removed, YAML that is odder than a profile."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from pathlib import Path

import pytest
from refusals import check_line, refused
from workbooks import TODAY, fixture_own_reports, toy  # noqa: F401 - fixtures

from lumo import __main__ as shell
from lumo import workbook
from lumo.datasets.manifest import ManifestError
from lumo.datasets.place import LOCK, MARKS, claimed
from lumo.datasets.world import write_world
from lumo.files import locked, write_atomically
from lumo.params import ParamsError, dotted, load_profile, parse_yaml
from lumo.workbook import WorkbookError, begin, folders, progress

# --- profiles ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["seed: !!int ''", "seed: !!timestamp 'soon'", "seed: !!float x", "seed: !!bool x"])
def test_a_tag_over_what_is_not_of_its_kind_is_one_line(text):
    with refused(ParamsError, "p.yaml: not YAML", "mend it"):
        parse_yaml(text, "p.yaml")


def test_keys_that_a_mapping_takes_from_another():
    """YAML's `<<`, for stages that share most keys; what stands there itself wins, and still stands there once."""
    text = "a: &a {x: 1, y: 2}\nb: &b {<<: *a, y: 3}\nc: {<<: [*b, *a], z: 4}\n"
    assert parse_yaml(text, "p") == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": {"x": 1, "y": 3, "z": 4}}
    with refused(ParamsError, "'y' appears twice"):
        parse_yaml(text + "d: {<<: *a, y: 1, y: 2}\n", "p")


@pytest.mark.parametrize("text", ["a\0b", "a\nb", "\x1b[2J", "\ud800"])
@pytest.mark.parametrize("key", ["profile", "data.manifest", "codecs.audio.path", "backbone.path"])
def test_names_and_paths_are_of_one_line(key, text):
    with refused(ParamsError, f"{key} is", "expected text of one line"):
        load_profile("smoke", dotted(key, text))


def test_names_that_a_file_may_have_are_taken():
    for path in ("é 🎵/'x'", "Screenshot\u202f3.04.jsonl", "caf\udce9"):
        assert load_profile("smoke", dotted("data.manifest", path)).data.manifest == path


def test_more_threads_than_any_machine_has_are_refused():
    with refused(ParamsError, "threads is 2147483648", "less than or equal to 1024"):
        load_profile("smoke", {"threads": 2**31})


def test_a_run_folder_with_a_null_byte_is_one_line(own_reports):
    with refused(WorkbookError, "can't use", "choose another path"):
        begin("01_a", {"run_dir": "a\0b"})


def test_a_shell_that_stands_in_a_folder_which_is_gone(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PWD", str(tmp_path))
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert shell.main(["plan", "--profile", "own.yaml"]) == 1
    check_line(capsys.readouterr().err.strip(), "was removed; cd to another one")


# --- two at once ------------------------------------------------------------------------------------------------------


def _write_many(path: Path, mark: str) -> None:
    for _ in range(150):
        write_atomically(path, mark * 50_000)


def test_a_file_that_two_write_at_once_is_always_whole(tmp_path):
    path = write_atomically(tmp_path / "file", "a" * 50_000)
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_many, args=(path, mark)) for mark in "ab"]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        content = path.read_text()
        assert len(content) == 50_000 and len(set(content)) == 1
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert [left.name for left in tmp_path.iterdir()] == ["file"]


def test_what_a_killed_writer_left_goes_into_no_file(tmp_path):
    (tmp_path / ".file.partial").write_bytes(b"half of something long")
    assert write_atomically(tmp_path / "file", "new").read_text() == "new"
    assert [left.name for left in tmp_path.iterdir()] == ["file"]


def test_a_lock_takes_nothing_from_a_file_of_that_name(tmp_path):
    (tmp_path / ".lock").write_text("another program's")
    with locked(tmp_path / ".lock", WorkbookError("taken")):
        pass
    assert (tmp_path / ".lock").read_text() == "another program's"


@pytest.mark.parametrize("command", MARKS)
def test_a_folder_that_another_has_just_begun_with_is_not_called_somebody_elses(command, tmp_path):
    """Between the other's lock and its mark, which is still called by another name."""
    (tmp_path / f".{MARKS[command]}.partial").touch()
    with (
        locked(tmp_path / LOCK, WorkbookError("taken")),
        refused(ManifestError, "another lumo is writing there"),
        claimed(tmp_path, command, {}),
    ):
        pass


def test_a_folder_of_somebody_elses_is_left_alone_whatever_lock_it_has(tmp_path):
    for name in ("thesis.doc", LOCK):
        (tmp_path / name).write_text("mine")
        with refused(ManifestError, "isn't empty and wasn't made by lumo adopt"), claimed(tmp_path, "adopt", {}):
            pass
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {LOCK: "mine", "thesis.doc": "mine"}


def test_two_that_write_the_world_in_one_folder(tmp_path):
    manifest = write_world(tmp_path / "world", seed=0, images=2, clips=0)
    with locked(tmp_path / ".world.lock", WorkbookError("")):
        assert write_world(tmp_path / "world", seed=0, images=2, clips=0) == manifest  # whole, so nobody writes
        with refused(ManifestError, "another run is writing the world there"):
            write_world(tmp_path / "world", seed=0, images=3, clips=0)


# --- files that are gone, or others -----------------------------------------------------------------------------------


def test_media_of_the_world_that_were_removed_are_written_again(tmp_path):
    manifest = write_world(tmp_path / "world", seed=0, images=2, clips=2)
    files = {path: path.read_bytes() for path in [*tmp_path.rglob("*.png"), *tmp_path.rglob("*.wav")]}
    next(tmp_path.rglob("*.wav")).unlink()
    shutil.rmtree(tmp_path / "world/image/held_out")
    assert write_world(tmp_path / "world", seed=0, images=2, clips=2) == manifest
    assert {path: path.read_bytes() for path in files} == files


@pytest.fixture
def report(tmp_path, own_reports, monkeypatch):
    """A report of two notebooks that only pretend to run, with a gate each; which ran, each time that it is called."""
    ran: list[str] = []
    for name in ("01_a", "02_b"):
        toy(tmp_path / "nbs", name)

    def pretend(name, profile, overrides, folder, notebooks):
        ran.append(name)
        begin(name, {"run_dir": str(folder)}).record(
            {f"gates.{name}": [{"name": "g", "got": 1, "expected": 1, "passed": True}]}
        )
        for suffix in (".ipynb", ".html"):
            (folder / f"{name}{suffix}").write_text("{}")
        inputs = progress.inputs_sha256(load_profile(profile, overrides), notebooks / f"{name}.ipynb")
        progress.note_done(folder, name, inputs, 1)
        return workbook.Outcome(name, 1, folder / f"{name}.ipynb")

    monkeypatch.setattr("lumo.workbook.reporting.run_notebook", pretend)

    def go() -> list[str]:
        ran.clear()
        workbook.report("mini", notebooks=tmp_path / "nbs", names=["01_a", "02_b"])
        return list(ran)

    return go


@pytest.mark.parametrize(
    ("gone", "again"), [("metrics.json", []), ("metrics/02_b.json", ["02_b"]), ("metrics/01_a.json", ["01_a", "02_b"])]
)
def test_figures_that_were_removed_are_in_the_report_all_the_same(gone, again, report, own_reports, capsys):
    """As the line of a damaged file says: remove it, and run the same command again."""
    folder = own_reports / f"{TODAY}-mini"
    assert report() == ["01_a", "02_b"]
    (folder / gone).unlink()
    (folder / "report.json").unlink()
    assert report() == again
    assert "gates: 2 of 2 passed" in capsys.readouterr().out.splitlines()[-2]
    assert folders.read_summary(folder)["gates"] == {"passed": 2, "total": 2}
    assert sorted(json.loads((folder / "metrics.json").read_text())["gates"]) == ["01_a", "02_b"]


@pytest.mark.parametrize("name", ["metrics.json", "progress.json"])
def test_an_old_reports_damage_ends_no_new_one(name, report, own_reports):
    report()
    (own_reports / f"{TODAY}-mini" / name).write_text("{")
    assert report() == ["01_a", "02_b"]
    assert folders.is_finished(own_reports / f"{TODAY}-mini-2")


@pytest.mark.parametrize("content", ["", "[]", "5"])
def test_a_run_whose_profile_is_none_says_so(content, tmp_path):
    (tmp_path / "profile.yaml").write_text(content)
    with refused(ParamsError, "profile.yaml: got", "expected keys and values"):
        folders.read_profile(tmp_path)


@pytest.mark.parametrize("entries", [{"01_a": 5}, {"01_a": {}}, {"01_a": {"seconds": "x"}}, "deep"])
def test_progress_that_is_none_is_one_line(entries, tmp_path):
    text = "[" * 100_000 if entries == "deep" else json.dumps(entries)
    (tmp_path / "progress.json").write_text(text)
    with refused(WorkbookError, "progress.json: damaged", "remove the file"):
        progress.read(tmp_path)
