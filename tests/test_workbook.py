"""The workbook without notebooks (runs, folders, figures, pages), then its runner with toys in real kernels."""

from __future__ import annotations

import datetime
import errno
import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import nbformat
import numpy as np
import papermill
import pytest
import torch
import yaml
from refusals import check_line, refused

from lumo import __main__ as shell
from lumo import files, workbook
from lumo.params import PARAMS, ROOT, ParamsError, load_profile
from lumo.workbook import WorkbookError, begin, folders, metrics, progress, run_notebook
from lumo.workbook.errors import is_expected, one_line
from lumo.workbook.pages import write_index, write_reports_index
from lumo.workbook.runner import find_notebook

TODAY = f"{datetime.date.today():%Y-%m-%d}"


@pytest.fixture(autouse=True)
def own_reports(tmp_path, monkeypatch) -> Iterator[Path]:
    handlers = {
        number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)
    }  # the shell sets its own
    reports = tmp_path / "reports"
    monkeypatch.setenv("LUMO_REPORTS", str(reports))
    for name in ("LUMO_PROFILE", "LUMO_RUN_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # so does it with this
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


# --- begin -----------------------------------------------------------------------------------------------------------


def test_begin_resolves_profile_and_overrides(own_reports):
    namespace = {"profile": "mini", "run_dir": None, "seed": None, "golden": {}, "stage4": {"steps": 7}, "np": np}
    run = begin("04_stage4", namespace)
    assert run.profile == load_profile("mini", {"stage4": {"steps": 7}})
    assert run.folder == own_reports / f"{TODAY}-mini"
    assert folders.read_profile(run.folder) == load_profile("mini")
    assert run.overrides == {"stage4.steps": 7}
    assert run.seconds() >= 0 and run.device == "cpu"


def test_overrides_of_one_notebook_are_recorded(own_reports):
    first = begin("01_a", {})
    later = begin("04_b", {"stage4": {"steps": 7}, "seed": 3})
    assert later.folder == first.folder
    assert later.overrides == {"stage4.steps": 7, "seed": 3}
    assert metrics.at(later.metrics(), "runs.04_b.overrides") == {"stage4": {"steps": 7}, "seed": 3}
    assert metrics.at(later.metrics(), "runs.01_a.overrides") == {}
    assert folders.read_profile(first.folder) == load_profile("mini")


def test_whole_profile_as_parameters_needs_no_file():
    """`papermill -f my.yaml` injects the file's keys and says nothing of the file."""
    own = yaml.safe_load((PARAMS / "mini.yaml").read_text()) | {"profile": "mine", "seed": 5}
    run = begin("01_a", dict(own))
    assert (run.profile.profile, run.profile.seed) == ("mine", 5)
    assert run.folder.name == f"{TODAY}-mine"


def test_environment_replaces_only_the_default_profile(tmp_path, monkeypatch):
    own = yaml.safe_load((PARAMS / "mini.yaml").read_text()) | {"profile": "other"}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(own))
    (tmp_path / "third.yaml").write_text(yaml.safe_dump(own | {"profile": "third"}))
    monkeypatch.setenv("LUMO_PROFILE", str(tmp_path / "other.yaml"))
    assert begin("01_a", {"profile": "mini"}).profile.profile == "other"
    assert begin("01_a", {"profile": str(tmp_path / "third.yaml")}).profile.profile == "third"


@pytest.mark.parametrize(
    ("namespace", "line"),
    [
        ({"stage4": {"stepz": 1}}, r"mini\.yaml with parameters of 04_b: unknown key 'stage4\.stepz'"),
        ({"seed": "x"}, "seed is 'x'"),
        ({"profile": "minni"}, r"profile 'minni' \(perhaps 'mini'\?\): no file"),
        ({"profile": 3}, "04_b: profile is 3, expected a name"),
        ({"run_dir": 3}, "run_dir is 3, expected a path"),
        ({"In": ["", "seed = None", "# Parameters\nstpes = 3\n"]}, "04_b: unknown parameter 'stpes'; expected one of"),
        ({"In": ["", "", "# Parameters\nstag4 = 3\n"]}, r"unknown parameter 'stag4' \(perhaps 'stage4'\?\)"),
    ],
)
def test_bad_parameters_are_one_line(namespace, line):
    with pytest.raises(ParamsError, match=line) as caught:
        begin("04_b", namespace)
    assert "\n" not in str(caught.value)


def test_known_parameters_of_a_notebook_pass():
    begin("04_b", {"In": ["", "interactive = False", "# Parameters\ninteractive = True\nseed = 1\nrun_dir = 'x'\n"]})


def test_module_must_not_hide_a_parameter():
    with pytest.raises(WorkbookError, match="04_b: 'golden' is a module here, and hides the parameter 'golden'"):
        begin("04_b", {"golden": math})


def test_run_dir_choice(own_reports, tmp_path, monkeypatch):
    first = begin("01_a", {}).folder
    assert begin("02_b", {}).folder == first
    finish(first)
    second = begin("01_a", {}).folder
    assert second.name == f"{TODAY}-mini-2"
    finish(second)
    assert begin("01_a", {}).folder.name == f"{TODAY}-mini-3"
    assert begin("01_a", {"run_dir": str(first)}).folder == first
    monkeypatch.setenv("LUMO_RUN_DIR", str(tmp_path / "there"))
    assert begin("01_a", {}).folder == tmp_path / "there"
    assert begin("01_a", {"run_dir": str(first)}).folder == first


def test_newest_folder_is_by_date_then_number(own_reports):
    for name in ("2026-01-02-mini", "2026-01-01-mini-11", "2026-01-02-mini-10", "2026-01-02-mini-9", "sample-mini"):
        (own_reports / name).mkdir(parents=True)
    assert [folder.name for folder in folders.runs_of(own_reports, "mini")] == [
        "2026-01-01-mini-11",
        "2026-01-02-mini",
        "2026-01-02-mini-9",
        "2026-01-02-mini-10",
    ]


def test_folder_of_another_profile_is_refused(tmp_path):
    own = yaml.safe_load((PARAMS / "mini.yaml").read_text()) | {"profile": "mine"}
    folder = begin("01_a", dict(own)).folder
    with pytest.raises(WorkbookError, match="holds a run of profile 'mine', got 'mini'; choose another run_dir"):
        begin("01_a", {"run_dir": str(folder)})


def test_two_runners_in_one_folder(tmp_path):
    second = folders.only_runner(tmp_path)
    with folders.only_runner(tmp_path), pytest.raises(WorkbookError, match="another lumo is running in"):
        second.__enter__()


# --- artifacts and figures -------------------------------------------------------------------------------------------


def test_missing_input_names_the_notebook_that_makes_it(own_reports):
    run = begin("04_stage4", {})
    line = f"04_stage4 needs artifacts/warm_start, which isn't in {run.folder}; run 03_warm_start first (lumo run 03)"
    with pytest.raises(WorkbookError, match=re.escape(line) + "$"):
        run.needs("warm_start", made_by="03_warm_start")
    run.path("warm_start").mkdir()
    assert run.needs("warm_start", made_by="03_warm_start") == run.folder / "artifacts" / "warm_start"
    finish(run.folder)
    with pytest.raises(WorkbookError, match=re.escape(f"or set run_dir to {run.folder}, which has it")):
        begin("04_stage4", {}).needs("warm_start", made_by="03_warm_start")


def test_figures_merge_over_keys_and_notebooks():
    one, two = begin("01_a", {}), begin("02_b", {})
    one.record({"golden.t2a": {"cases": np.int64(64)}, "flags": [np.bool_(True)]}, loss=np.float32(0.5))
    one.record({"golden": {"t2a.decoded": 64}})
    two.record({"golden.t2i.cases": 3, "curve": np.arange(3)})
    figures = json.loads((one.folder / "metrics.json").read_text())
    assert figures["golden"] == {"t2a": {"cases": 64, "decoded": 64}, "t2i": {"cases": 3}}
    assert (figures["flags"], figures["loss"], figures["curve"]) == ([True], 0.5, [0, 1, 2])
    assert figures == one.metrics() == two.metrics()


def test_figures_that_are_not_finite_are_text():
    run = begin("01_a", {})
    run.record(a=float("nan"), b=[np.float32("inf"), -math.inf])
    assert (run.metrics()["a"], run.metrics()["b"]) == ("nan", ["inf", "-inf"])


@pytest.mark.parametrize(
    ("figures", "line"),
    [
        ({"x": object()}, "figure 'x' is object, expected a number"),
        ({3: 1}, "a figure is named 3, expected text"),
        ({"loss.a": 1}, "figure 'loss' is both a value and a group"),
    ],
)
def test_figures_that_cannot_be_kept_are_refused(figures, line):
    run = begin("01_a", {})
    run.record(loss=1)
    with pytest.raises(WorkbookError, match=line):
        run.record(figures)
    assert run.metrics()["loss"] == 1


def test_beginning_again_drops_the_notebooks_old_figures():
    run = begin("01_a", {})
    run.record(old=1)
    progress.note_done(run.folder, "01_a", "inputs", 1)
    begin("02_b", {}).record(kept=1)
    again = begin("01_a", {})
    assert "old" not in again.metrics() and again.metrics()["kept"] == 1
    assert progress.read(run.folder) == {}


def test_metrics_survive_a_write_that_is_cut(monkeypatch):
    run = begin("01_a", {})
    run.record(a=1)
    before = (run.folder / "metrics.json").read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError) as caught:
        run.record(a=2)
    assert (run.folder / "metrics.json").read_bytes() == before
    assert not list(run.folder.rglob("*.partial"))
    assert re.match(
        "disk full while writing .*: free some space, then run the same command again", one_line(caught.value)
    )


def test_provenance_is_plain_and_names_no_path():
    origin = begin("01_a", {}).provenance()
    assert json.loads(json.dumps(origin)) == origin
    assert set(origin["versions"]) == {"python", "lumo", "torch", "transformers", "peft"}
    assert str(ROOT) not in json.dumps(origin)


# --- pages -----------------------------------------------------------------------------------------------------------


def test_index_is_escaped_and_says_the_verdict_first(own_reports):
    bad = '<img src=x onerror="alert(1)">'
    run = begin("01_a", {})
    gate = {"name": bad, "got": bad, "expected": bad, "passed": False}
    run.record({"gates.01_a": [gate, {"name": "fine", "got": 1, "expected": "1", "passed": True}]})
    run.record({"space_sha256": bad, "golden.t2a.all_right": 0.93})
    (run.folder / "01_a.ipynb").write_text("{}")
    page = write_index(run.folder, ["01_a"], f"lumo report -p x {bad}", stopped=None).read_text()
    assert "<img" not in page and "&lt;img" in page
    assert page.index("1 of 2 gates failed") < page.index("Made with") < page.index("0.93") < page.index("What failed")
    assert not re.search(r"""(src|href)=["']?https?:""", page)


def test_index_shows_the_change_since_the_last_report(own_reports):
    old = begin("01_a", {})
    old.record({"golden.t2a.all_right": 0.90})
    finish(old.folder)
    new = begin("01_a", {})
    new.record({"golden.t2a.all_right": 0.95})
    page = write_index(new.folder, ["01_a"], "lumo report").read_text()
    assert f"change since {old.folder.name}" in page and "+0.05" in page
    assert "Not finished: 0 of 1 notebooks done" in page
    assert page.count("<table>") == page.count('<div class="wide"><table>') > 2  # wide ones scroll by themselves


# --- the command line ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["report", "--profile", "minni"], r"ParamsError: profile 'minni' \(perhaps 'mini'\?\): no file"),
        (["run", "04", "-p", "stage4.stepz", "1"], r"unknown key 'stage4.stepz' \(perhaps 'steps'\?\)"),
        (["report", "-p", "stage4.steps", "ten"], "stage4.steps is 'ten'"),
        (["report", "-p", "stage4.steps", "[1"], r"-p stage4.steps: '\[1': not YAML"),
        (["report", "-p", "profile", "mini"], "chosen with --profile"),
        (["run", "04_stage3"], r"'04_stage3' \(perhaps '04_stage4'\?\) is"),
        (["run", "nothing"], "'nothing' is the start of 0 notebooks' names"),
    ],
)
def test_expected_errors_end_in_one_line_and_status_1(words, line, capsys):
    assert shell.main(words) == 1
    said = capsys.readouterr().err
    assert re.search(line, said) and len(said.splitlines()) == 1


@pytest.mark.parametrize("place", ["file", "file/below", "x" * 300, "/proc/nothing"])
def test_a_run_folder_that_cant_be_one_is_one_line(tmp_path, capsys, place):
    (tmp_path / "file").touch()
    assert shell.main(["run", "01", "--profile", "smoke", "--run-dir", str(tmp_path / place)]) == 1
    said = capsys.readouterr().err
    assert "can't use" in said and "choose another path" in said and len(said.splitlines()) == 1


@pytest.mark.parametrize("command", ["report", "run 01"])
def test_a_reports_folder_that_cant_be_made_is_one_line(command, monkeypatch, capsys):
    monkeypatch.setenv("LUMO_REPORTS", "/proc/nothing")
    assert shell.main([*command.split(), "--profile", "smoke"]) == 1
    check_line(capsys.readouterr().err.strip(), "can't use /proc/nothing", "choose another path")


@pytest.mark.parametrize("content", ["", "[]", "{", "3", "null", "\udcff"])
@pytest.mark.parametrize("name", ["progress.json", "metrics.json", "metrics/01_a.json", "report.json"])
def test_a_damaged_file_of_a_run_is_one_line(name, content, tmp_path):
    (tmp_path / "metrics").mkdir()
    (tmp_path / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    with refused(WorkbookError, str(tmp_path / name), "damaged, expected a JSON object", "remove the file"):
        progress.read(tmp_path), metrics.read_metrics(tmp_path), metrics.read_part(tmp_path, "01_a")
        folders.read_summary(tmp_path)


def test_a_damaged_report_doesnt_end_another(own_reports):
    for name, content in (
        ("2026-01-01-a", "{"),
        ("c", '{"gates": [1]}'),
        ("d", '{"seconds": "x"}'),
        ("b#1", '{"gates": {"passed": 2, "total": 2}}'),
    ):
        (own_reports / name).mkdir(parents=True)
        (own_reports / name / "report.json").write_text(content)
        (own_reports / name / "index.html").touch()
    page = write_reports_index(own_reports).read_text()
    assert page.count("its report.json is damaged") == 3 and "2 of 2 gates passed" in page
    assert 'href="b%231/index.html"' in page


def test_an_alias_bomb_is_one_short_line(tmp_path):
    bomb = "&a [x, x, x, x, x, x, x, x, x]"
    for name, inner in zip("bcdefghij", "abcdefghi", strict=True):
        bomb = f"&{name} [{bomb}" + f", *{inner}" * 8 + "]"
    (tmp_path / "bomb.yaml").write_text(f"profile: {bomb}\n")
    with pytest.raises(ParamsError, match=r"bomb\.yaml: profile is") as caught:
        load_profile(str(tmp_path / "bomb.yaml"))
    assert max(map(len, str(caught.value).splitlines())) < 400


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried\n to allocate"),
            "the GPU's memory is full .* lower tokens_per_batch",
        ),
        (FileNotFoundError(2, "No such file or directory", "typo.csv"), None),
    ],
    ids=["gpu", "a file of one's own"],
)
def test_what_one_line_says_all_of_and_what_deserves_its_traceback(error, line):
    assert is_expected(error) == (line is not None)
    if line:
        assert re.fullmatch(f"{line}.*", one_line(error))


def test_the_command_runs_where_output_is_no_terminals(capsys):
    with redirect_stdout(io.StringIO()) as out:
        assert shell.main(["notebooks"]) == 0
    assert "04_stage4" in out.getvalue()


@pytest.mark.parametrize(("reader", "encoding"), [("gone", "utf-8"), ("there", "ascii")])
def test_output_that_nobody_reads_and_a_terminal_without_utf8(reader, encoding):
    """A shell's `lumo pull | head -1`, and a locale that has no `·`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "lumo", "pull"],
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": encoding},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    if reader == "gone":
        process.stdout.close()
        said = process.stderr.read().decode()
        check_line(said.strip(), "nobody reads the output any longer")
    else:
        out, said = process.communicate(timeout=60)
        assert b"NAME or P0 \\xb7 to fetch it" in out and not said
    assert process.wait(timeout=60) == (reader == "gone")


def test_interrupt_is_status_130(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(workbook, "report", interrupted)
    assert shell.main(["report"]) == 130
    assert "run the same command again to go on" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["report", "run", "notebooks", "plan", "train", "bench", "adopt", "pull", "kernel"])
def test_every_command_has_its_help(command, capsys):
    for words in (["--help"], [command, "--help"]):
        with pytest.raises(SystemExit) as caught:
            shell.main(words)
        assert caught.value.code == 0
        assert command in capsys.readouterr().out


@pytest.mark.parametrize("rows", ["0", "-3", "ten", "1.5"])
def test_a_count_is_a_whole_number_above_0(rows, capsys):
    with pytest.raises(SystemExit) as caught:
        shell.main(["bench", "--rows", rows])
    assert caught.value.code == 2 and f"got '{rows}', expected a whole number above 0" in capsys.readouterr().err


def test_help_needs_no_torch():
    code = "import sys; from lumo.__main__ import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_find_notebook(tmp_path):
    for name in ("04_stage4", "05_golden", "10_connector", "11_visual_sft"):
        toy(tmp_path / "nbs", name)
    assert find_notebook("04", tmp_path / "nbs") == "04_stage4"
    assert find_notebook("notebooks/05_golden.ipynb", tmp_path / "nbs") == "05_golden"
    with pytest.raises(WorkbookError, match="'1' is the start of 2 notebooks' names; expected one of 04_stage4"):
        find_notebook("1", tmp_path / "nbs")


# --- with kernels ----------------------------------------------------------------------------------------------------


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


@pytest.fixture
def pretended(monkeypatch):
    """Notebooks that record one gate and leave their pages, without a kernel; those named in `failing` fail."""
    failing: set[str] = set()

    def pretend(name, profile, overrides, folder, notebooks):
        if name in failing:
            return workbook.Outcome(name, 1, folder / f"{name}.failed.ipynb", failure=workbook.Failure(4, "x", "E: e"))
        gate = {"name": "g", "got": 0, "expected": "1", "passed": overrides.get("seed") == 1}
        begin(name, {"run_dir": str(folder), "profile": profile}).record({f"gates.{name}": [gate]})
        for suffix in (".ipynb", ".html"):
            (folder / f"{name}{suffix}").write_text("{}")
        progress.note_done(folder, name, "inputs", 1)
        return workbook.Outcome(name, 1, folder / f"{name}.ipynb", folder / f"{name}.html")

    monkeypatch.setattr(sys.modules["lumo.workbook.reporting"], "run_notebook", pretend)
    return failing


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        ([], 0, "gates: 0 of 6 passed; the exit status is 0 all the same, and 3 with --strict"),
        (["--strict"], 3, "gates: 0 of 6 passed\n"),
        (["--strict", "-p", "seed", "1"], 0, "gates: 6 of 6 passed\n"),
    ],
)
def test_gates_that_fail_have_a_status_where_asked(words, status, says, pretended, own_reports, capsys):
    assert shell.main(["report", *words]) == status
    said = capsys.readouterr()
    assert says in said.out
    line = f"GatesFailed: 6 of 6 gates failed; {own_reports / f'{TODAY}-mini' / 'index.html'} says which\n"
    assert said.err == (line if status else "")
    assert folders.is_finished(own_reports / f"{TODAY}-mini")


def test_one_notebook_is_indexed_too(pretended, own_reports, capsys):
    folder = own_reports / f"{TODAY}-mini"
    assert shell.main(["run", "01"]) == 0
    assert (
        capsys.readouterr().out
        == f"01_token_space … 1 s\npage: {folder}/01_token_space.html\nindex: {folder}/index.html\n"
    )
    assert "Not finished: 1 of 6 notebooks done" in (folder / "index.html").read_text()
    assert folder.name in (own_reports / "index.html").read_text()
    assert shell.main(["report"]) == 0
    assert folders.read_summary(folder)["gates"] == {"passed": 0, "total": 6}

    # a finished report stays one, and says both commands
    assert shell.main(["run", "04", "-p", "seed", "1", "--run-dir", str(folder)]) == 0
    assert folders.read_summary(folder)["gates"] == {"passed": 1, "total": 6}
    assert "lumo report --profile mini\nlumo run 04 --profile mini -p seed 1" in (folder / "index.html").read_text()

    # one that lost a notebook isn't
    pretended.add("05_golden")
    assert shell.main(["run", "05", "--run-dir", str(folder)]) == 1
    assert "WorkbookError: 05_golden failed in cell 4 (x): E: e" in capsys.readouterr().err
    assert "Stopped: 05_golden failed" in (folder / "index.html").read_text() and not folders.is_finished(folder)


def test_a_notebook_that_is_no_part_of_the_report_stays_in_the_index(pretended, own_reports):
    folder = own_reports / f"{TODAY}-mini"
    for words in (["run", "09"], ["run", "01"], ["report"]):
        assert shell.main(words) == 0
        page = (folder / "index.html").read_text()
        assert 'href="09_benchmarks.html"' in page
    assert folders.read_summary(folder)["gates"] == {"passed": 0, "total": 7}


def test_a_report_without_gates_is_no_success(own_reports):
    run = begin("01_a", {})
    (run.folder / "01_a.ipynb").write_text("{}")
    assert '<p class="verdict bad">No gates.' in write_index(run.folder, ["01_a"], "lumo report").read_text()
    run.record({"gates.01_a": [{"name": "g", "got": 0, "expected": 0, "passed": None}]})
    page = write_index(run.folder, ["01_a"], "lumo report").read_text()
    assert "No gates." in page and "<td>not applicable</td>" in page and "<p>Nothing.</p>" in page


def test_running_one_notebook_elsewhere(pretended, own_reports, tmp_path, capsys):
    """No index beside a folder outside the reports, and no page of another profile's report is lost."""
    assert shell.main(["run", "01", "--run-dir", str(tmp_path / "own")]) == 0
    assert (tmp_path / "own" / "index.html").is_file() and not (tmp_path / "index.html").exists()
    finish(tmp_path / "own")
    assert shell.main(["run", "01", "--profile", "smoke", "--run-dir", str(tmp_path / "own")]) == 1
    assert "holds a run of profile 'mini', got 'smoke'; choose another run_dir" in capsys.readouterr().err
    assert folders.is_finished(tmp_path / "own") and (tmp_path / "own" / "01_token_space.ipynb").is_file()


def test_notebooks_after_a_changed_one_run_again(tmp_path, own_reports, monkeypatch):
    nbs = tmp_path / "nbs"
    names = ["01_a", "02_b", "03_c"]
    for name in names:
        toy(nbs, name)
    ran = []

    def pretend(name, profile, overrides, folder, notebooks):
        ran.append(name)
        inputs = progress.inputs_sha256(load_profile(profile, overrides), notebooks / f"{name}.ipynb")
        for suffix in (".ipynb", ".html"):
            (folder / f"{name}{suffix}").write_text("{}")
        failure = workbook.Failure(1, "x", "e") if name == "03_c" else None
        if not failure:
            progress.note_done(folder, name, inputs, 1)
        return workbook.Outcome(name, 1, folder / f"{name}.ipynb", failure=failure)

    monkeypatch.setattr(sys.modules["lumo.workbook.reporting"], "run_notebook", pretend)

    def go(**more) -> list[str]:
        ran.clear()
        with pytest.raises(WorkbookError, match="03_c failed in cell 1"):
            workbook.report("mini", reports=own_reports, notebooks=nbs, names=names, **more)
        return list(ran)

    assert go() == names
    assert go() == ["03_c"]
    toy(nbs, "01_a", "changed = 1")
    assert go() == names
    (own_reports / f"{TODAY}-mini" / "02_b.html").unlink()
    assert go() == ["02_b", "03_c"]
    assert go(fresh=True) == names
    assert go(overrides={"seed": 3}) == names  # another resolved profile, another folder
    assert len(folders.runs_of(own_reports, "mini")) == 3


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
