"""What a manifest's rows say, held against their files' headers, before anything is tokenised: in one pass, a row at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lumo.datasets.manifest import ManifestError, Row, inside, stream_manifest, task_fault
from lumo.media import MediaError, describe

NAMED = 20  # faults of each kind that are named; the rest is counted


@dataclass
class ManifestAudit:
    """counts: rows, and those with a fault of each kind; faults: the first of each kind, one line each
    kinds: files by what their headers say, such as `audio: 16000 Hz, 1 channel`; durations_s: clips by their length, to 0.01 s
    """

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    durations_s: Counter[float] = field(default_factory=Counter)


def audit_manifest(manifest: Path) -> ManifestAudit:
    """Paths, durations, rates and sizes, tasks, licences. Headers alone are read. Raises ManifestError when there is no manifest."""
    audit = ManifestAudit(Counter(dict.fromkeys(("rows", "broken_rows", "bad_files", "bad_tasks", "no_licence"), 0)))
    for _, row in stream_manifest(manifest):
        audit.counts["rows"] += 1
        found = _faults(row, manifest.parent, audit) if isinstance(row, Row) else [("broken_rows", row)]
        for kind, line in found:
            audit.counts[kind] += 1
            if audit.counts[kind] <= NAMED:
                audit.faults.append(line)
    return audit


def _faults(row: Row, base: Path, audit: ManifestAudit) -> Iterator[tuple[str, str]]:
    """(kind, line) of what is wrong with a row; what its files are is counted."""
    for medium, content in row.modalities.items():
        try:
            header = describe(inside(base, content.path), medium)
        except (ManifestError, MediaError) as error:
            yield "bad_files", f"{row.id}: {error}"
            continue
        audit.kinds[f"{medium}: {header.kind}"] += 1
        if header.duration_s is not None:
            audit.durations_s[round(header.duration_s, 2)] += 1
    if fault := task_fault(row):
        yield "bad_tasks", fault
    if row.license.strip().lower() in ("", "unknown"):
        yield "no_licence", f"{row.id}: its licence isn't known; say it in the table, or with lumo adopt --license"
