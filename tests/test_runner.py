"""Notebooks in real kernels: a report goes on after mending, and a kernel that dies or is killed leaves nothing half-made."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml
from refusals import refused
from workbooks import TODAY, fixture_own_reports, toy  # noqa: F401 - fixtures

from lumo import workbook
from lumo.params import PARAMS
from lumo.workbook import WorkbookError, begin, folders, metrics, progress, run_notebook


def test_report_stops_at_a_failure_and_goes_on_after_mending(tmp_path, own_reports, capsys):
    nbs = tmp_path / "nbs"
    caption = "from IPython.display import HTML\nHTML('<b>pla' + 'yer</b>')"
    record = (
        "import os, sys\nrun.record(steps=run.profile.stage4.steps, python=sys.executable, cwd=os.getcwd())\n"
        "run.record({'gates.01_a': [dict(name='g', got=1, expected='1', passed=True)]})"
    )
    toy(nbs, "01_a", "run.path('x').write_text('made')", record, caption)
    toy(nbs, "02_b", "# a comment first\nx = run.needs('x', made_by='01_a').read_text()", "print(x)\n1 / 0")
    names, arguments = ["01_a", "02_b"], {"reports": own_reports, "notebooks": nbs}
    overrides = {"stage4": {"steps": 7}}

    with pytest.raises(
        WorkbookError, match=r"02_b failed in cell 5 \(print\(x\)\): ZeroDivisionError: division by zero"
    ):
        workbook.report("mini", overrides, names=names, **arguments)
    folder = own_reports / f"{TODAY}-mini"
    assert re.search(r"\[1/2\] 01_a … \d+ s  \(total \d+ s\)\n\[2/2\] 02_b … failed\n", capsys.readouterr().out)
    assert (folder / "02_b.failed.ipynb").is_file() and not (folder / "02_b.ipynb").exists()
    assert not folders.is_finished(folder)
    assert "Stopped: 02_b failed in cell 5" in (folder / "index.html").read_text()
    figures = metrics.read_metrics(folder)
    assert (figures["steps"], figures["python"], figures["cwd"]) == (7, sys.executable, str(nbs))
    assert figures["runs"]["01_a"]["overrides"] == {}

    page = (folder / "01_a.html").read_text()
    assert "<b>player</b>" in page
    assert not re.search(r"""(src|href)=["']?(https?:)?//|import\(|import .* from ["']http""", page)
    dark = page.partition('<style media="(prefers-color-scheme: dark)">')[2].partition("</style>")[0]
    assert "--jp-layout-color0: #111;" in dark and "<" not in dark, (
        "nbconvert's own dark colours, whole and nothing else"
    )

    written = (folder / "01_a.ipynb").stat().st_mtime_ns
    toy(nbs, "02_b", "x = run.needs('x', made_by='01_a').read_text()")
    index = workbook.report("mini", overrides, names=names, **arguments)
    said = capsys.readouterr().out
    assert "[1/2] 01_a … done before" in said and said.endswith(f"gates: 1 of 1 passed\nreport: {index}\n")
    assert index == folder / "index.html" and folders.is_finished(folder)
    assert (folder / "01_a.ipynb").stat().st_mtime_ns == written
    assert not (folder / "02_b.failed.ipynb").exists() and not list(folder.glob("*.partial*"))
    seconds = metrics.read_metrics(folder)["seconds"]
    assert seconds["total"] == pytest.approx(seconds["01_a"] + seconds["02_b"], abs=0.02)
    assert f"{folder.name}/index.html" in (own_reports / "index.html").read_text()
    assert str(tmp_path) not in (folder / "01_a.ipynb").read_text().replace(str(nbs), "")


def test_dead_kernel_and_bad_parameter(tmp_path, own_reports):
    nbs, folder = tmp_path / "nbs", own_reports / "run"
    toy(nbs, "01_dies", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    failure = run_notebook("01_dies", "mini", {}, folder, nbs).failure
    assert (failure.cell, failure.first_line) == (4, "import os, signal")
    assert "the kernel died" in failure.error

    # the shell checks parameters before the kernel starts; plain papermill can't
    source = toy(nbs, "02_typo")
    out = tmp_path / "out.ipynb"
    with pytest.raises(papermill.PapermillExecutionError) as caught:
        papermill.execute_notebook(source, out, {"stage4": {"stepz": 1}}, progress_bar=False, kernel_name="python3")
    assert caught.value.evalue.startswith("mini.yaml with parameters of 02_typo: unknown key 'stage4.stepz'")
    assert len(caught.value.traceback) == 1


def test_a_warning_and_an_interrupt_are_one_line_in_a_notebook(tmp_path, own_reports):
    cells = ("import warnings\nwarnings.warn('mind this')", "import os, signal\nos.kill(os.getpid(), signal.SIGINT)")
    source, out = toy(tmp_path / "nbs", "01_a", *cells), tmp_path / "out.ipynb"
    with pytest.raises(papermill.PapermillExecutionError) as caught:
        papermill.execute_notebook(source, out, progress_bar=False, kernel_name="python3")
    assert caught.value.traceback == [
        "interrupted; run the cell again, or Restart Kernel and Run All: it goes on from the last whole shard or checkpoint"
    ]
    said = [
        output.text for cell in nbformat.read(out, 4).cells for output in cell.get("outputs", []) if "text" in output
    ]
    assert said == ["UserWarning: mind this\n"]


def test_a_folder_that_is_removed_in_the_middle_is_one_line(tmp_path, own_reports):
    toy(tmp_path / "nbs", "01_a", "import shutil\nshutil.rmtree(run.folder)")
    with refused(WorkbookError, "removed while 01_a ran", "run the same command again"):
        run_notebook("01_a", "mini", {}, own_reports / "run", tmp_path / "nbs")


@pytest.mark.parametrize("start", ["root", "notebooks"])
def test_plain_papermill_from_any_folder(start, tmp_path, own_reports, monkeypatch):
    source = toy(tmp_path / "nbs", "01_a", "run.record(steps=run.profile.stage4.steps, cases=run.profile.golden.cases)")
    monkeypatch.chdir(tmp_path if start == "root" else tmp_path / "nbs")
    parameters = yaml.safe_load((PARAMS / "mini.yaml").read_text())  # what -f does
    papermill.execute_notebook(os.path.relpath(source), "OUT.ipynb", parameters, progress_bar=False)
    figures = metrics.read_metrics(own_reports / f"{TODAY}-mini")
    assert (figures["steps"], figures["cases"]) == (parameters["stage4"]["steps"], parameters["golden"]["cases"])
    assert figures["runs"]["01_a"]["overrides"] == {}


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)])
def test_killed_in_the_middle(number, status, tmp_path, own_reports):
    nbs = tmp_path / "nbs"
    toy(
        nbs,
        "01_slow",
        "import os, time\nrun.path('kernel').write_text(str(os.getpid()))\nrun.record(a=1)\ntime.sleep(60)",
    )
    script = textwrap.dedent(f"""
        import functools, pathlib, sys
        from lumo import __main__, workbook
        workbook.report = functools.partial(
            workbook.report, notebooks=pathlib.Path({str(nbs)!r}), names=["01_slow"])
        sys.exit(__main__.main(["report"]))
    """)
    folder = own_reports / f"{TODAY}-mini"
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not metrics.at(metrics.read_metrics(folder), "a") and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    said = process.communicate(timeout=30)[1]
    assert process.returncode == status
    assert number == signal.SIGKILL or "run the same command again to go on" in said
    kernel = int((folder / "artifacts" / "kernel").read_text())
    while Path(f"/proc/{kernel}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{kernel}").exists()  # no kernel trains on after its runner

    # nothing half-made is read as whole, and the next run goes on in the same folder
    assert not (folder / "01_slow.ipynb").exists() and not folders.is_finished(folder)
    assert json.loads((folder / "metrics.json").read_text())["a"] == 1
    assert progress.read(folder) == {}
    assert begin("01_slow", {}).folder == folder
