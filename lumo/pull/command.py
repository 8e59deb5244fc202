"""`lumo pull`: the list, what an order would take, and the fetching."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi

from lumo import show
from lumo.pull import Entry, PullError
from lumo.pull.hub import MODELS, Order, check_room, configs_of, fetch, order
from lumo.pull.store import Shelf, free_bytes


def print_list(entries: Sequence[Entry], root: Path) -> None:
    """The whole list, without a network."""
    rows = [
        {
            "name": entry.name,
            "priority": entry.priority,
            "kind": entry.kind,
            "about": show.size(entry.bytes) if entry.bytes else "unknown",
            "gated": {True: "yes", False: "no", None: "unknown"}[entry.gated],
            "here": _state(entry, Shelf(root / entry.folder)),
            "licence": entry.licence,
        }
        for entry in entries
    ]
    print(show.table(rows).text)
    print("\nwhat one would take: lumo pull NAME or P0 · to fetch it: the same with --yes")


def pull(entries: Sequence[Entry], root: Path, yes: bool, configs: bool = False) -> None:
    """Print what the entries take, and fetch them if `yes`; of models with `configs` only what describes them.

    One that the hub refuses doesn't hold up the others. Raises PullError at the end with a line for each of those, and
    before anything is fetched when the disk can't hold it.
    """
    api = HfApi(library_name="lumo")
    orders, refused = _orders([entry for entry in entries if entry.hub], root, api, configs)
    if orders:
        _print_orders(orders, root)
        check_room(orders)
    for item in orders if yes else []:
        try:
            fetch(item, api, lambda line: print(line, flush=True))
        except PullError as error:
            refused.append(str(error))
    _print_by_hand([entry for entry in entries if entry.by_hand], root)
    print("".join(f"{entry.name}: {entry.note}\n" for entry in entries if entry.note), end="")
    if not yes and any(item.missing_bytes for item in orders):
        print("nothing was fetched; to fetch it: the same command with --yes")
    if refused:
        raise PullError("\n".join(refused))


def check(entries: Sequence[Entry], root: Path) -> None:
    """Hold what is there against the receipts, without a network. Raises PullError with a line for each file that isn't right."""
    faults = []
    for entry in entries:
        if not Shelf(root / entry.folder).receipt:
            print(
                f"{entry.name}: {'by hand, not checked' if entry.by_hand else 'nothing whole here that lumo pull fetched'}"
            )
            faults += [] if entry.by_hand else [f"{entry.name}: no receipt, so it isn't whole; pull it first"]
            continue
        found = list(Shelf(root / entry.folder).faults(lambda line: print(line, flush=True)))
        print(f"{entry.name}: {f'{len(found)} files are not right' if found else 'whole'}")
        faults += found
    if not entries:
        print("nothing here that lumo pull fetched")
    if faults:
        raise PullError("\n".join(faults))


def _orders(entries: Sequence[Entry], root: Path, api: HfApi, configs: bool) -> tuple[list[Order], list[str]]:
    orders, refused = [], []
    entries = _with_configs(entries) if configs else entries
    for entry in entries:
        try:
            item = order(entry, root, api)
            orders.append(configs_of(item) if configs else item)
        except PullError as error:
            refused.append(str(error))
    return orders, refused


def _with_configs(entries: Sequence[Entry]) -> Sequence[Entry]:
    """The models among them, if there are any; what has no configs is named, and left for later."""
    models = [entry for entry in entries if entry.kind in MODELS]
    for entry in entries:
        if models and entry not in models:
            print(f"left out: {entry.name} is a {entry.kind}, --configs is for models")
    return models or entries


def _print_orders(orders: Sequence[Order], root: Path) -> None:
    rows = [
        {
            "name": item.entry.name,
            "files": len(item.wanted.files),
            "size": show.size(item.wanted.bytes),
            "to come": show.size(item.missing_bytes),
            "commit": item.listing.commit[:8],
            "licence": item.listing.licence or item.entry.licence,
            "where": str(item.entry.folder),
        }
        for item in orders
    ]
    print(show.table(rows).text)
    to_come = sum(item.missing_bytes for item in orders)
    print(f"to come: {show.size(to_come)} · free: {show.size(free_bytes(root / orders[0].entry.folder))}")


def _print_by_hand(entries: Sequence[Entry], root: Path) -> None:
    for entry in entries:
        if _state(entry, Shelf(root / entry.folder)) == "by hand":
            print(
                f"by hand: {entry.name} ({entry.licence}): {entry.by_hand.steps} · {entry.page} · into {entry.folder}"
            )


def _state(entry: Entry, shelf: Shelf) -> str:
    has_something = shelf.folder.is_dir() and any(shelf.folder.iterdir())
    if entry.by_hand:
        file = entry.by_hand.file
        return "there" if has_something and (file is None or (shelf.folder / file).is_file()) else "by hand"
    if receipt := shelf.receipt:
        return "files missing" if shelf.missing_bytes(receipt) else "whole"
    if listing := shelf.listing:
        return f"{1 - shelf.missing_bytes(listing) / max(listing.bytes, 1):.0%}"
    return "there, unchecked" if has_something else "missing"
