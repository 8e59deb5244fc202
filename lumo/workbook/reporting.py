"""The whole report: every notebook in order, one line each, and from where it stopped when it is called again."""

from __future__ import annotations

import datetime
import json
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lumo.files import write_atomically
from lumo.params import Profile, load_profile
from lumo.workbook import folders, metrics, progress
from lumo.workbook.errors import GatesFailed, WorkbookError
from lumo.workbook.pages import duration, gate_counts, write_index, write_reports_index
from lumo.workbook.provenance import commit
from lumo.workbook.runner import FOLDER, NOTEBOOKS, Outcome, run_notebook


@dataclass(frozen=True)
class _Series:
    """Notebooks to be run in order, and with what.

    profile: a name, or a path to a YAML file; resolved: the same with the overrides; command: the line that asks for it all
    """

    names: Sequence[str]
    notebooks: Path
    profile: str
    overrides: dict[str, Any]
    resolved: Profile
    command: str

    def inputs_sha256(self, name: str) -> str:
        return progress.inputs_sha256(self.resolved, self.notebooks / f"{name}.ipynb")

    def run(self, name: str, folder: Path) -> Outcome:
        return run_notebook(name, self.profile, self.overrides, folder, self.notebooks)


def report(
    profile: str = "mini",
    overrides: dict[str, Any] | None = None,
    *,
    fresh: bool = False,
    strict: bool = False,
    reports: Path | str | None = None,
    notebooks: Path = FOLDER,
    names: Sequence[str] = NOTEBOOKS,
) -> Path:
    """Run the notebooks into a dated folder and index them; prints a line for each and returns the index page.

    The newest folder of the profile is gone on with if it isn't finished and has the same resolved profile; notebooks
    in it whose inputs are unchanged are skipped. fresh: begin a new folder in any case. strict: a gate that failed is an error.
    Raises WorkbookError at the first notebook that fails, naming the notebook, its cell and the error; GatesFailed; ParamsError.
    """
    overrides = overrides or {}
    resolved = load_profile(profile, overrides)
    if missing := [name for name in names if not (notebooks / f"{name}.ipynb").is_file()]:
        raise WorkbookError(f"no notebook {missing[0]}.ipynb in {notebooks}; check out the whole project")
    folder = _choose_folder(folders.reports_folder(reports), resolved, fresh=fresh)
    series = _Series(names, notebooks, profile, overrides, resolved, command_line(profile, overrides, "report"))
    with folders.only_runner(folder):
        _run_all(folder, series)
        gates = _finish(folder, resolved, names, series.command)
        write_reports_index(folder.parent)
    page = folder / "index.html"
    _say_verdict(gates, page, strict=strict)
    return page


def run_one(name: str, profile: str, overrides: dict[str, Any], folder: Path, notebooks: Path = FOLDER) -> Outcome:
    """Run one notebook into a folder and index the folder again; prints its line and its pages.

    A finished report isn't finished while one of its notebooks runs anew, and is again when that ran well.
    Raises WorkbookError for a folder of another profile, and for a notebook that fails, naming its cell and the error.
    """
    resolved = load_profile(profile, overrides)
    folders.refuse_other_profile(folder, resolved)
    command = command_line(profile, overrides, "run", name[:2])
    with folders.only_runner(folder):
        before = folders.read_summary(folder)
        (folder / folders.FINISHED).unlink(missing_ok=True)
        print(f"{name} … ", end="", flush=True)
        outcome = run_notebook(name, profile, overrides, folder, notebooks)
        print("failed" if outcome.failure else duration(outcome.seconds), flush=True)
        index = _index_again(folder, outcome, resolved, before, command)
    if outcome.failure:
        raise WorkbookError(f"{_stopped(outcome)} · {outcome.notebook}")
    print(f"page: {outcome.page}\nindex: {index}", flush=True)
    return outcome


def _index_again(folder: Path, outcome: Outcome, profile: Profile, before: dict, command: str) -> Path:
    """before: the summary of the report, where it was finished; what made it is shown beside what made the one notebook."""
    commands = f"{before['command']}\n{command}" if "command" in before else command
    if before and not outcome.failure:
        _finish(folder, folders.read_profile(folder) or profile, NOTEBOOKS, commands)
    else:
        write_index(folder, NOTEBOOKS, commands, _stopped(outcome))
    if folder.parent == folders.reports_folder():  # elsewhere an index.html may be someone else's
        write_reports_index(folder.parent)
    return folder / "index.html"


def _stopped(outcome: Outcome) -> str | None:
    return f"{outcome.name} failed{outcome.failure}" if outcome.failure else None


def command_line(profile: str, overrides: dict[str, Any], *command: str) -> str:
    """
    >>> command_line("mini", {"stage4": {"steps": 10}}, "run", "04")
    'lumo run 04 --profile mini -p stage4.steps 10'
    """
    words = ["lumo", *command, "--profile", profile]
    for key, value in _leaves(overrides):
        words += ["-p", key, json.dumps(value) if not isinstance(value, str) else value]
    return shlex.join(words)


def _leaves(overrides: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in overrides.items():
        found += _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return found


def _choose_folder(reports: Path, profile: Profile, *, fresh: bool) -> Path:
    runs = folders.runs_of(reports, profile.profile)
    if runs and not fresh and not folders.is_finished(runs[-1]):
        begun_with = folders.read_profile(runs[-1])
        if begun_with is None or begun_with == profile:
            folders.write_profile(runs[-1], profile)
            return runs[-1]
    folder = folders.new_folder(reports, profile.profile)
    folders.write_profile(folder, profile)
    return folder


def _run_all(folder: Path, series: _Series) -> None:
    names = series.names
    print(f"{folder.name}: {len(names)} notebooks, profile {series.resolved.profile}", flush=True)
    try:
        expected = _seconds_of(folders.last_finished(folder.parent, series.resolved.profile, folder))
    except WorkbookError:  # an old folder's damage doesn't end a new report
        expected = {}
    started = time.monotonic()
    unchanged = True  # a notebook that runs again makes every later one run again: it reads what this one writes
    for number, name in enumerate(names, 1):
        print(f"[{number}/{len(names)}] {name} … ", end="", flush=True)
        unchanged = unchanged and progress.is_done(folder, name, series.inputs_sha256(name))
        if unchanged:
            print(f"done before ({duration(_seconds_of(folder)[name])})", flush=True)
            continue
        for later in names[number - 1 :]:
            progress.forget(folder, later)
        outcome = series.run(name, folder)
        if outcome.failure:
            print("failed", flush=True)
            raise _stop(folder, series, outcome)
        left = _left(expected, names[number:])
        print(f"{duration(outcome.seconds)}  (total {duration(time.monotonic() - started)}{left})", flush=True)


def _stop(folder: Path, series: _Series, failed: Outcome) -> WorkbookError:
    """The index says where it stopped; so does the error."""
    page = write_index(folder, series.names, series.command, _stopped(failed))
    write_reports_index(folder.parent)
    again = f"mend it, then run the same command again: it goes on from {failed.name}"
    return WorkbookError(f"{_stopped(failed)} · {again} · {page}")


def _left(expected: dict[str, float], names: Sequence[str]) -> str:
    if not names or any(name not in expected for name in names):
        return ""
    return f", ≈ {duration(sum(expected[name] for name in names))} left"


def _seconds_of(folder: Path | None) -> dict[str, float]:
    return {name: entry["seconds"] for name, entry in progress.read(folder).items()} if folder else {}


def _finish(folder: Path, profile: Profile, names: Sequence[str], command: str) -> dict[str, int]:
    """Index a whole report and mark it as finished; how many gates were judged, and how many passed."""
    metrics.rebuild(folder)
    figures = metrics.read_metrics(folder)
    count = gate_counts(figures)
    write_index(folder, names, command)
    summary = {
        "profile": profile.profile,
        "profile_sha256": folders.profile_sha256(profile),
        "commit": commit(),
        "finished": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "seconds": metrics.at(figures, "seconds.total") or 0,
        "gates": count,
        "command": command,
    }
    # written last: its presence means that the report is whole
    write_atomically(folder / folders.FINISHED, json.dumps(summary, indent=1) + "\n")
    return count


def _say_verdict(gates: dict[str, int], page: Path, *, strict: bool) -> None:
    failed = gates["total"] - gates["passed"]
    note = "" if strict or not failed else "; the exit status is 0 all the same, and 3 with --strict"
    print(f"gates: {gates['passed']} of {gates['total']} passed{note}\nreport: {page}", flush=True)
    if strict and not gates["total"]:
        raise GatesFailed(f"no gate had anything to look at; see {page}")
    if strict and failed:
        raise GatesFailed(f"{failed} of {gates['total']} gates failed; {page} says which")
