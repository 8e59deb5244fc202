"""Live output: one output that is updated in place, in a kernel, in a terminal, and where nobody looks."""

from __future__ import annotations

import io
import sys

import nbformat
import pytest
from nbclient import NotebookClient
from pages import Reader

from lumo.show import Live, note
from lumo.show import live as live_module


class Screen:
    """Stands in for IPython's display and its handle."""

    def __init__(self):
        self.shown, self.outputs = [], 0

    def display(self, page, display_id=None):
        assert display_id is True
        self.outputs += 1
        self.shown.append(page.text)
        return self

    def update(self, page):
        self.shown.append(page.text)


@pytest.fixture
def screen(monkeypatch):
    screen = Screen()
    monkeypatch.setattr(live_module, "in_kernel", lambda: True)
    monkeypatch.setattr(live_module, "display", screen.display)
    return screen


def test_live_is_one_output_shown_at_most_once_in_a_while_and_at_the_end(screen):
    now, made = [0.0], []

    def content(step):
        return lambda: made.append(step) or note(f"step {step}")

    with Live("training", seconds=1.0, clock=lambda: now[0]) as live:
        shown = []
        for step in range(25):
            now[0] = step * 0.1
            shown.append(live.update(content(step)))
    assert [step for step, was in enumerate(shown) if was] == [0, 10, 20]
    assert made == [0, 10, 20, 24], "what isn't shown isn't made, and the last is always shown"
    assert screen.outputs == 1 and screen.shown[-1].endswith("step 24") and screen.shown[0].startswith("training")
    live.close()
    assert made == [0, 10, 20, 24], "shown once"


def test_live_takes_rows_and_a_forced_last_update(screen):
    live = Live(seconds=1e9)
    assert live.update([{"task": "t2i", "loss": 3.0}]) and not live.update({"loss": 2.0})
    assert live.update({"loss": 1.5}, final=True)
    assert screen.shown[-1].splitlines()[-1].strip() == "1.5" and len(screen.shown) == 2


class Terminal(io.StringIO):
    def __init__(self, tty):
        super().__init__()
        self.isatty = lambda: tty


def test_live_in_a_terminal_is_one_line_on_stderr(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", Terminal(True))
    with Live("training", seconds=0) as live:
        live.update({"step": 1, "loss": 12.3456, "task": "a\x1b[2Jb\nc"})
        live.update(note("done\nand more"))
    written = sys.stderr.getvalue()
    assert written.count("\n") == 1 and written.endswith("\n") and "\x1b" not in written
    lines = [line.rstrip() for line in written.split("\r")[1:]]
    assert lines == ["training: step 1 · loss 12.35 · task a�[2Jb c", "training: done"]
    assert capsys.readouterr().out == ""


def test_live_writes_nothing_where_nobody_looks(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", Terminal(False))
    with Live("training", seconds=0) as live:
        live.update(lambda: pytest.fail("made for nobody"))
    assert sys.stderr.getvalue() == "" and capsys.readouterr().out == ""


def test_in_a_real_kernel_a_thousand_updates_leave_one_output():
    code = (
        "from lumo.show import Live, note\nwith Live('training', seconds=0) as live:\n"
        "    for step in range(100):\n        live.update({'step': step})"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    (output,) = notebook.cells[0].outputs
    assert output["data"]["text/plain"].splitlines()[-1].strip() == "99"
    assert "99" in Reader(output["data"]["text/html"]).words
