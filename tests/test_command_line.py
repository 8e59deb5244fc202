"""The command line: every command has its help, and what goes wrong is one line and a status."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from contextlib import redirect_stdout

import pytest
import torch
from refusals import check_line
from workbooks import fixture_own_reports, toy  # noqa: F401 - fixtures

from lumo import __main__ as shell
from lumo import workbook
from lumo.params import ROOT
from lumo.workbook import WorkbookError
from lumo.workbook.errors import is_expected, one_line
from lumo.workbook.runner import find_notebook

# --- help -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["report", "run", "notebooks", "plan", "train", "bench", "adopt", "pull", "kernel"])
def test_every_command_has_its_help(command, capsys):
    for words in (["--help"], [command, "--help"]):
        with pytest.raises(SystemExit) as caught:
            shell.main(words)
        assert caught.value.code == 0
        assert command in capsys.readouterr().out


def test_help_needs_no_torch():
    code = "import sys; from lumo.__main__ import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.parametrize("rows", ["0", "-3", "ten", "1.5"])
def test_a_count_is_a_whole_number_above_0(rows, capsys):
    with pytest.raises(SystemExit) as caught:
        shell.main(["bench", "--rows", rows])
    assert caught.value.code == 2 and f"got '{rows}', expected a whole number above 0" in capsys.readouterr().err


def test_find_notebook(tmp_path):
    for name in ("04_stage4", "05_golden", "10_connector", "11_visual_sft"):
        toy(tmp_path / "nbs", name)
    assert find_notebook("04", tmp_path / "nbs") == "04_stage4"
    assert find_notebook("notebooks/05_golden.ipynb", tmp_path / "nbs") == "05_golden"
    with pytest.raises(WorkbookError, match="'1' is the start of 2 notebooks' names; expected one of 04_stage4"):
        find_notebook("1", tmp_path / "nbs")


# --- what goes wrong --------------------------------------------------------------------------------------------------


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


def test_interrupt_is_status_130(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(workbook, "report", interrupted)
    assert shell.main(["report"]) == 130
    assert "run the same command again to go on" in capsys.readouterr().err


# --- where the output goes --------------------------------------------------------------------------------------------


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
