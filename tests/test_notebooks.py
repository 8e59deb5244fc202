"""The notebooks on the smoke profile: every cell runs, and those tagged so leave the outputs that are kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest

from lumo import ablation, show
from lumo.tasks import TASKS

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


def test_notebooks_1_to_6_run_and_leave_the_outputs_that_are_kept(tmp_path):
    """In number order and in one process: each reads what the ones before it wrote."""
    environment = {"LUMO_PROFILE": "smoke", "LUMO_REPORTS": str(tmp_path), "LUMO_RUN_DIR": str(tmp_path / "smoke")} | {
        "PYTEST_ADDOPTS": ""
    }
    command = [sys.executable, "-m", "pytest", "-x", "--nbval-lax", "--nbval-current-env", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *map(str, sorted(NOTEBOOKS.glob("0[1-6]_*.ipynb")))],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def run_cells(name: str, cells: tuple[str, ...], values: dict) -> list[bool | None]:
    """Some cells of a notebook on values that others would have given. Returns which gates passed."""
    run = SimpleNamespace(record=lambda *_, **__: None, notebook=name, profile=SimpleNamespace(seed=0))
    values |= {"run": run, "show": show, "ablations": ablation, "TASKS": TASKS}
    for cell in nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4).cells:
        if cell.id in cells:
            exec(cell.source, values)
    return [gate.passed for gate in values["gates"]]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("clusters", "arms"), [([], []), ([0, 0], ["zero", "noise"]), ([0, 1], ["shuffled", "zero", "noise"])]
)
def test_gates_over_nothing_or_one_recording_are_not_applicable(clusters, arms):
    losses = np.arange(1.0, len(clusters) + 1)
    results = {
        arm: ablation.CaseLosses(losses + (arm != "correct"), np.ones(len(clusters), int), np.array(clusters, int))
        for arm in ("correct", *arms)
    }
    figures = {"a2t": ablation.figures(results, 20, 0)}
    whole = dict.fromkeys(("before", "after", "same"), True)
    judged = [True if arm in arms else None for arm in ("shuffled", "zero", "noise")]
    assert run_cells("03_warm_start", ("03-19",), {"figures": figures, "result": {}} | whole) == [True, True, *judged]
    given = {"figures": figures, "results": {"a2t": results}, "params": SimpleNamespace(resamples=20)}
    applies = True if len(set(clusters)) > 1 else None
    assert run_cells("06_ablation", ("06-07", "06-08", "06-10", "06-12"), given) == [applies] * 3
