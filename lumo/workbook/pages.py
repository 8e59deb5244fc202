"""The index page of a report, and the page of all reports."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lumo.files import write_atomically
from lumo.workbook import folders, progress
from lumo.workbook.errors import WorkbookError
from lumo.workbook.html import document, link, table, text
from lumo.workbook.metrics import at, read_metrics

HEADLINES = {
    "golden.t2i.decoded": "golden pictures decoded",
    "golden.t2a.decoded": "golden clips decoded",
    "golden.t2i.all_right": "text → picture, all attributes right",
    "golden.t2i.ceiling": "· its ceiling, the codec's round trip",
    "golden.t2a.all_right": "text → sound, all attributes right",
    "golden.t2a.ceiling": "· its ceiling, the codec's round trip",
    "golden.i2t.attributes_right": "picture → text, attributes right",
    "golden.a2t.attributes_right": "sound → text, attributes right",
    "golden.ia2t.attributes_right": "picture and sound → text, attributes right",
    "stage4.t2i.last_loss": "text → picture, last loss",
    "stage4.t2a.last_loss": "text → sound, last loss",
    "stage4.i2t.last_loss": "picture → text, last loss",
    "stage4.a2t.last_loss": "sound → text, last loss",
    "stage4.ia2t.last_loss": "picture and sound → text, last loss",
    "seconds.total": "seconds in all",
}


def duration(seconds: float) -> str:
    """
    >>> duration(80), duration(7), duration(7300)
    ('1 min 20 s', '7 s', '2 h 1 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def gates_of(figures: dict) -> list[tuple[str, dict]]:
    """(notebook, gate) for every gate that was recorded."""
    gates = figures.get("gates", {})
    return [(notebook, gate) for notebook in sorted(gates) for gate in gates[notebook]]


def gate_counts(figures: dict) -> dict[str, int]:
    """How many gates passed, and of how many; one that had nothing to look at is in neither."""
    judged = [bool(gate["passed"]) for _, gate in gates_of(figures) if gate["passed"] is not None]
    return {"passed": sum(judged), "total": len(judged)}


def write_index(folder: Path, names: Sequence[str], command: str, stopped: str | None = None) -> Path:
    """`<folder>/index.html`.

    names: the notebooks of a whole report; others that ran in the folder, such as 09, are listed below them and their gates count
    command: what made it; stopped: the line of the failure that ended the run, if one did
    """
    figures = read_metrics(folder)
    body = [
        f"<h1>lumo · {text(folder.name)}</h1>",
        _verdict(folder, figures, names, stopped),
        "<h2>Made with</h2>" + _provenance(figures),
        "<h2>Headline figures</h2>" + _headlines(folder, figures),
        "<h2>Notebooks</h2>" + _notebooks(folder, names),
        f"<p>All figures: {link('metrics.json', 'metrics.json')} · {link('profile.yaml', 'profile.yaml')}</p>",
        "<h2>Gates</h2>" + _gates(gates_of(figures)),
        "<h2>What failed</h2>" + _failed(figures, stopped),
        f"<h2>Made by</h2><pre>{text(command)}</pre>",
    ]
    return write_atomically(folder / "index.html", document(f"lumo · {folder.name}", "\n".join(body)))


def write_reports_index(reports: Path) -> Path:
    """`<reports>/index.html`: every folder that holds an index page, newest first."""
    rows = []
    for folder in sorted(
        (page.parent for page in reports.glob("*/index.html")), key=lambda path: path.name, reverse=True
    ):
        try:
            summary = folders.read_summary(folder)
            gates = summary.get("gates", {})
            state = f"{gates.get('passed', 0)} of {gates.get('total', 0)} gates passed" if summary else "not finished"
        except WorkbookError:  # an old folder's damage doesn't end a new report
            summary, state = {}, f"its {folders.FINISHED} is damaged"
        seconds = duration(summary["seconds"]) if "seconds" in summary else ""
        cells = [text(summary.get("profile", "")), text(state), text(seconds), text(summary.get("commit", ""))]
        rows.append([link(f"{folder.name}/index.html", folder.name), *cells])
    body = "<h1>lumo · reports</h1>" + table(["report", "profile", "state", "time", "commit"], rows)
    return write_atomically(reports / "index.html", document("lumo · reports", body))


def _verdict(folder: Path, figures: dict, names: Sequence[str], stopped: str | None) -> str:
    gates = gate_counts(figures)
    passed, total = gates["passed"], gates["total"]
    done = sum((folder / f"{name}.ipynb").is_file() for name in names)
    if stopped:
        line, good = f"Stopped: {stopped}", False
    elif done < len(names):
        line = f"Not finished: {done} of {len(names)} notebooks done; {passed} of {total} gates passed so far."
        good = False
    elif passed < total:
        line, good = f"{total - passed} of {total} gates failed.", False
    else:
        line, good = (f"All {total} gates passed.", True) if total else ("No gates.", False)
    return f'<p class="verdict {"good" if good else "bad"}">{text(line)}</p>'


def _provenance(figures: dict) -> str:
    runs = figures.get("runs", {})
    rows: dict[str, list[str]] = {}
    for name in sorted(runs):
        for key, value in runs[name].items():
            shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
            if key not in ("overrides", "date") and shown not in rows.setdefault(key, []):
                rows[key].append(shown)
    dates = sorted(run["date"] for run in runs.values() if "date" in run)
    if dates:
        rows["begun"] = [dates[0]]
    if "space_sha256" in figures:
        rows["token space"] = [figures["space_sha256"]]
    for name in sorted(runs):
        if runs[name].get("overrides"):
            rows[f"{name} with"] = [json.dumps(runs[name]["overrides"])]
    # several values in one row: the notebooks weren't all made with the same thing, and that should be seen
    cells = [[text(key), " · ".join(text(value) for value in values)] for key, values in rows.items()]
    return f'<div class="box">{table(["what", "value"], cells)}</div>'


def _headlines(folder: Path, figures: dict) -> str:
    profile = folders.profile_name_in(folder) or ""
    before = folders.last_finished(folder.parent, profile, folder)
    try:
        old = read_metrics(before) if before else {}
    except WorkbookError:  # as of an old folder in the index
        old = {}
    rows = []
    for key, label in HEADLINES.items():
        value, earlier = at(figures, key), at(old, key)
        if value is None:
            continue
        both = all(isinstance(number, (int, float)) for number in (value, earlier))
        change = f"{value - earlier:+.4g}" if both else ""
        breaking = text(key).replace(".", ".<wbr>")  # or the keys alone fill a phone's width
        rows.append([text(label), f"<code>{breaking}</code>", text(_short(value)), text(change)])
    since = f"change since {before.name}" if before else "change (no earlier report)"
    return table(["figure", "key", "value", since], rows) if rows else "<p>None recorded.</p>"


def _notebooks(folder: Path, names: Sequence[str]) -> str:
    seconds = {name: entry["seconds"] for name, entry in progress.read(folder).items()}
    longest = max(seconds.values(), default=0) or 1
    others = {path.name.partition(".")[0] for path in folder.glob("[0-9]*.ipynb")} - set(names)
    rows = []
    for name in (*names, *sorted(others)):
        links = [
            link(f"{name}{suffix}", label)
            for suffix, label in ((".html", "page"), (".ipynb", "notebook"), (".failed.ipynb", "failed notebook"))
            if (folder / f"{name}{suffix}").is_file()
        ]
        share = 100 * seconds.get(name, 0) / longest
        bar = f'<div class="bar" style="width:{share:.0f}%"></div>' if name in seconds else ""
        time = text(duration(seconds[name])) if name in seconds else "not done"
        rows.append([text(name), " · ".join(links), time, bar])
    return table(["notebook", "open", "time", "share of the longest"], rows)


def _gates(gates: list[tuple[str, dict]]) -> str:
    rows = [
        [text(notebook), *(text(_short(gate.get(key, ""))) for key in ("name", "got", "expected")), _mark(gate)]
        for notebook, gate in gates
    ]
    return table(["notebook", "gate", "got", "expected", "result"], rows) if rows else "<p>None recorded.</p>"


def _mark(gate: dict) -> str:
    if gate["passed"] is None:
        return "not applicable"
    return '<b class="good">pass</b>' if gate["passed"] else '<b class="bad">FAIL</b>'


def _failed(figures: dict, stopped: str | None) -> str:
    lines = [stopped] if stopped else []
    lines += [
        f"{notebook}: {gate.get('name')}: got {_short(gate.get('got'))}, expected {_short(gate.get('expected'))}"
        for notebook, gate in gates_of(figures)
        if gate["passed"] is not None and not gate["passed"]
    ]
    return "<ul>" + "".join(f"<li>{text(line)}</li>" for line in lines) + "</ul>" if lines else "<p>Nothing.</p>"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
