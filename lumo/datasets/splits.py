"""Which rows are learned from, looked at, and kept for the golden suites. All rows of one recording (`meta.group`) go one way."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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
    """Of a row's first medium; the group and the split are the same in all of them."""
    return next(iter(row["modalities"].values()))["meta"]


def set_apart(rows: Sequence[dict[str, Any]], golden: int, done: Counter) -> Counter:
    """Mark what is for eval, and `golden` rows of each kind (pictures, sounds, both) for the golden suites. Returns how many rows a kind
    has, and how many golden ones.

    Raises ManifestError when too little is left to learn from.
    """
    keep_splits(rows, done)
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_kind.setdefault("+".join(row["modalities"]), []).append(row)
    kept = set().union(*(golden_groups(these, golden, kind) for kind, these in by_kind.items()))
    counts: Counter[str] = Counter()
    for kind, these in by_kind.items():
        own = [row for row in these if meta_of(row)["group"] in kept]
        counts.update({kind: len(these), f"{kind} golden": len(own)})
        for row in own:
            for medium in row["modalities"].values():
                medium["meta"]["split"] = "golden"
    return counts


def keep_splits(rows: Sequence[dict[str, Any]], done: Counter) -> None:
    """Let a dataset's own splits stand: a recording of which one row is for eval is for eval with all of its rows.

    Where no row is for eval the marks go, and a hash decides, as with one's own files. Raises ManifestError where every row is.
    """
    tested = {meta_of(row)["group"] for row in rows if meta_of(row).get("split") == "eval"}
    if tested and all(meta_of(row)["group"] in tested for row in rows):
        raise ManifestError(
            "adopt: every row is of the dataset's own validation or test part, expected some to learn from; add its training part"
        )
    for row in rows:
        for medium in row["modalities"].values():
            split = medium["meta"].pop("split", None)
            if tested:
                medium["meta"]["split"] = "eval" if medium["meta"]["group"] in tested else "train"
                done["media moved to eval with their recording"] += split == "train" != medium["meta"]["split"]


def golden_groups(rows: Sequence[Mapping[str, Any]], count: int, medium: str) -> set[str]:
    """Recordings for the golden suites, in an order given by a hash: until they have `count` rows, or a fifth of all.

    They are taken from what the dataset keeps for eval, if it keeps something. Raises ManifestError for rows of one recording alone.
    """
    groups = Counter(meta_of(row)["group"] for row in rows)
    if len(groups) == 1:
        raise ManifestError(
            f"adopt: {medium} of one file alone, expected two at least: one to learn from, one for the golden suite; add some, or leave it out"
        )
    tested = {meta_of(row)["group"] for row in rows if meta_of(row).get("split") == "eval"}
    pool = sorted(tested or groups, key=hash_of)
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
