"""Which notebooks of a folder are done, and from what: `progress.json`.

A notebook's inputs are the resolved profile, the notebook's cells and lumo's own files. It is done while they are the
same, its page and its figures are there, and every notebook before it is done.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from lumo.files import write_atomically
from lumo.params import Profile
from lumo.workbook.folders import damaged, profile_sha256, read_json
from lumo.workbook.metrics import part_path

PACKAGE = Path(__file__).resolve().parent.parent


def read(folder: Path) -> dict[str, dict]:
    """Of each notebook that is done its inputs' hash and its seconds. Raises WorkbookError for a damaged file."""
    path = folder / "progress.json"
    entries = read_json(path)
    if not all(isinstance(entry, dict) and isinstance(entry.get("seconds"), int | float) for entry in entries.values()):
        raise damaged(path)
    return entries


def forget(folder: Path, notebook: str) -> None:
    """Take a notebook off the list, as it is begun again."""
    entries = read(folder)
    if entries.pop(notebook, None) is not None:
        _write(folder, entries)


def note_done(folder: Path, notebook: str, inputs: str, seconds: float) -> None:
    _write(folder, read(folder) | {notebook: {"inputs": inputs, "seconds": round(seconds, 2)}})


def is_done(folder: Path, notebook: str, inputs: str) -> bool:
    entry = read(folder).get(notebook, {})
    left = [folder / f"{notebook}.ipynb", folder / f"{notebook}.html", part_path(folder, notebook)]
    return entry.get("inputs") == inputs and all(path.is_file() for path in left)


def inputs_sha256(profile: Profile, notebook: Path) -> str:
    """A hash of all that a notebook's result depends on, earlier notebooks aside; outputs in its file don't count."""
    cells = [(cell["cell_type"], cell["source"]) for cell in json.loads(notebook.read_text())["cells"]]
    parts = (profile_sha256(profile), json.dumps(cells), _package_sha256())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _package_sha256() -> str:
    whole = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            whole.update(str(path.relative_to(PACKAGE)).encode() + b"\0")
            whole.update(hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()


def _write(folder: Path, entries: dict) -> None:
    write_atomically(folder / "progress.json", json.dumps(entries, indent=1) + "\n")
