"""A notebook's run: its profile, its folder, the files it needs and the figures it leaves."""

from __future__ import annotations

import ast
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from lumo.params import ROOT, ParamsError, Profile, check_profile, deep_merge, load_profile, profile_path
from lumo.wording import perhaps
from lumo.workbook import folders, metrics, progress
from lumo.workbook import provenance as origin
from lumo.workbook.errors import WorkbookError, show_expected_errors_in_one_line

DEFAULT_PROFILE = "mini"
PLAIN = (dict, list, str, int, float, bool)


@dataclass(frozen=True)
class Run:
    """What `begin` gives a notebook.

    folder: the dated run folder that all notebooks of a run share
    overrides: what differs from the profile that the folder was begun with, as dotted keys
    """

    notebook: str
    profile: Profile
    folder: Path
    overrides: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    @property
    def device(self) -> str:
        """`cpu` or `cuda`."""
        return origin.device(self.profile)

    def path(self, name: str) -> Path:
        """Where an artifact of that name lives; its folder exists."""
        path = self.folder / "artifacts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def needs(self, name: str, made_by: str) -> Path:
        """The path of an artifact that an earlier notebook made. Raises WorkbookError naming that notebook."""
        path = self.path(name)
        if path.exists():
            return path
        line = f"{self.notebook} needs artifacts/{name}, which isn't in {self.folder}"
        line += f"; run {made_by} first (lumo run {made_by[:2]})"
        for other in reversed(folders.runs_of(self.folder.parent, self.profile.profile)):
            if (other / "artifacts" / name).exists():
                line += f", or set run_dir to {other}, which has it"
                break
        raise WorkbookError(line)

    def record(self, mapping: Mapping[str, Any] | None = None, /, **figures: Any) -> None:
        """Merge figures into metrics.json; keys may be dotted, values numpy's or torch's.

        A figure that isn't finite is written as text: "nan", "inf", "-inf". Raises WorkbookError for what JSON can't
        hold, and for a name that is both a value and a group.
        """
        new = metrics.merged(metrics.nested(mapping or {}), metrics.nested(figures))
        metrics.write_part(
            self.folder, self.notebook, metrics.merged(metrics.read_part(self.folder, self.notebook), new)
        )

    def metrics(self) -> dict:
        """All figures of the run so far, this notebook's and the others'."""
        return metrics.read_metrics(self.folder)

    def seconds(self) -> float:
        """Seconds since `begin`."""
        return time.monotonic() - self.started

    def provenance(self) -> dict:
        """Commit, profile and its hash, seed, device, versions, date, number of CPUs."""
        return origin.provenance(self.profile)


def begin(notebook: str, namespace: dict[str, Any], reports: Path | str | None = None) -> Run:
    """Start a notebook's run, from its parameters cell.

    notebook: its name without `.ipynb`
    namespace: `globals()`. Names of profile fields (`profile`, `seed`, `stage4` …) are overrides; None and {} mean "not
        given". `run_dir` chooses the folder.
    reports: folder of all reports; else LUMO_REPORTS, else reports/.

    LUMO_PROFILE replaces the default profile, LUMO_RUN_DIR an absent `run_dir`. Figures that an earlier run of this
    notebook left in the folder are dropped. Raises ParamsError and WorkbookError; in a notebook they show as one line.
    """
    show_expected_errors_in_one_line()
    given = _parameters(notebook, namespace)
    profile, whole = _resolve(notebook, given)
    folder = _folder(namespace.get("run_dir") or os.environ.get("LUMO_RUN_DIR") or None, profile, reports)
    base = folders.read_profile(folder)
    if base is None:
        # without this notebook's overrides: the notebooks after it may come without them
        folders.write_profile(folder, whole)
        base = whole
    folders.refuse_other_profile(folder, profile)
    run = Run(notebook, profile, folder, _differences(base.model_dump(mode="json"), profile.model_dump(mode="json")))
    progress.forget(folder, notebook)
    made_with = run.provenance() | {"overrides": run.overrides}
    metrics.write_part(folder, notebook, metrics.nested({"runs": {notebook: made_with}}))
    _prepare_torch(profile)
    return run


def _parameters(notebook: str, namespace: dict[str, Any]) -> dict[str, Any]:
    given = {}
    for name in Profile.model_fields:
        value = namespace.get(name)
        if isinstance(value, ModuleType):
            raise WorkbookError(
                f"{notebook}: '{name}' is a module here, and hides the parameter '{name}'; import it under another name"
            )
        if isinstance(value, PLAIN) and value != {}:
            given[name] = value
    _refuse_unknown(notebook, namespace)
    return given


def _refuse_unknown(notebook: str, namespace: dict[str, Any]) -> None:
    """papermill injects a misspelt parameter all the same; IPython's history shows what it injected."""
    cells = [cell for cell in namespace.get("In", ()) if isinstance(cell, str)]
    injected = {name for cell in cells if cell.startswith("# Parameters\n") for name in _assigned(cell)}
    own = {name for cell in cells if not cell.startswith("# Parameters\n") for name in _assigned(cell)}
    unknown = sorted(injected - own - set(Profile.model_fields) - {"run_dir"})
    if unknown:
        known = ["run_dir", *Profile.model_fields]
        meant = perhaps(unknown[0], known)
        raise ParamsError(f"{notebook}: unknown parameter '{unknown[0]}'{meant}; expected one of {', '.join(known)}")


def _assigned(cell: str) -> set[str]:
    try:
        tree = ast.parse(cell)
    except SyntaxError:  # a cell with magics
        return set()
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def _resolve(notebook: str, given: dict[str, Any]) -> tuple[Profile, Profile]:
    """The profile with the notebook's overrides, and without."""
    name = given.get("profile", DEFAULT_PROFILE)
    if not isinstance(name, str):
        raise ParamsError(f"{notebook}: profile is {name!r}, expected a name or a path to a YAML file")
    overrides = {key: value for key, value in given.items() if key != "profile"}
    required = {key for key, entry in Profile.model_fields.items() if entry.is_required()} - {"profile"}
    where = f"parameters of {notebook}"
    if required <= set(overrides):  # a whole profile came as parameters: `papermill -f my.yaml`
        profile = check_profile({**overrides, "profile": Path(name).stem}, where)
        return profile, profile
    if name == DEFAULT_PROFILE:
        name = os.environ.get("LUMO_PROFILE") or name
    base = load_profile(name)
    if not overrides:
        return base, base
    merged = deep_merge(base.model_dump(mode="json"), overrides)
    return check_profile(merged, f"{profile_path(name).name} with {where}"), base


def _folder(run_dir: Any, profile: Profile, reports: Path | str | None) -> Path:
    if run_dir is None:
        return folders.current_folder(folders.reports_folder(reports), profile.profile)
    if not isinstance(run_dir, (str, Path)):
        raise ParamsError(f"run_dir is {run_dir!r}, expected a path or None")
    return folders.make_folder(ROOT / os.path.expanduser(run_dir))


def _differences(base: dict, other: dict, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in base | other:
        mine, theirs = base.get(key), other.get(key)
        if isinstance(mine, dict) and isinstance(theirs, dict):
            found |= _differences(mine, theirs, f"{prefix}{key}.")
        elif mine != theirs:
            found[prefix + key] = theirs
    return found


def _prepare_torch(profile: Profile) -> None:
    """lumo passes its randomness as arguments; the global seed is for what third parties draw."""
    import torch

    from lumo.machine import use_threads

    use_threads(profile.threads)
    torch.manual_seed(profile.seed)
