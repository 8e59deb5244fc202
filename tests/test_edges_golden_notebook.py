"""Notebook 05 over cases that nothing can judge, as those of one's own data."""

from __future__ import annotations

import ast
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

from lumo import golden, show

NOTEBOOK = Path(__file__).resolve().parent.parent / "notebooks" / "05_golden.ipynb"


def shown(cell: str, values: dict) -> show.Page:
    """What a cell's last line gives, as a notebook shows it."""
    (source,) = [found.source for found in nbformat.read(NOTEBOOK, as_version=4).cells if found.id == cell]
    tree = ast.parse(source)
    last = ast.Expression(tree.body.pop().value)
    exec(compile(tree, cell, "exec"), values)
    return eval(compile(last, cell, "eval"), values)


@pytest.mark.parametrize(
    ("right", "words"),
    [({"t2i": [{}], "a2t": [{}]}, "No table: the readers know the attributes of the miniature's world alone"),
     ({"t2i": [{"colour": True}, {"colour": False}], "a2t": [{}]}, "share of cases with the attribute right\ntask  colour\n----  ------\nt2i      0.5")],
)  # fmt: skip
def test_attributes_are_a_table_or_a_sentence(right, words):
    results = {task: [SimpleNamespace(right=one) for one in cases] for task, cases in right.items()}
    text = shown("05-18", {"suites": golden, "show": show, "results": results}).text
    assert text.startswith(words) and "a2t" not in text
