"""Checkpoints: whole or not there, of one run alone, and how a run goes on from its last one."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lumo import full, parallel, storage
from lumo.files import write_atomically
from lumo.model import LumoModel, ModelError, raw_bytes
from lumo.params import Training
from lumo.space import TokenSpace
from lumo.training.feed import Feed
from lumo.wording import in_short


def weights_sha256(model: LumoModel) -> str:
    """The SHA-256 of all parameters that train."""
    digest = hashlib.sha256()
    for parameter in model.trained_parameters():
        digest.update(raw_bytes(parameter))
    return digest.hexdigest()


def identity(params: Training, seed: int, feed: Feed, start_sha256: str) -> dict[str, Any]:
    """What a checkpoint must share with the run that goes on from it. start_sha256: of the weights that the run began with"""
    described = params.model_dump(mode="json", exclude={"checkpoint_every", "log_every", "memory_floor_mib"})
    # draws: which way the feed chooses its samples, a number that goes up when the same seed gives others
    return described | {"draws": 2, "seed": seed, "data_sha256": feed.sha256, "start_sha256": start_sha256}


def checkpoint(
    model: LumoModel, optimiser: torch.optim.Optimizer | None, target: Path, step: int, run: dict[str, Any]
) -> None:
    """Write a folder that appears whole or not at all; the last one needs no optimiser. All processes take part, and the first one writes."""
    backbone = storage.gathered(model)
    moments = full.optimiser_state(model, optimiser) if optimiser else None
    if parallel.rank() > 0:
        return
    with storage.whole_folder(target) as partial:
        storage.write(model, partial, backbone)
        if moments:
            torch.save(moments, partial / "optimiser.pt")
        write_atomically(partial / "state.json", json.dumps({"step": step, "run": run}, indent=2) + "\n")
    for old in _under_way(target.parent)[:-2]:
        shutil.rmtree(old)


def remove_checkpoints(folder: Path) -> None:
    for old in _under_way(folder):
        shutil.rmtree(old)


def _under_way(folder: Path) -> list[Path]:
    """Checkpoints of a run that isn't finished, oldest first: by number, as from a million steps on names sort otherwise."""
    found = [path for path in folder.glob("checkpoint_*") if path.name.removeprefix("checkpoint_").isdecimal()]
    return sorted(found, key=_step_of)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint_"))


def _set_aside(checkpoint: Path, differing: Sequence[str]) -> None:
    """Remove another run's checkpoint, or keep it as `replaced/` if that run was finished."""
    if checkpoint.name != "final":
        shutil.rmtree(checkpoint)
        return
    kept = checkpoint.with_name("replaced")
    shutil.rmtree(kept, ignore_errors=True)
    checkpoint.rename(kept)
    log = checkpoint.with_name("log.jsonl")
    if log.is_file():
        log.rename(kept / "log.jsonl")
    warnings.warn(
        f"{checkpoint} was trained with another {', '.join(differing)}; it is kept as {kept.name}, and training starts anew",
        stacklevel=2,
    )


def last_checkpoint(folder: Path, space: TokenSpace, run: dict[str, Any]) -> tuple[Path | None, list[Path]]:
    """The last checkpoint of this very run, and later ones of other runs, with other parameters or data."""
    others = []
    for checkpoint in [folder / "final", *reversed(_under_way(folder))]:
        if not checkpoint.is_dir():
            continue
        space.check_same(TokenSpace.load(checkpoint), str(checkpoint))
        if _state(checkpoint)["run"] == run:
            return checkpoint, others
        others.append(checkpoint)
    return None, others


def make_room(others: Sequence[Path], run: dict[str, Any]) -> None:
    """Set the checkpoints of other runs aside."""
    for checkpoint in others:
        theirs = _state(checkpoint)["run"]
        _set_aside(checkpoint, [key for key in run if theirs.get(key) != run[key]])


def resume(model: LumoModel, optimiser: torch.optim.Optimizer, checkpoint: Path) -> int:
    """Load a checkpoint, all processes together; the step to go on with."""
    storage.load(model, checkpoint)
    if checkpoint.name != "final":
        try:
            full.load_optimiser(model, optimiser, torch.load(checkpoint / "optimiser.pt", weights_only=True))
        except (torch.OutOfMemoryError, MemoryError, PermissionError):
            raise
        except Exception as error:  # torch fails in whatever way a damaged file makes it
            raise _damaged(checkpoint / "optimiser.pt", error) from error
    return _state(checkpoint)["step"]


def _state(checkpoint: Path) -> dict[str, Any]:
    try:
        state = json.loads((checkpoint / "state.json").read_text())
        step, run = state["step"], dict(state["run"])
        expected = run["steps"] if checkpoint.name == "final" else _step_of(checkpoint)
        if step != expected:
            raise ValueError(f"step {step!r}, expected {expected!r}")
        return {"step": expected, "run": run}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(checkpoint / "state.json", error) from error


def _damaged(path: Path, error: Exception) -> ModelError:
    return ModelError(
        f"{path}: can't be read ({in_short(error)}); move {path.parent.name} away to go on from the one before, or anew"
    )
