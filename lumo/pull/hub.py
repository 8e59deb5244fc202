"""From the Hugging Face hub to a shelf: what there is, what it takes, and the files, each held against the hub's own hash.

`snapshot_download` isn't used: huggingface_hub 2.4 throws the beginning of a file away when it is interrupted, and of a model
whose parts it fetches side by side that can be nearly all. `http_get` underneath goes on at any byte, one file after another.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from huggingface_hub import HfApi, RepoFile, constants, hf_hub_url

# HTTPError is that of the HTTP client in use, httpx or httpx2 by the hub's version
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers

from lumo.files import locked
from lumo.pull import Entry, PullError
from lumo.pull.store import KEPT, File, Listing, Shelf, disk_of, free_bytes, hash_of

Say = Callable[[str], None]
MODELS = ("backbone", "codec", "decoder", "judge", "reference")
# what holds a model's weights; everything else of a model's repository describes it
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".th", ".msgpack", ".h5", ".onnx", ".gguf")


@dataclass(frozen=True)
class Order:
    """An entry, where it goes, and what it is made of.

    configs: whether only the files that describe it are wanted now, and no weights
    """

    entry: Entry
    shelf: Shelf
    listing: Listing
    configs: bool = False

    @property
    def wanted(self) -> Listing:
        """The part of the listing that is to come."""
        files = (f for f in self.listing.files if not (self.configs and f.path.endswith(WEIGHTS)))
        return self.listing.model_copy(update={"files": tuple(files)})

    @property
    def missing_bytes(self) -> int:
        return self.shelf.missing_bytes(self.wanted)


def order(entry: Entry, root: Path, api: HfApi) -> Order:
    """What pulling an entry means: by the listing that an earlier call kept, else by what the hub says now.

    root: the project's folder
    Raises PullError when the hub can't be reached, wants something accepted, or has nothing of that name.
    """
    shelf, hub = Shelf(root / entry.folder), entry.hub
    listing = shelf.listing
    if listing and (listing.asked.repo, listing.asked.revision) != (hub.repo, hub.revision):
        raise PullError(
            f"{shelf.folder}: holds {listing.asked.repo} at {listing.asked.revision}, the list says {hub.repo} at {hub.revision}; "
            f"remove {shelf.folder / KEPT} to change over, files that are the same stay"
        )
    if listing is None or listing.asked.files != hub.files:
        listing = _ask(entry, listing.commit if listing else hub.revision, api)
    for file in listing.files:
        shelf.place(file.path)
    return Order(entry, shelf, listing)


def configs_of(item: Order) -> Order:
    """An order of only those files that describe a model: what a plan needs. A later order completes it. Raises PullError for what is no model."""
    if item.entry.kind not in MODELS:
        raise PullError(
            f"{item.entry.name}: a {item.entry.kind} has no configs that a plan reads; pull it without --configs, or name a backbone or a codec"
        )
    return replace(item, configs=True)


def check_room(orders: Sequence[Order]) -> None:
    """Raises PullError when a disk can't hold what is still to come."""
    needed: Counter[int] = Counter()
    for item in orders:
        disk = disk_of(item.shelf.folder)
        device = disk.stat().st_dev
        needed[device] += item.missing_bytes
        if needed[device] > (free := free_bytes(disk)):
            raise PullError(
                f"{item.shelf.folder}: {needed[device]:,} bytes are to come, and {free:,} are free on its disk; make room, "
                "pull fewer things, or make the folder a link to a larger disk"
            )


def fetch(item: Order, api: HfApi, say: Say = lambda line: None) -> None:
    """Bring an order to its shelf and, when all of it is there, write the receipt. What is there and true stays; a file that was cut goes on
    where it stopped.

    Raises PullError for what the hub refuses, and for a file that isn't what the hub said: it is removed.
    """
    entry, shelf, listing = item.entry, item.shelf, item.listing
    with _in_one_line(entry, api), _only_one(shelf.folder):
        shelf.keep_listing(listing)
        is_whole = shelf.receipt is not None
        files = item.wanted.files
        for number, file in enumerate(files, 1):
            say(f"{entry.name} {number}/{len(files)}: {file.path}")
            if shelf.has(file) and (is_whole or shelf.is_true(file)):
                continue
            _fetch_file(item, file, api)
        if not is_whole and len(files) == len(listing.files):
            shelf.keep_receipt(listing)


def _ask(entry: Entry, revision: str, api: HfApi) -> Listing:
    hub, kind = entry.hub, entry.repo_type
    with _in_one_line(entry, api):
        try:
            info = api.repo_info(hub.repo, revision=revision, repo_type=kind)
            if info.gated:
                api.auth_check(hub.repo, repo_type=kind)
            tree = api.list_repo_tree(hub.repo, recursive=True, revision=info.sha, repo_type=kind)
            wanted = [file for file in tree if isinstance(file, RepoFile) and _is_wanted(file.path, hub.files)]
            card = info.card_data.to_dict() if info.card_data else {}
            licence = str(card.get("license", ""))
            listing = Listing(asked=hub, commit=info.sha, licence=licence, files=tuple(map(_as_file, wanted)))
        except (ValueError, LookupError, TypeError) as error:  # a page to log in, say, in place of the hub's answer
            raise PullError(
                f"{entry.name}: {api.endpoint} doesn't answer as the hub does; check HF_ENDPOINT, and whether this network wants a login"
            ) from error
    if not listing.files:
        raise PullError(
            f"{entry.name}: nothing in {hub.repo} at {info.sha} is called {' or '.join(hub.files)}; mend files in the list"
        )
    return listing


def _is_wanted(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def _as_file(file: RepoFile) -> File:
    """Large files have the SHA-256 of their content, the others only git's own name."""
    if file.lfs:
        return File(path=file.path, bytes=file.lfs.size, hash=f"sha256:{file.lfs.sha256}")
    return File(path=file.path, bytes=file.size, hash=f"git-sha1:{file.blob_id}")


def _fetch_file(item: Order, file: File, api: HfApi) -> None:
    part, place = item.shelf.part(file), item.shelf.place(file.path)
    if part.is_file() and part.stat().st_size > file.bytes:
        part.unlink()
    if file.bytes > constants.MAX_HTTP_DOWNLOAD_SIZE:
        raise PullError(
            f"{item.entry.name}: {file.path} has {file.bytes:,} bytes, more than the hub gives in one piece; fetch it with `hf download`"
        )
    url = hf_hub_url(
        item.entry.hub.repo,
        file.path,
        repo_type=item.entry.repo_type,
        revision=item.listing.commit,
        endpoint=api.endpoint,
    )
    # a compressed answer has no byte that one could go on at
    headers = build_hf_headers(token=api.token, library_name="lumo") | {"Accept-Encoding": "identity"}
    with part.open("ab") as out:
        http_get(
            url, out, resume_size=out.tell(), headers=headers, expected_size=file.bytes, displayed_filename=file.path
        )
    found = hash_of(part, file.hash.partition(":")[0])
    if found != file.hash:
        part.unlink()
        raise PullError(
            f"{item.entry.name}: {file.path} came as {found}, the hub says {file.hash}; it was removed, run this again"
        )
    place.parent.mkdir(parents=True, exist_ok=True)
    part.replace(place)


def _only_one(folder: Path) -> AbstractContextManager[None]:
    """Hold an entry's folder: two pulls at once would write into each other's parts."""
    (folder / KEPT).mkdir(parents=True, exist_ok=True)
    taken = PullError(f"{folder}: another lumo pull is at work there; wait for it, or stop it first")
    return locked(folder / KEPT / "lock", taken)


@contextmanager
def _in_one_line(entry: Entry, api: HfApi) -> Iterator[None]:
    """The hub's refusals as a PullError that says what to do. A full disk stays what it is."""
    what = f"{entry.name} ({entry.hub.repo})"
    try:
        yield
    except GatedRepoError as error:
        raise PullError(
            f"{what}: its owner wants terms accepted; open {entry.page}, log in and accept them, then `hf auth login` here, and run this again"
        ) from error
    except RepositoryNotFoundError as error:
        raise PullError(
            f"{what}: {api.endpoint} has no {entry.repo_type} of that name, or not for you; if it is private, `hf auth login`, else mend the list"
        ) from error
    except RevisionNotFoundError as error:
        raise PullError(
            f"{what}: has no revision '{entry.hub.revision}', or no longer; mend the list, or remove the folder if it pins an old one"
        ) from error
    except OfflineModeIsEnabled as error:
        raise PullError(
            f"{what}: HF_HUB_OFFLINE is set, so nothing is fetched; unset it, or run this where there is a network"
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        login = "`hf auth login` with a token that may, and run this again"
        todo = login if status in (401, 403) else "run this again later"
        raise PullError(f"{what}: {api.endpoint} answers {status}; what came is kept, {todo}") from error
    except HTTPError as error:
        raise PullError(
            f"{what}: can't reach {api.endpoint} ({type(error).__name__}); what came is kept, run this again with a network"
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise PullError(
            f"{what}: {' '.join(str(error).split())}; what came is kept, mend it and run this again"
        ) from error
