"""Reports of a test's own, and notebooks that are toys."""

from __future__ import annotations

import datetime
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from lumo.workbook import progress

TODAY = f"{datetime.date.today():%Y-%m-%d}"


@pytest.fixture(name="own_reports", autouse=True)
def fixture_own_reports(tmp_path, monkeypatch) -> Iterator[Path]:
    """Where the reports go in each test of a module that imports this; what the shell sets is set back."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    reports = tmp_path / "reports"
    monkeypatch.setenv("LUMO_REPORTS", str(reports))
    for name in ("LUMO_PROFILE", "LUMO_RUN_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    # the real package is 15 MB of weights, and others may be editing it while the tests run
    monkeypatch.setattr(progress, "_package_sha256", lambda: "package")
    yield reports
    for number, handler in handlers.items():
        signal.signal(number, handler)


def finish(folder: Path) -> None:
    (folder / "report.json").write_text("{}")


def toy(
    folder: Path, name: str, *cells: str, parameters: str = 'profile = "mini"\nrun_dir = None\nstage4 = {}'
) -> Path:
    """A notebook as the real ones are built: title, parameters, setup, then the given code."""
    code = nbformat.v4.new_code_cell
    head = code(parameters, metadata={"tags": ["parameters"]})
    setup = code(f'from lumo import workbook\n\nrun = workbook.begin("{name}", globals())')
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell(f"# {name} $x^2$"), head, setup, *map(code, cells)],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.ipynb"
    nbformat.write(notebook, path)
    return path
