"""Gates: what must hold, what was found, and whether it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lumo.show.page import FAIL_COLOUR, PASS_COLOUR, Page, escape, note, plain, tag
from lumo.show.tables import table


@dataclass(frozen=True)
class Gate:
    """One thing that must hold.

    name: dotted, `golden.t2i.decoded`; got, expected: values or words, as they are to be read
    passed: None where there was nothing to look at: 0 of 0 is neither a pass nor a failure
    """

    name: str
    got: Any
    expected: Any
    passed: bool | None

    @property
    def failed(self) -> bool:
        return self.passed is not None and not self.passed

    @classmethod
    def over(cls, count: int, name: str, got: Any, expected: Any, passed: bool) -> Gate:
        """A gate on `count` things, of which there may be none."""
        return cls(name, got, expected, passed) if count else cls(name, "nothing to look at", expected, None)


def verdict(gates: Sequence[Gate]) -> str:
    """One line: `PASS 7 of 7`, or `FAIL 1 of 7: golden.t2i.decoded`, then how many don't apply. No gates is no pass."""
    judged = [gate for gate in gates if gate.passed is not None]
    failed = [gate.name for gate in gates if gate.failed]
    others = f", {len(gates) - len(judged)} not applicable" if len(judged) < len(gates) else ""
    if not judged:
        return f"NO GATES{others}"
    if failed:
        return f"FAIL {len(failed)} of {len(judged)}: {', '.join(failed)}{others}"
    return f"PASS {len(judged)} of {len(judged)}{others}"


def gates(gates: Sequence[Gate]) -> Page:
    """The verdict, then each gate with what was found and what was expected; failed rows are marked."""
    line = verdict(gates)
    colour = PASS_COLOUR if line.startswith("PASS") else FAIL_COLOUR
    head = tag("div", escape(line), style=f"font-size:15px;font-weight:700;color:{colour};margin:0 0 6px 0")
    rows = [[_mark(gate.passed), gate.name, gate.got, gate.expected] for gate in gates]
    body = table(rows, ["", "gate", "got", "expected"], failed=[gate.failed for gate in gates])
    return Page(head + body.html, f"{plain(line)}\n{body.text}")


def _mark(passed: bool | None) -> Page:
    if passed is None:
        return note("not applicable")
    word, colour = ("✓ pass", PASS_COLOUR) if passed else ("✗ FAIL", FAIL_COLOUR)
    return Page(tag("span", word, style=f"color:{colour};font-weight:600;white-space:nowrap"), word)
