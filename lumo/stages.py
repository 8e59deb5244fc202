"""Whole stages without a notebook around them: for several processes, and for machines without JupyterLab."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lumo import parallel
from lumo.machine import device_of
from lumo.model import load_model
from lumo.params import Profile
from lumo.shards import read_shards
from lumo.tasks import Mixture, build_pools
from lumo.tokenizer import load_tokenizer
from lumo.training import Feed, Progress, train


def stage4(profile: Profile, artifacts: Path, show: Callable[[Progress], None]) -> dict[str, Any]:
    """Train rows and LoRA as notebook 04 does, from a run's shards and warm start; a run that was cut goes on.

    artifacts: the folder in which notebooks 02 and 03 left `shards/` and `warm_start/`; `stage4/` appears beside them, and
        notebook 04 then shows it instead of training again
    Started by `torchrun` or `accelerate launch`, the processes share every batch and give a single process's losses.
    Raises what `train` raises, and ShardError or ModelError for an artifact that isn't there.
    """
    params = profile.stage4
    tokenizer = load_tokenizer(profile)
    space = tokenizer.space
    parallel.join(device_of(profile.device))
    model = load_model(profile, space)
    model.load(artifacts / "warm_start" / "final")
    model.add_lora(params.lora_rank, profile.seed)
    pools = build_pools(
        read_shards(artifacts / "shards", "train", space),
        list(params.rates),
        space,
        params.max_seq_len,
        params.shorten_inputs,
    )
    mixture = Mixture(params.rates, params.ramp_steps)
    feed = Feed(pools, mixture, params.tokens_per_batch, space, profile.seed, params.corruption)
    return train(model, feed, params, artifacts / "stage4", profile.seed, show)
