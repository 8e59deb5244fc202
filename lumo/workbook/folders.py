"""Where runs live: `<reports>/<YYYY-MM-DD>-<profile>`, then `-2`, `-3` on the same day.

A folder is finished once it holds `report.json`, which is written last.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import re
from contextlib import AbstractContextManager
from pathlib import Path

import yaml

from lumo.files import locked, write_atomically
from lumo.params import ROOT, Profile, check_profile, read_yaml
from lumo.workbook.errors import WorkbookError

FINISHED = "report.json"


def reports_folder(reports: Path | str | None = None) -> Path:
    """The folder of all reports: the argument, else LUMO_REPORTS, else reports/; relative to the project, always."""
    return ROOT / (reports or os.environ.get("LUMO_REPORTS") or "reports")


def is_finished(folder: Path) -> bool:
    return (folder / FINISHED).is_file()


def read_summary(folder: Path) -> dict:
    """What a finished report's report.json says; empty where the folder isn't finished. Raises WorkbookError."""
    summary = read_json(folder / FINISHED)
    if not isinstance(summary.get("gates", {}), dict) or not isinstance(summary.get("seconds", 0), int | float):
        raise damaged(folder / FINISHED)
    return summary


def damaged(path: Path) -> WorkbookError:
    """What is said of one of lumo's own files of a run that a person or a disk damaged."""
    return WorkbookError(
        f"{path}: damaged, expected a JSON object as lumo writes it; remove the file and run the same command again"
    )


def read_json(path: Path) -> dict:
    """One of lumo's own files of a run; empty where it isn't there. Raises WorkbookError, as `damaged` says."""
    try:
        content = json.loads(path.read_bytes()) if path.is_file() else {}
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise damaged(path)
    return content


def make_folder(folder: Path) -> Path:
    """Make a folder and those above it, where they aren't there. Raises WorkbookError for a place that has no room for folders, such as /proc, a file or
    a loop of links."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileNotFoundError, FileExistsError, NotADirectoryError, ValueError) as error:  # the last for a null byte
        raise WorkbookError(f"can't use {folder}: no folder can be made there; choose another path") from error
    return folder


def runs_of(reports: Path, profile: str) -> list[Path]:
    """The dated folders of a profile, oldest first."""
    pattern = re.compile(rf"(\d{{4}}-\d\d-\d\d)-{re.escape(profile)}(?:-(\d+))?")
    found = []
    for folder in reports.iterdir() if reports.is_dir() else ():
        match = pattern.fullmatch(folder.name)
        # the name alone can't tell the second run of `a` from the first of a profile that is called `a-2`
        if match and folder.is_dir() and profile_name_in(folder) in (None, profile):
            found.append((match[1], int(match[2] or 1), folder))
    return [folder for _, _, folder in sorted(found)]


def new_folder(reports: Path, profile: str) -> Path:
    """Today's folder of a profile, made now; a name that is taken gets -2, -3 and so on."""
    if not re.fullmatch(r"[\w.-]+", profile) or profile.startswith("."):
        raise WorkbookError(
            f"profile name '{profile}' can't name a folder; use letters, digits, - and _ in its `profile` key"
        )
    make_folder(reports)
    today = f"{datetime.date.today():%Y-%m-%d}-{profile}"
    number = 1
    while True:
        folder = reports / (today if number == 1 else f"{today}-{number}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1


def current_folder(reports: Path, profile: str) -> Path:
    """The newest folder of a profile if it isn't finished, else a new one."""
    runs = runs_of(reports, profile)
    return runs[-1] if runs and not is_finished(runs[-1]) else new_folder(reports, profile)


def last_finished(reports: Path, profile: str, other_than: Path) -> Path | None:
    """The newest finished report of a profile that isn't this one."""
    finished = [folder for folder in runs_of(reports, profile) if is_finished(folder) and folder != other_than]
    return finished[-1] if finished else None


def profile_sha256(profile: Profile) -> str:
    return hashlib.sha256(json.dumps(profile.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


def write_profile(folder: Path, profile: Profile) -> None:
    write_atomically(folder / "profile.yaml", yaml.safe_dump(profile.model_dump(mode="json"), sort_keys=False))


def read_profile(folder: Path) -> Profile | None:
    """The resolved profile that the folder was begun with; None in an empty folder."""
    path = folder / "profile.yaml"
    return check_profile(read_yaml(path), str(path)) if path.is_file() else None


def refuse_other_profile(folder: Path, profile: Profile) -> None:
    """Raises WorkbookError where the folder was begun with a profile of another name."""
    begun_with = profile_name_in(folder)
    if begun_with not in (None, profile.profile):
        raise WorkbookError(
            f"{folder} holds a run of profile '{begun_with}', got '{profile.profile}'; choose another run_dir"
        )


def profile_name_in(folder: Path) -> str | None:
    path = folder / "profile.yaml"
    content = read_yaml(path) if path.is_file() else None
    return content.get("profile") if isinstance(content, dict) else None


def only_runner(folder: Path) -> AbstractContextManager[None]:
    """Hold a run's folder: two runners in one would write over each other."""
    taken = WorkbookError(f"another lumo is running in {folder}; wait for it, or stop it first")
    return locked(folder / ".lock", taken)
