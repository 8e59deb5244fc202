"""Reports of notebooks that only pretend to run: gates and their status, what runs again, what stays in the index."""

from __future__ import annotations

import sys

import pytest
from workbooks import TODAY, finish, fixture_own_reports, toy  # noqa: F401 - fixtures

from lumo import __main__ as shell
from lumo import workbook
from lumo.params import load_profile
from lumo.workbook import WorkbookError, begin, folders, metrics, progress


@pytest.fixture
def pretended(monkeypatch):
    """Notebooks that record one gate and leave their pages, without a kernel; those named in `failing` fail."""
    failing: set[str] = set()

    def pretend(name, profile, overrides, folder, notebooks):
        if name in failing:
            return workbook.Outcome(name, 1, folder / f"{name}.failed.ipynb", failure=workbook.Failure(4, "x", "E: e"))
        gate = {"name": "g", "got": 0, "expected": "1", "passed": overrides.get("seed") == 1}
        begin(name, {"run_dir": str(folder), "profile": profile}).record({f"gates.{name}": [gate]})
        for suffix in (".ipynb", ".html"):
            (folder / f"{name}{suffix}").write_text("{}")
        progress.note_done(folder, name, "inputs", 1)
        return workbook.Outcome(name, 1, folder / f"{name}.ipynb", folder / f"{name}.html")

    monkeypatch.setattr(sys.modules["lumo.workbook.reporting"], "run_notebook", pretend)
    return failing


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        ([], 0, "gates: 0 of 6 passed; the exit status is 0 all the same, and 3 with --strict"),
        (["--strict"], 3, "gates: 0 of 6 passed\n"),
        (["--strict", "-p", "seed", "1"], 0, "gates: 6 of 6 passed\n"),
    ],
)
def test_gates_that_fail_have_a_status_where_asked(words, status, says, pretended, own_reports, capsys):
    assert shell.main(["report", *words]) == status
    said = capsys.readouterr()
    assert says in said.out
    line = f"GatesFailed: 6 of 6 gates failed; {own_reports / f'{TODAY}-mini' / 'index.html'} says which\n"
    assert said.err == (line if status else "")
    assert folders.is_finished(own_reports / f"{TODAY}-mini")


def test_one_notebook_is_indexed_too(pretended, own_reports, capsys):
    folder = own_reports / f"{TODAY}-mini"
    assert shell.main(["run", "01"]) == 0
    assert (
        capsys.readouterr().out
        == f"01_token_space … 1 s\npage: {folder}/01_token_space.html\nindex: {folder}/index.html\n"
    )
    assert "Not finished: 1 of 6 notebooks done" in (folder / "index.html").read_text()
    assert folder.name in (own_reports / "index.html").read_text()
    assert shell.main(["report"]) == 0
    assert folders.read_summary(folder)["gates"] == {"passed": 0, "total": 6}

    # a finished report stays one, and says both commands
    assert shell.main(["run", "04", "-p", "seed", "1", "--run-dir", str(folder)]) == 0
    assert folders.read_summary(folder)["gates"] == {"passed": 1, "total": 6}
    assert "lumo report --profile mini\nlumo run 04 --profile mini -p seed 1" in (folder / "index.html").read_text()

    # one that lost a notebook isn't
    pretended.add("05_golden")
    assert shell.main(["run", "05", "--run-dir", str(folder)]) == 1
    assert "WorkbookError: 05_golden failed in cell 4 (x): E: e" in capsys.readouterr().err
    assert "Stopped: 05_golden failed" in (folder / "index.html").read_text() and not folders.is_finished(folder)


def test_a_notebook_that_is_no_part_of_the_report_stays_in_the_index(pretended, own_reports):
    folder = own_reports / f"{TODAY}-mini"
    for words in (["run", "09"], ["run", "01"], ["report"]):
        assert shell.main(words) == 0
        page = (folder / "index.html").read_text()
        assert 'href="09_benchmarks.html"' in page
    assert folders.read_summary(folder)["gates"] == {"passed": 0, "total": 7}


def test_running_one_notebook_elsewhere(pretended, own_reports, tmp_path, capsys):
    """No index beside a folder outside the reports, and no page of another profile's report is lost."""
    assert shell.main(["run", "01", "--run-dir", str(tmp_path / "own")]) == 0
    assert (tmp_path / "own" / "index.html").is_file() and not (tmp_path / "index.html").exists()
    finish(tmp_path / "own")
    assert shell.main(["run", "01", "--profile", "smoke", "--run-dir", str(tmp_path / "own")]) == 1
    assert "holds a run of profile 'mini', got 'smoke'; choose another run_dir" in capsys.readouterr().err
    assert folders.is_finished(tmp_path / "own") and (tmp_path / "own" / "01_token_space.ipynb").is_file()


def test_notebooks_after_a_changed_one_run_again(tmp_path, own_reports, monkeypatch):
    nbs = tmp_path / "nbs"
    names = ["01_a", "02_b", "03_c"]
    for name in names:
        toy(nbs, name)
    ran = []

    def pretend(name, profile, overrides, folder, notebooks):
        ran.append(name)
        inputs = progress.inputs_sha256(load_profile(profile, overrides), notebooks / f"{name}.ipynb")
        metrics.write_part(folder, name, {})
        for suffix in (".ipynb", ".html"):
            (folder / f"{name}{suffix}").write_text("{}")
        failure = workbook.Failure(1, "x", "e") if name == "03_c" else None
        if not failure:
            progress.note_done(folder, name, inputs, 1)
        return workbook.Outcome(name, 1, folder / f"{name}.ipynb", failure=failure)

    monkeypatch.setattr(sys.modules["lumo.workbook.reporting"], "run_notebook", pretend)

    def go(**more) -> list[str]:
        ran.clear()
        with pytest.raises(WorkbookError, match="03_c failed in cell 1"):
            workbook.report("mini", reports=own_reports, notebooks=nbs, names=names, **more)
        return list(ran)

    assert go() == names
    assert go() == ["03_c"]
    toy(nbs, "01_a", "changed = 1")
    assert go() == names
    (own_reports / f"{TODAY}-mini" / "02_b.html").unlink()
    assert go() == ["02_b", "03_c"]
    assert go(fresh=True) == names
    assert go(overrides={"seed": 3}) == names  # another resolved profile, another folder
    assert len(folders.runs_of(own_reports, "mini")) == 3
