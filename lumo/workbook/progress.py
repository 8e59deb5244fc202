"""Which notebooks of a folder are done, and from what: `progress.json`.

A notebook's inputs are the resolved profile, the notebook's cells and lumo's own files. It is done while they are the
same, its page is there, and every notebook before it is done.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from lumo.files import write_atomically
from lumo.params import Profile
from lumo.workbook.folders import profile_sha256, read_json

PACKAGE = Path(__file__).resolve().parent.parent


def read(folder: Path) -> dict[str, dict]:
    return read_json(folder / "progress.json")


def forget(folder: Path, notebook: str) -> None:
    """Take a notebook off the list, as it is begun again."""
    entries = read(folder)
    if entries.pop(notebook, None) is not None:
        _write(folder, entries)


def note_done(folder: Path, notebook: str, inputs: str, seconds: float) -> None:
    _write(folder, read(folder) | {notebook: {"inputs": inputs, "seconds": round(seconds, 2)}})


def is_done(folder: Path, notebook: str, inputs: str) -> bool:
    entry = read(folder).get(notebook, {})
    pages = (folder / f"{notebook}{suffix}" for suffix in (".ipynb", ".html"))
    return entry.get("inputs") == inputs and all(page.is_file() for page in pages)


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
