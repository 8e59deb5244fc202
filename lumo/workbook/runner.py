"""One notebook, run by papermill into a folder, with an HTML page that needs no network.

While it runs it is `<name>.partial.ipynb`; only a whole run is called `<name>.ipynb`, a failed one
`<name>.failed.ipynb`.
papermill and nbconvert take a second and a half to import, so only the functions that use them do.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lumo.files import write_atomically
from lumo.params import ROOT, load_profile
from lumo.wording import perhaps
from lumo.workbook import metrics, progress
from lumo.workbook.errors import WorkbookError
from lumo.workbook.folders import make_folder
from lumo.workbook.html import page_of

NOTEBOOKS = ("01_token_space", "02_shards", "03_warm_start", "04_stage4", "05_golden", "06_ablation")
FOLDER = ROOT / "notebooks"


@dataclass(frozen=True)
class Failure:
    """Where a notebook stopped.

    cell: its number among all cells of the source notebook, from 1; None if the notebook never came to a cell
    first_line: of that cell
    error: one line
    """

    cell: int | None
    first_line: str
    error: str

    def __str__(self) -> str:
        return f" in cell {self.cell} ({self.first_line}): {self.error}" if self.cell else f": {self.error}"


@dataclass(frozen=True)
class Outcome:
    """A notebook's run. notebook, page: what was written; page is None if it failed."""

    name: str
    seconds: float
    notebook: Path
    page: Path | None = None
    failure: Failure | None = None


def run_notebook(name: str, profile: str, overrides: dict[str, Any], folder: Path, notebooks: Path = FOLDER) -> Outcome:
    """Run one notebook into a folder with this interpreter's kernel, make its page and note its seconds.

    profile: a name, or a path to a YAML file. overrides: nested, as in `{"stage4": {"steps": 10}}`.
    Raises ParamsError and WorkbookError before the kernel starts, OSError if the disk is full; a notebook that fails
    is an Outcome with a Failure.
    """
    source = notebooks / f"{name}.ipynb"
    if not source.is_file():
        raise WorkbookError(f"no notebook {source}; expected one of {', '.join(known_notebooks(notebooks))}")
    inputs = progress.inputs_sha256(load_profile(profile, overrides), source)
    make_folder(folder)
    partial, failed, whole, page = (
        folder / f"{name}{suffix}" for suffix in (".partial.ipynb", ".failed.ipynb", ".ipynb", ".html")
    )
    for old in (partial, failed, whole, page):
        old.unlink(missing_ok=True)

    started = time.monotonic()
    failure = _execute(source, partial, {"profile": profile, **overrides}, folder)
    seconds = time.monotonic() - started
    content = _without_paths(partial.read_text(), folder) if partial.is_file() else ""
    if failure:
        write_atomically(failed, content)
    else:
        write_atomically(page, page_of(content, name))
        write_atomically(whole, content)  # after its page: its presence means that both are there
    partial.unlink(missing_ok=True)
    if failure:
        return Outcome(name, seconds, failed, failure=failure)
    progress.note_done(folder, name, inputs, seconds)
    _note_seconds(folder)
    return Outcome(name, seconds, whole, page)


def known_notebooks(notebooks: Path = FOLDER) -> list[str]:
    """The names of all notebooks that are there."""
    return sorted(path.stem for path in notebooks.glob("[0-9]*.ipynb"))


def find_notebook(start: str, notebooks: Path = FOLDER) -> str:
    """`04` → `04_stage4`. Raises WorkbookError unless exactly one notebook starts so."""
    start = Path(start).name.removesuffix(".ipynb")
    found = [name for name in known_notebooks(notebooks) if name == start or name.startswith(start)]
    if len(found) != 1:
        known = known_notebooks(notebooks)
        meant = "" if found else perhaps(start, known)
        expected = ", ".join(known) or f"notebooks in {notebooks}"
        raise WorkbookError(
            f"'{start}'{meant} is the start of {len(found)} notebooks' names; expected one of {expected}"
        )
    return found[0]


def _execute(source: Path, partial: Path, parameters: dict[str, Any], folder: Path) -> Failure | None:
    import nbformat
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    # its warnings name parameters that lumo checks itself, its errors come back as exceptions
    logging.getLogger("papermill").setLevel(logging.CRITICAL)
    try:
        papermill.execute_notebook(
            str(source).replace("{", "{{").replace("}", "}}"),  # papermill formats paths with the parameters
            str(partial).replace("{", "{{").replace("}", "}}"),
            parameters=parameters,
            kernel_name="python3",
            kernel_manager_class=_kernel_manager({"LUMO_RUN_DIR": str(folder), "LUMO_PROFILE": parameters["profile"]}),
            cwd=str(source.parent),
            progress_bar=False,
        )
    except papermill.PapermillExecutionError as error:
        return _failure(nbformat.read(partial, as_version=4), f"{error.ename}: {error.evalue}")
    except (DeadKernelError, CellTimeoutError) as error:
        line = "the kernel died, perhaps for want of memory" if isinstance(error, DeadKernelError) else str(error)
        return _failure(nbformat.read(partial, as_version=4), line)
    except FileNotFoundError as error:  # papermill's own words, without the system's number
        if folder.is_dir():
            raise
        raise WorkbookError(f"{folder}: removed while {source.stem} ran; run the same command again") from error
    return None


def _kernel_manager(environment: dict[str, str]) -> type:
    """A kernel of this very interpreter: a kernelspec called python3 may be another one's (a user's, a conda's)."""
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    spec = KernelSpec(
        argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=CRITICAL"],
        display_name="Python 3",
        language="python",
        metadata={"supported_encryption": ["curve"]},
        env={key: value.replace("$", "$$") for key, value in environment.items()},  # jupyter_client fills in $NAMES
    )

    class ThisInterpreter(AsyncKernelManager):
        @property
        def kernel_spec(self) -> KernelSpec:
            return spec

    return ThisInterpreter


def _failure(notebook: Any, error: str) -> Failure:
    error = " ".join(_without_colours(error).split())
    if "[Errno 28]" in error:
        error = f"disk full ({error}); free some space"
    number = 0
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if "injected-parameters" in tags or "papermill-error-cell-tag" in tags:
            continue
        number += 1
        begun = (
            cell.cell_type == "code" and cell.source.strip() and cell.metadata.get("papermill", {}).get("start_time")
        )
        died = begun and "shell.execute_reply" not in cell.metadata.get("execution", {})  # the kernel never answered
        if died or any(output.output_type == "error" for output in cell.get("outputs", [])):
            lines = [line for line in cell.source.splitlines() if line.strip() and not line.lstrip().startswith("#")]
            return Failure(number, lines[0].strip() if lines else "", error)
    return Failure(None, "", error)


def _without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)


def _without_paths(text: str, folder: Path) -> str:
    """Reports are shared, so warnings and papermill's notes in them shouldn't name the folders of one machine."""
    for place, name in ((folder.parent, "reports/"), (ROOT, "")):
        if len(place.parts) > 1:
            text = re.sub(rf"(?<![\w.:/-]){re.escape(str(place))}/", name, text)
    return text


def _note_seconds(folder: Path) -> None:
    seconds = {name: entry["seconds"] for name, entry in progress.read(folder).items()}
    metrics.write_part(folder, "seconds", {"seconds": {"total": round(sum(seconds.values()), 2), **seconds}})
