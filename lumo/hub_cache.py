"""Weights in the Hugging Face hub's cache: a profile's `path` may be `hub:OWNER/NAME` or `hub:OWNER/NAME@REVISION`.

A run never fetches; it takes what lies there. Source of the cache's layout (`models--OWNER--NAME` with `refs/REVISION`, which
holds a commit, and `snapshots/COMMIT`): huggingface_hub's own documentation.
"""

from __future__ import annotations

import re
from pathlib import Path

PREFIX = "hub:"
NAME = re.compile(r"hub:(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+(?:/[\w.-]+)*))?")


class HubError(ValueError):
    """Weights that the hub's cache hasn't; the message is one line."""


def is_hub(path: str | None) -> bool:
    """Whether a profile's path names a repository."""
    return path is not None and path.startswith(PREFIX)


def snapshot(path: str) -> Path:
    """The cached folder of a repository at a revision, `main` unless it names one; the folder's name is the commit.

    Raises HubError for another form of `path`, and when the cache hasn't that revision.
    """
    # imported here: it takes longer than all of `params`, and few profiles name the hub
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    match = NAME.fullmatch(path)
    if match is None or ".." in path:
        raise HubError(f"{path}: expected {PREFIX}OWNER/NAME or {PREFIX}OWNER/NAME@REVISION")
    repo, revision = match["repo"], match["revision"] or constants.DEFAULT_REVISION
    try:
        # no file is asked for: a repository holds more than a loader reads, and the loader says what it lacks
        found = Path(snapshot_download(repo, revision=revision, local_files_only=True, allow_patterns=[]))
    except HFValidationError as error:
        raise HubError(f"{path}: no name of a repository ({' '.join(str(error).split())}); mend it") from error
    except LocalEntryNotFoundError as error:
        raise HubError(
            f"{path}: not in the hub's cache, {constants.HF_HUB_CACHE} holds {_held(repo)}; fetch it with "
            f"`hf download {repo} --revision {revision}`, or give the path of a folder"
        ) from error

    if not re.fullmatch("[0-9a-f]{40}", found.name):  # a ref may say anything, a path out of the cache too
        raise HubError(f"{path}: the cache says '{found.name}' for it, expected a commit; remove it and fetch it again")
    return found


def cache_folder() -> Path:
    """Where the hub's cache lies on this machine, by HF_HUB_CACHE or HF_HOME; it needn't be there."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser()


def commit(path: str) -> str:
    """A name in the hub's cache with the commit that it means now: `hub:OWNER/NAME@COMMIT`. Raises HubError."""
    return f"{path.partition('@')[0]}@{snapshot(path).name}"


def _held(repo: str) -> str:
    """What the cache has instead: other revisions of the repository, or other repositories."""
    from huggingface_hub import CacheNotFound, constants, scan_cache_dir

    try:
        models = [entry for entry in scan_cache_dir(constants.HF_HUB_CACHE).repos if entry.repo_type == "model"]
    except (CacheNotFound, ValueError):  # no such folder, or a file in its place
        return "nothing"
    mine = [revision for entry in models if entry.repo_id == repo for revision in entry.revisions]
    if not mine:
        return ", ".join(sorted(entry.repo_id for entry in models)) or "no model"
    revisions = [f"{', '.join(sorted(it.refs)) or 'no branch'} ({it.commit_hash})" for it in mine]
    return f"{repo} at {' and '.join(sorted(revisions))}"
