"""The loop."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lumo import parallel, watchdog
from lumo.files import locked
from lumo.machine import gemm_rate, memory_bytes
from lumo.model import LumoModel, ModelError
from lumo.params import Stage4, Training
from lumo.training.checkpoints import checkpoint, identity, remove_checkpoints, resume
from lumo.training.feed import Feed
from lumo.training.log import Progress, summary, trim_log
from lumo.training.losses import Sums, sums_of, task_weights


def train(
    model: LumoModel,
    feed: Feed,
    params: Training,
    folder: Path,
    seed: int,
    show: Callable[[Progress], None] = lambda progress: None,
) -> dict[str, Any]:
    """Train rows (and LoRA, where the model has it) for `params.steps` steps; a run that was cut goes on from its last checkpoint.

    A checkpoint belongs to a run by its parameters, seed, data and starting weights. Of another run it is removed; what another run finished
    becomes `replaced/`, with its log, until the next one does. A run that is finished is loaded, not run again.

    Writes `folder/log.jsonl` (one line a step), `folder/checkpoint_<step>/` and, at the end, `folder/final/`.
    show: called every `params.log_every` steps
    Returns first and last loss, tokens and target tokens of each task.
    Raises ModelError for a loss that is not finite, for a checkpoint that is damaged or can't be written, and while another run trains
    in this folder; SpaceError for checkpoints of another token space, MachineError when memory runs short; then a checkpoint is there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if parallel.rank() > 0:  # the first one writes, and holds the folder
        return _train(model, feed, params, folder, seed, show)
    taken = ModelError(f"{folder}: another run is training there; wait for it, or stop it first")
    with locked(folder.with_name(f".{folder.name}.lock"), taken):
        return _train(model, feed, params, folder, seed, show)


def _train(
    model: LumoModel, feed: Feed, params: Training, folder: Path, seed: int, show: Callable[[Progress], None]
) -> dict[str, Any]:
    optimiser = _optimiser(model, params)
    trained = [p for group in optimiser.param_groups for p in group["params"]]
    run = identity(params, seed, feed, model)
    log_path = folder / "log.jsonl"
    first = parallel.rank() == 0  # the one process that writes
    if not first:
        parallel.wait()  # it removes what is of another run; then the others look
    start = resume(model, optimiser, folder, run)
    if first:
        parallel.wait()
    parallel.wait()  # nobody writes before all have read
    if start == params.steps:
        if first:
            remove_checkpoints(folder)  # of a run that was killed between its last write and this
        return summary(log_path, params.log_every)
    if first:
        trim_log(log_path, start)
    device = model.new_rows.device.type
    ceiling, flops = gemm_rate(device, next(model.base.parameters()).dtype), model.step_flops_per_token()
    window, window_tokens, shown, since = Sums({}, {}), 0, start, time.perf_counter()
    with log_path.open("a") if first else open(os.devnull, "w") as log:
        for step in range(start, params.steps):
            model.train()
            began = time.perf_counter()
            batch = feed.at(step, parallel.rank(), parallel.size())
            loss, losses, groups = model.loss(batch, lambda groups: task_weights(groups, len(feed.names)))
            whole = loss.detach().clone()
            parallel.add_up([whole])
            if not torch.isfinite(whole):
                raise ModelError(
                    f"training: loss is {whole.item()} at step {step}; lower the learning rates and start again from the last checkpoint"
                )
            loss.backward()
            parallel.add_up([p.grad for p in trained])
            norm = nn.utils.clip_grad_norm_(trained, 1.0)
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * schedule(step, params)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            sums = sums_of(losses, groups, feed.names)
            # in one exchange with the rest, so that all processes end at the same step
            low = watchdog.is_low(params.memory_floor_mib)
            seen = torch.tensor([batch.tokens, batch.input_ids.numel(), low], device=groups.device)
            parallel.add_up([seen])
            tokens, computed, low = seen.tolist()
            line = {
                "step": step,
                "losses": dict(sums.losses),
                "target_tokens": dict(sums.tokens),
                "tokens": tokens,
                "real_share": round(tokens / computed, 4),
                "gradient_norm": round(float(norm), 4),
                "seconds": round(time.perf_counter() - began, 4),
            }
            log.write(json.dumps(line) + "\n")
            window, window_tokens = window + sums, window_tokens + tokens
            if (step + 1) % params.log_every == 0 or step + 1 == params.steps:
                now = time.perf_counter()
                rate = (now - since) / (step + 1 - shown)
                means = {name: window.mean(name) for name in feed.names if window.tokens.get(name)}
                speed = window_tokens / (now - since)
                left = rate * (params.steps - step - 1)
                share, memory = speed * flops / ceiling, memory_bytes(device)
                show(Progress(step + 1, params.steps, means, speed, left, share, memory))
                window, window_tokens, shown, since = Sums({}, {}), 0, step + 1, now
            target, is_last = folder / f"checkpoint_{step + 1:06d}", step + 1 == params.steps
            if first and (low or (step + 1) % params.checkpoint_every == 0) and not is_last:
                log.flush()
                checkpoint(model, optimiser, target, step + 1, run)
            if low and not is_last:
                parallel.wait()  # a launcher kills the others when the first one leaves
                raise watchdog.ended(params.memory_floor_mib, step + 1, target.name)
    if first:
        checkpoint(model, None, folder / "final", params.steps, run)
        remove_checkpoints(folder)
    parallel.wait()
    return summary(log_path, params.log_every)


def schedule(step: int, params: Training) -> float:
    """Learning rate as a share of its peak: linear warm-up, then a cosine down to a twentieth."""
    if step < params.warmup_steps:
        return (step + 1) / params.warmup_steps
    done = (step - params.warmup_steps) / max(1, params.steps - params.warmup_steps)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done))


def _optimiser(model: LumoModel, params: Training) -> torch.optim.AdamW:
    groups = [{"params": model.row_parameters(), "peak": params.rows_learning_rate}]
    if isinstance(params, Stage4):
        groups.append({"params": model.lora_parameters(), "peak": params.lora_learning_rate})
    # no weight decay: rows that a batch doesn't hold would shrink at every step
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
