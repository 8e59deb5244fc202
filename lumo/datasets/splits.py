"""Which rows are learned from, looked at, and kept for the golden suites. All rows of one recording (`meta.group`) go one way."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from lumo.datasets.manifest import ManifestError, Row

STRICTEST = ("golden", "eval", "train")
# what datasets call their splits; source: https://huggingface.co/docs/hub/datasets-file-names-and-splits
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "test", "testing", "eval", "evaluation"), "eval"),
}


def said_split(row: Row, golden_source: str) -> str | None:
    """The split that a row says itself: golden by its source, else the strictest `meta.split` of its media."""
    if row.source == golden_source:
        return "golden"
    said = [medium.meta.get("split") for _, medium in row.modalities.items()]
    return next((split for split in STRICTEST if split in said), None)


def group_of(row: Row) -> str:
    """The recording that a row is of: its `meta.group`, else its id."""
    return said_group(medium.meta for _, medium in row.modalities.items()) or row.id


def said_group(metas: Iterable[Mapping[str, Any]]) -> str | None:
    """The recording that the `meta` of some media name; null, as pandas writes what is missing, and empty are none.

    >>> said_group([{}, {"group": None}, {"group": ""}, {"group": 7}])
    '7'
    """
    return next((str(meta["group"]) for meta in metas if meta.get("group") not in (None, "")), None)


def meta_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The `meta` of a row's first medium; the group and the split are the same in all of them."""
    return next(iter(row["modalities"].values()))["meta"]


@dataclass(frozen=True)
class Splits:
    """groups: how many rows each recording has, by kind (`image`, `audio`, `image+audio`); tested: recordings of which the dataset itself
    keeps a row for eval; golden: those of the golden suites."""

    groups: Mapping[str, Counter[str]]
    tested: Set[str]
    golden: Set[str]

    @property
    def counts(self) -> Counter[str]:
        """How many rows a kind has, and how many golden ones."""
        counts: Counter[str] = Counter()
        for kind, rows in self.groups.items():
            counts[kind] = rows.total()
            counts[f"{kind} golden"] = sum(rows[group] for group in rows.keys() & self.golden)
        return counts

    def mark(self, row: Mapping[str, Any], done: Counter) -> None:
        """Write a row's split into its media. Where the dataset keeps none for eval, only golden is said, and a hash decides the rest."""
        golden = meta_of(row)["group"] in self.golden
        for medium in row["modalities"].values():
            meta = medium["meta"]
            said = meta.pop("split", None)
            if self.tested:
                meta["split"] = "eval" if meta["group"] in self.tested else "train"
                done["media moved to eval with their recording"] += said == "train" != meta["split"]
            if golden:
                meta["split"] = "golden"


def splits_of(rows: Iterable[Mapping[str, Any]], golden: int) -> Splits:
    """Where rows go by their recordings: one of which one row is for eval is for eval with all of its rows, and `golden` rows of each kind are
    kept for the golden suites.

    Raises ManifestError when too little is left to learn from.
    """
    groups: dict[str, Counter[str]] = {}
    tested: set[str] = set()
    for row in rows:
        meta = meta_of(row)
        groups.setdefault("+".join(row["modalities"]), Counter())[meta["group"]] += 1
        if meta.get("split") == "eval":
            tested.add(meta["group"])
    if tested and all(own.keys() <= tested for own in groups.values()):
        raise ManifestError(
            "adopt: every row is of the dataset's own validation or test part, expected some to learn from; add its training part"
        )
    chosen = (golden_groups(own, tested, golden, kind) for kind, own in groups.items())
    return Splits(groups, tested, set().union(*chosen))


def golden_groups(groups: Counter[str], tested: Set[str], count: int, medium: str) -> set[str]:
    """Recordings for the golden suites, in an order given by a hash: until they have `count` rows, or a fifth of all.

    groups: how many rows each has. They are taken from what the dataset keeps for eval, if it keeps something.
    Raises ManifestError for rows of one recording alone.
    """
    if len(groups) == 1:
        raise ManifestError(
            f"adopt: {medium} of one file alone, expected two at least: one to learn from, one for the golden suite; add some, or leave it out"
        )
    pool = sorted(groups.keys() & tested or groups, key=hash_of)
    wanted, kept = min(count, max(1, sum(groups[name] for name in pool) // 5)), 0
    chosen = set()
    for name in pool[: max(1, len(pool) - 1)]:
        if kept >= wanted:
            break
        chosen.add(name)
        kept += groups[name]
    return chosen


def hash_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
