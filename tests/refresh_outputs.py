"""Run the notebooks on the smoke profile and keep the outputs of the cells that nbval compares; all other outputs are cleared.

    make outputs

Needed after a change that changes hashes, counts or shapes; look at the diff before committing it.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


def refresh(path: Path) -> None:
    """Execute a notebook and write it back with the compared outputs alone."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(NOTEBOOKS)}})
    client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code" and "nbval-check-output" not in cell.metadata.get("tags", []):
            cell.outputs, cell.execution_count = [], None
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.write(notebook, path)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"LUMO_PROFILE": "smoke", "LUMO_REPORTS": folder, "LUMO_RUN_DIR": f"{folder}/smoke"}
        for path in sorted(NOTEBOOKS.glob("0[1-6]_*.ipynb")):
            print(path.name, flush=True)
            refresh(path)
