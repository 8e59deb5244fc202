"""Gates: what must hold, what was found, and whether it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lumo.show.page import FAIL_COLOUR, PASS_COLOUR, Page, escape, plain, tag
from lumo.show.tables import table


@dataclass(frozen=True)
class Gate:
    """One thing that must hold.

    name: dotted, `golden.t2i.decoded`; got, expected: values or words, as they are to be read
    """

    name: str
    got: Any
    expected: Any
    passed: bool


def verdict(gates: Sequence[Gate]) -> str:
    """One line: `PASS 7 of 7`, or `FAIL 1 of 7: golden.t2i.decoded`. No gates is no pass."""
    failed = [gate.name for gate in gates if not gate.passed]
    if not gates:
        return "NO GATES"
    return (
        f"FAIL {len(failed)} of {len(gates)}: {', '.join(failed)}" if failed else f"PASS {len(gates)} of {len(gates)}"
    )


def gates(gates: Sequence[Gate]) -> Page:
    """The verdict, then each gate with what was found and what was expected; failed rows are marked."""
    line = verdict(gates)
    colour = PASS_COLOUR if line.startswith("PASS") else FAIL_COLOUR
    head = tag("div", escape(line), style=f"font-size:15px;font-weight:700;color:{colour};margin:0 0 6px 0")
    rows = [[_mark(gate.passed), gate.name, gate.got, gate.expected] for gate in gates]
    body = table(rows, ["", "gate", "got", "expected"], failed=[not gate.passed for gate in gates])
    return Page(head + body.html, f"{plain(line)}\n{body.text}")


def _mark(passed: bool) -> Page:
    word, colour = ("✓ pass", PASS_COLOUR) if passed else ("✗ FAIL", FAIL_COLOUR)
    return Page(tag("span", word, style=f"color:{colour};font-weight:600;white-space:nowrap"), word)
