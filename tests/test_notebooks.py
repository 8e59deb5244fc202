"""The notebooks on the smoke profile: every cell runs, and those tagged so leave the outputs that are kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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
