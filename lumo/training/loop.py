"""The training loop: one step after another, to the last or to the next checkpoint."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TextIO

import torch
from torch import Tensor

from lumo import full, parallel, watchdog
from lumo.batches import Batch
from lumo.files import locked
from lumo.machine import MachineError
from lumo.model import LumoModel, ModelError
from lumo.params import Stage4, Training
from lumo.training.checkpoints import (
    checkpoint,
    identity,
    last_checkpoint,
    make_room,
    remove_checkpoints,
    resume,
    weights_sha256,
)
from lumo.training.feed import Feed
from lumo.training.log import Line, Meter, Progress, summary, trim_log
from lumo.training.losses import sums_of, task_weights

Ending = Literal["low", "orphan"] | None  # memory is low; the launcher is gone


def prepare(model: LumoModel, params: Stage4, seed: int) -> None:
    """Give a model what stage 4 trains beside its rows. Raises ModelError when it has LoRA already, LoraError where that doesn't fit."""
    if params.tune == "full":
        model.train_backbone()
    else:
        model.add_lora(params.lora_rank, seed)


def train(
    model: LumoModel,
    feed: Feed,
    params: Training,
    folder: Path,
    seed: int,
    show: Callable[[Progress], None] = lambda progress: None,
) -> dict[str, Any]:
    """Train rows, and what `prepare` has given the model, for `params.steps` steps; a run that was cut goes on from its last checkpoint.

    A checkpoint belongs to a run by its parameters, seed, data and starting weights. Of another run it is removed; what another run finished
    becomes `replaced/`, with its log, until the next one does. A run that is finished is loaded, not run again. The model
    may be the very one that was cut.

    Writes `folder/log.jsonl` (one line a step), `folder/checkpoint_<step>/` and, at the end, `folder/final/`.
    show: called every `params.log_every` steps
    Returns first and last loss, tokens and target tokens of each task.
    Raises ModelError for a model that was trained in this folder, where no checkpoint of this run is, for a loss that is not finite, for a
    log or a checkpoint that is damaged or can't be written, and while another run trains in this folder; SpaceError for checkpoints of
    another token space; MachineError when memory runs short or, of several processes, when the one that started them is gone: then a
    checkpoint is there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    if parallel.rank() > 0:  # the first one writes, and holds the folder
        return _Run(model, feed, params, folder, seed).finish(show)
    taken = ModelError(f"{folder}: another run is training there; wait for it, or stop it first")
    with locked(folder.with_name(f".{folder.name}.lock"), taken):
        return _Run(model, feed, params, folder, seed).finish(show)


class _Run:
    """One run, in one of its processes.

    done: steps; identity: what tells it from other runs; launcher: the process that started this one
    """

    def __init__(self, model: LumoModel, feed: Feed, params: Training, folder: Path, seed: int):
        self.model, self.feed, self.params, self.folder = model, feed, params, folder
        self.is_first, self.launcher = parallel.rank() == 0, os.getppid()
        # a notebook's cell may be run again: the model is the one that was cut then, or that came out
        again = folder in model.begun
        start = model.begun[folder] if again else weights_sha256(model)
        self.identity = identity(params, seed, feed, start)
        last = self._last_checkpoint(again)
        model.zero_grad(set_to_none=True)  # a step may have been cut between its gradients and its update
        # what is finished is loaded as it was read: it may be shown where it couldn't be trained
        if model.backbone_parameters() and not (last and last.name == "final"):
            full.share_out(model.base)
        self.optimiser = _optimiser(model, params)
        try:
            self.done = resume(model, self.optimiser, last) if last else 0
        finally:  # loading weights forgets where they came from, and may fail half-way
            model.begun[folder] = start
        parallel.wait()  # nobody writes before all have read

    def _last_checkpoint(self, again: bool) -> Path | None:
        if not self.is_first:
            parallel.wait()  # the first one makes room; then the others look
        last, others = last_checkpoint(self.folder, self.model.space, self.identity)
        if again and not last and weights_sha256(self.model) != self.identity["start_sha256"]:
            raise ModelError(
                f"{self.folder}: holds no checkpoint with these parameters, and the model has been trained there already; "
                "load it again (in a notebook: Restart Kernel and Run All)"
            )
        if self.is_first:
            make_room(others, self.identity)
            parallel.wait()
        return last

    def finish(self, show: Callable[[Progress], None]) -> dict[str, Any]:
        """Do the steps that are left; the whole run's summary."""
        log_path = self.folder / "log.jsonl"
        if self.done < self.params.steps:
            watchdog.check(self.params.memory_floor_mib)
            if self.is_first:
                trim_log(log_path, self.done)
            with log_path.open("a") if self.is_first else open(os.devnull, "w") as log:
                self._go_on(log, show)
            checkpoint(self.model, None, self.folder / "final", self.params.steps, self.identity)
        if self.is_first:
            remove_checkpoints(self.folder)  # here too if the run was killed between its last write and this
        parallel.wait()
        return summary(log_path, self.params.log_every)

    def _go_on(self, log: TextIO, show: Callable[[Progress], None]) -> None:
        meter = Meter(self.model, self.feed, self.params, self.done)
        while self.done < self.params.steps:
            line, ending = self._step()
            log.write(line.json_line)
            if progress := meter.add(line):
                show(progress)
            if self.done < self.params.steps:
                self._checkpoint(log, ending)

    def _step(self) -> tuple[Line, Ending]:
        """One step: its line of the log, and whether the run has to end."""
        began, step = time.perf_counter(), self.done
        self.model.train()
        batch = self.feed.at(step, parallel.rank(), parallel.size())
        loss, losses, groups = self.model.loss(batch, lambda groups: task_weights(groups, len(self.feed.names)))
        loss.backward()
        _check_finite(loss, step)  # it waits for a GPU, so not before the way back is under way
        norm = self._update(schedule(step, self.params))
        sums = sums_of(losses, groups, self.feed.names)
        tokens, computed, ending = self._exchange(batch, groups.device)
        self.done += 1
        line = Line(
            step=step,
            losses=dict(sums.losses),
            target_tokens=dict(sums.tokens),
            tokens=tokens,
            real_share=round(tokens / computed, 4),
            gradient_norm=round(float(norm), 4),
            seconds=round(time.perf_counter() - began, 4),
        )
        return line, ending

    def _update(self, share: float) -> Tensor:
        """Move the weights; the gradient's norm. share: of the peak learning rates"""
        trained = [p for group in self.optimiser.param_groups for p in group["params"]]
        parallel.add_up_gradients(trained)
        norm = parallel.clip_gradients(trained, 1.0)
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * share
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return norm

    def _exchange(self, batch: Batch, device: torch.device) -> tuple[int, int, Ending]:
        """Real and computed tokens of all processes, and why they end, if they do: in one exchange, so that all end at the same step."""
        is_low = watchdog.is_low(self.params.memory_floor_mib)
        is_orphan = parallel.is_orphan(self.launcher)
        seen = torch.tensor([batch.tokens, self.model.computed_tokens(batch), is_low, is_orphan], device=device)
        parallel.add_up([seen])
        tokens, computed, low, orphans = seen.tolist()
        return tokens, computed, "low" if low else "orphan" if orphans else None

    def _checkpoint(self, log: TextIO, ending: Ending) -> None:
        """Write a checkpoint where one is due. Raises MachineError after it when the run has to end."""
        target = self.folder / f"checkpoint_{self.done:06d}"
        if ending or self.done % self.params.checkpoint_every == 0:
            log.flush()
            checkpoint(self.model, self.optimiser, target, self.done, self.identity)
        if ending:
            parallel.wait()  # a launcher kills the others when the first one leaves
            if ending == "low":
                raise watchdog.ended(self.params.memory_floor_mib, self.done, target.name)
            raise MachineError(
                f"training: the process that started this one is gone; ended after step {self.done} with {target.name}: run the same again, it "
                "goes on there"
            )


def _check_finite(loss: Tensor, step: int) -> None:
    """Raises ModelError unless the loss over all processes is a number."""
    whole = loss.detach().clone()
    parallel.add_up([whole])
    if not torch.isfinite(whole):
        raise ModelError(
            f"training: loss is {whole.item()} at step {step}; lower the learning rates and start again from the last checkpoint"
        )


def schedule(step: int, params: Training) -> float:
    """Learning rate as a share of its peak: linear warm-up, then a cosine down to a twentieth."""
    if step < params.warmup_steps:
        return (step + 1) / params.warmup_steps
    done = (step - params.warmup_steps) / max(1, params.steps - params.warmup_steps)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done))


def _optimiser(model: LumoModel, params: Training) -> torch.optim.AdamW:
    groups = [{"params": model.row_parameters(), "peak": params.rows_learning_rate}]
    if model.backbone_parameters():
        groups.append({"params": model.backbone_parameters(), "peak": params.backbone_learning_rate})
    elif isinstance(params, Stage4):
        groups.append({"params": model.lora_parameters(), "peak": params.lora_learning_rate})
    # no weight decay: rows that a batch doesn't hold would shrink at every step
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
