"""Golden cases: what was asked, what is true, what the codec can keep of it, what the model made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lumo.media import Audio, Image
from lumo.show.page import FAIL_COLOUR, PASS_COLOUR, Page, beside, escape, note, plain, stack, tag, title_line
from lumo.show.pictures import image_tag, picture
from lumo.show.sounds import player, spectrogram
from lumo.show.tables import format_value, is_bool, table

Value = Image | Audio | str | None

_COLUMNS = ("task", "case", "prompt", "true", "round trip", "generated", "scores")


@dataclass(frozen=True)
class Case:
    """One golden case.

    prompt: what the model was given, a tuple where that was several; true: what the dataset holds; round_trip: the true value through the codec, which
    no model can beat; generated: what the model made. None: there is none; for `generated`, nothing could be decoded.
    scores: name → number, word or bool. A bool is a check, and False fails the case.
    """

    task: str
    name: str
    prompt: Value | tuple[Value, ...]
    true: Value
    round_trip: Value
    generated: Value
    scores: Mapping[str, Any] = field(default_factory=dict)

    @property
    def failures(self) -> tuple[str, ...]:
        """Why the case failed: `nothing generated`, and the checks that are False."""
        missing = ("nothing generated",) if self.generated is None else ()
        return missing + tuple(name for name, value in self.scores.items() if is_bool(value) and not value)

    @property
    def failed(self) -> bool:
        return bool(self.failures)


def cases_table(cases: Sequence[Case], limit: int | None = None, zoom: int = 2, spectrograms: bool = True) -> Page:
    """All cases as one table, failures marked, the verdict first: for the report, where no kernel runs.

    limit: cases shown of each task at most, failures before the others; the line above says how many are left out
    zoom: screen pixels a picture's pixel, see `picture`; spectrograms: whether each player has one below

    A second of 16 kHz mono weighs 43 KB and its spectrogram up to 15 KB, three a row: 16 cases are 2.8 MB and 64 are
    11 MB, so a report sets `limit`.
    """
    shown = _select(cases, limit)
    rows = [_row(case, zoom, spectrograms) for case in shown]
    body = table(rows, _COLUMNS, failed=[case.failed for case in shown])
    line = _verdict(cases) + (
        f"; {len(shown)} of {len(cases)} shown, failures first" if len(shown) < len(cases) else ""
    )
    return Page(title_line(line) + tag("div", body.html, style="overflow-x:auto"), f"{plain(line)}\n{body.text}")


def case_page(case: Case, zoom: int = 4, spectrograms: bool = True) -> Page:
    """One case, large: the prompt above, then true, round trip and generated beside each other, then the scores."""
    head = f"{case.task} · {case.name}"
    parts = [
        stack(note(name), _shown(value, f"{case.name} {name}", zoom, spectrograms))
        for name, value in (("true", case.true), ("round trip", case.round_trip), ("generated", _made(case)))
    ]
    prompt = stack(note("prompt"), _shown(case.prompt, f"{case.name} prompt", zoom, spectrograms))
    return stack(Page(title_line(head), plain(head)), prompt, beside(*parts), _scores(case))


def _select(cases: Sequence[Case], limit: int | None) -> list[Case]:
    if limit is None:
        return list(cases)
    kept: list[Case] = []
    for task in dict.fromkeys(case.task for case in cases):
        # sorting keeps the order of equals
        kept += sorted((case for case in cases if case.task == task), key=lambda case: not case.failed)[:limit]
    return kept


def _verdict(cases: Sequence[Case]) -> str:
    parts = []
    for task in dict.fromkeys(case.task for case in cases):
        own = [case for case in cases if case.task == task]
        failed = sum(case.failed for case in own)
        # one's own data has nothing that a reader could check: decoded is all that is known then
        judged = any(is_bool(value) for case in own for value in case.scores.values())
        fine = f"all {len(own)} {'good' if judged else 'decoded, not judged'}"
        parts.append(f"{task}: {failed} of {len(own)} failed" if failed else f"{task}: {fine}")
    return ", ".join(parts) or "no cases"


def _row(case: Case, zoom: int, spectrograms: bool) -> list[Any]:
    values = {"prompt": case.prompt, "true": case.true, "round trip": case.round_trip, "generated": _made(case)}
    media = [_shown(value, f"{case.name} {name}", zoom, spectrograms) for name, value in values.items()]
    return [case.task, case.name, *media, _scores(case)]


def _made(case: Case) -> Value | Page:
    if case.generated is not None:
        return case.generated
    return Page(tag("span", "✗ nothing generated", style=f"color:{FAIL_COLOUR};font-weight:600"), "✗ nothing generated")


def _shown(value: Value | tuple[Value, ...] | Page, label: str, zoom: int, spectrograms: bool) -> Page:
    if isinstance(value, Page):
        return value
    if isinstance(value, tuple):
        parts = [_shown(one, label, zoom, spectrograms) for one in value]
        return Page("".join(part.html for part in parts), "\n".join(part.text for part in parts))
    if isinstance(value, Image):
        return Page(image_tag(value, label, zoom), picture(value, "", zoom).text)
    if isinstance(value, Audio):
        parts = [player(value, name=label)] + ([spectrogram(value, label)] if spectrograms else [])
        return Page("".join(part.html for part in parts), parts[0].text)  # a spectrogram says nothing in text
    words = format_value(value)
    box = tag(
        "div", escape(words), style="min-width:90px;max-width:200px;white-space:pre-wrap;overflow-wrap:break-word"
    )
    return Page(box, plain(words))


def _scores(case: Case) -> Page:
    html, text = [], []
    for name, value in case.scores.items():
        words = ("✓" if value else "✗") if is_bool(value) else format_value(value)
        colour = (PASS_COLOUR if value else FAIL_COLOUR) if is_bool(value) else ""
        mark = tag("span", escape(words), style=f"color:{colour};font-weight:600" if colour else None)
        html.append(tag("div", f"{escape(name)} {mark}", style="white-space:nowrap"))
        text.append(plain(f"{name} {words}"))
    return Page("".join(html), "\n".join(text))
