"""What a run was made with: commit, seed, device, versions."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess

from lumo import hub_cache
from lumo.params import ROOT, Profile
from lumo.workbook.folders import profile_sha256

PACKAGES = ("lumo", "torch", "transformers", "peft")


def provenance(profile: Profile) -> dict:
    """Plain values, ready for metrics.json; no paths and no names of people or machines. Raises HubError."""
    return {
        "commit": commit(),
        "profile": profile.profile,
        "profile_sha256": profile_sha256(profile),
        "seed": profile.seed,
        "device": device(profile),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "cpus": os.cpu_count(),
        **({"hub": commits} if (commits := hub_commits(profile)) else {}),
    }


def hub_commits(profile: Profile) -> dict[str, str]:
    """Each part whose weights lie in the hub's cache, and their name with the commit that is there now. Raises HubError."""
    parts = {"image codec": profile.codecs.image, "audio codec": profile.codecs.audio, "backbone": profile.backbone}
    return {name: hub_cache.commit(part.path) for name, part in parts.items() if hub_cache.is_hub(part.path)}


def device(profile: Profile) -> str:
    """`cpu` or `cuda`; `auto` takes CUDA where there is one."""
    if profile.device != "auto":
        return profile.device
    from lumo.machine import device_of  # torch takes a second and a half to import, and only this branch asks it

    return device_of(profile.device)


def commit() -> str:
    """The project's commit, `+changes` if the tree differs from it, `unknown` without git."""
    # an installed copy may lie inside somebody else's repository, whose commit would say nothing about lumo
    if (top := _git("rev-parse", "--show-toplevel")) is None or os.path.realpath(top) != str(ROOT):
        return "unknown"
    head = _git("rev-parse", "--short=12", "HEAD")
    if head is None:
        return "unknown"
    return f"{head}+changes" if _git("status", "--porcelain") else head


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
