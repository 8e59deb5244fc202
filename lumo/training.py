"""The training loop: a ramped mixture of tasks, losses per task, checkpoints, resume.

What a step sees is a function of the seed and the step's number alone, so a run that was killed goes on as if it hadn't been.
On a CPU the resumed run equals the unbroken one bit for bit; on a GPU only as far as its kernels are deterministic.

Axes: n token · m supervised token.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from lumo import parallel, watchdog
from lumo.batches import Batch, layout, pack
from lumo.files import write_atomically
from lumo.machine import gemm_rate, memory_bytes
from lumo.model import LumoModel, ModelError, whole_folder
from lumo.params import Stage4, Training
from lumo.sequence import TokenSequence
from lumo.space import TokenSpace
from lumo.tasks import Mixture, Pool, TaskError


@dataclass(frozen=True)
class Sums:
    """Loss sums in nats and token counts for each task: they travel apart and are divided once."""

    losses: Mapping[str, float]
    tokens: Mapping[str, int]

    def __add__(self, other: Sums) -> Sums:
        names = self.tokens.keys() | other.tokens.keys()
        return Sums(
            {name: self.losses.get(name, 0.0) + other.losses.get(name, 0.0) for name in names},
            {name: self.tokens.get(name, 0) + other.tokens.get(name, 0) for name in names},
        )

    def mean(self, name: str) -> float:
        """Token-weighted mean loss of a task; NaN when no token of it was seen."""
        return self.losses[name] / self.tokens[name] if self.tokens.get(name) else math.nan


# shares of a batch's tokens, and of its rows' room, from which it may end: 96.7 % real tokens on the mini profile, 95.9 without
NEARLY_ALL, FULL_ROWS = 0.95, 0.96


class Feed:
    """Batches by step number. Samples are drawn with replacement, so that a step depends on no step before it.

    corruption: the share of an answer's codes that the model reads drawn anew, see `corrupted`
    """

    def __init__(
        self,
        pools: Mapping[str, Pool],
        mixture: Mixture,
        tokens_per_batch: int,
        space: TokenSpace,
        seed: int,
        corruption: float = 0.0,
    ):
        empty = [name for name, rate in mixture.rates.items() if rate and not pools[name].sequences]
        if empty:
            dropped = {name: pools[name].dropped for name in empty}
            fix = "raise max_seq_len" if all(dropped.values()) else "add such rows to the data"
            raise TaskError(
                f"training: no sequence for {', '.join(empty)} (dropped for length: {dropped}); {fix}, or set the rate to 0"
            )
        self.names, self.pools, self.mixture, self.space, self.seed = list(pools), pools, mixture, space, seed
        self.tokens_per_batch, self.corruption = tokens_per_batch, corruption

    @cached_property
    def sha256(self) -> str:
        """Hash of all that batches are drawn from."""
        digest = hashlib.sha256(f"{self.seed} {self.tokens_per_batch} {self.mixture} {self.corruption}".encode())
        for name in self.names:
            digest.update(name.encode())
            for sequence in self.pools[name].sequences:
                digest.update(sequence.ids.tobytes() + sequence.is_target.tobytes())
        return digest.hexdigest()

    def at(self, step: int, rank: int = 0, size: int = 1) -> Batch:
        """About `tokens_per_batch` real tokens, packed. `groups` counts in the order of `names`.

        rank, size: of several processes, which one asks; their parts together are what a single process would get
        """
        rng = np.random.default_rng([self.seed, step])
        shares = self.mixture.at(step)
        chosen: list[TokenSequence] = []
        groups: list[int] = []
        while not self._is_enough([len(sequence) for sequence in chosen]):
            name = str(rng.choice(list(shares), p=list(shares.values())))
            sequences = self.pools[name].sequences
            chosen.append(sequences[rng.integers(len(sequences))])
            groups.append(self.names.index(name))
        if len(chosen) < size:
            raise TaskError(
                f"training: {len(chosen)} sequences in a batch for {size} processes; raise tokens_per_batch, or start fewer"
            )
        read = [corrupted(sequence, self.space, self.corruption, rng) for sequence in chosen]
        # dealt out by length, so that no process waits long for another
        mine = sorted(range(len(chosen)), key=lambda i: (-len(chosen[i]), i))[rank::size]
        pad = self.space.control("<|pad_mm|>")
        return pack([chosen[i] for i in mine], pad, [groups[i] for i in mine], [read[i] for i in mine])

    def _is_enough(self, lengths: Sequence[int]) -> bool:
        """Whether a batch ends here: at `tokens_per_batch`, or a little before where its rows are full.

        It is decided by what is drawn already, and what is drawn stays in: leaving out the sample that is too long for what is left would
        make long ones rarer than their rates say.
        """
        tokens = sum(lengths)
        if tokens < NEARLY_ALL * self.tokens_per_batch:
            return False
        found = layout(lengths)
        return tokens >= self.tokens_per_batch or tokens >= FULL_ROWS * len(found.rows) * found.capacity


def corrupted(
    sequence: TokenSequence, space: TokenSpace, share: float, rng: np.random.Generator
) -> Int[np.ndarray, "n"]:
    """A sequence's ids as the model reads them: of the codes that are to be learned, a share is drawn anew from their codebook (and
    sometimes comes out as it was).

    What is to be learned stays as it is. A model that can't trust its own last codes has to look at the prompt for every one; without
    that it learns how the training's clips go on, and new combinations of known attributes go wrong. (Word dropout, Bowman et al. 2016,
    with other words in place of none.)
    """
    ids = sequence.ids.copy()
    if share:
        struck = sequence.is_target & (rng.random(len(ids)) < share)
        for block in space.media_blocks:
            here = struck & (ids >= block.start) & (ids < block.end)
            ids[here] = rng.integers(block.start, block.end, here.sum())
    return ids


@dataclass(frozen=True)
class Progress:
    """What is shown while training.

    losses: since the last log, per task; of_ceiling: operations a second, as a share of this machine's matrix product
    """

    step: int
    steps: int
    losses: dict[str, float]
    tokens_per_s: float
    eta_s: float
    of_ceiling: float | None = None
    memory_bytes: int | None = None

    def as_row(self) -> dict[str, str]:
        """One line of a table."""
        minutes, seconds = divmod(round(self.eta_s), 60)
        losses = {f"{name} loss": f"{loss:.3f}" for name, loss in self.losses.items()}
        rate = {"tokens/s": f"{self.tokens_per_s:,.0f}", "left": f"{minutes} min {seconds:02d} s"}
        if self.of_ceiling is not None:
            rate["of ceiling"] = f"{self.of_ceiling:.0%}"
        if self.memory_bytes is not None:
            rate["memory"] = f"{self.memory_bytes / 2**30:.1f} GiB"
        return {"step": f"{self.step} of {self.steps}", **losses, **rate}


def sums_of(losses: Tensor, groups: Tensor, names: Sequence[str]) -> Sums:
    """Per-token losses [m] with their groups [m] to sums per task, over all processes."""
    totals = torch.zeros(len(names), dtype=torch.float64, device=groups.device)
    totals.index_add_(0, groups, losses.detach().double())
    counts = torch.bincount(groups, minlength=len(names))
    parallel.add_up([totals])
    parallel.add_up([counts])
    return Sums(dict(zip(names, totals.tolist(), strict=True)), dict(zip(names, counts.tolist(), strict=True)))


def task_weights(groups: Tensor, tasks: int) -> Tensor:
    """Weights [m] of tokens, by their tasks [m]: they make the mean over the batch's tasks of each task's mean token loss. A caption
    of ten tokens weighs as much as a clip of two hundred, or reading would hardly be trained beside writing. Of several processes
    each gets the weights of its own part of the batch.

    tasks: how many there are
    """
    counts = torch.bincount(groups, minlength=tasks)
    parallel.add_up([counts])
    return 1.0 / (counts[groups] * (counts > 0).sum())


def train(
    model: LumoModel,
    feed: Feed,
    params: Training,
    folder: Path,
    seed: int,
    show: Callable[[Progress], None] = lambda progress: None,
) -> dict[str, Any]:
    """Train rows (and LoRA, where the model has it) for `params.steps` steps; a run that was cut goes on from its last checkpoint.

    A checkpoint belongs to a run by its parameters, seed, data and starting weights; of another run it is removed.
    A run that is finished is loaded, not run again.

    Writes `folder/log.jsonl` (one line a step), `folder/checkpoint_<step>/` and, at the end, `folder/final/`.
    show: called every `params.log_every` steps
    Returns first and last loss, tokens and target tokens of each task.
    Raises ModelError for a loss that is not finite, for a checkpoint that is damaged or can't be written, SpaceError for
    checkpoints of another token space, MachineError when memory runs short; then a checkpoint is there.
    """
    optimiser = _optimiser(model, params)
    trained = [p for group in optimiser.param_groups for p in group["params"]]
    folder.mkdir(parents=True, exist_ok=True)
    run = _identity(params, seed, feed, model)
    log_path = folder / "log.jsonl"
    first = parallel.rank() == 0  # the one process that writes
    if not first:
        parallel.wait()  # it removes what is of another run; then the others look
    start = _resume(model, optimiser, folder, run)
    if first:
        parallel.wait()
    parallel.wait()  # nobody writes before all have read
    if start == params.steps:
        if first:
            _remove_checkpoints(folder)  # of a run that was killed between its last write and this
        return summary(log_path, params.log_every)
    if first:
        _trim_log(log_path, start)
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
            checkpoint, is_last = folder / f"checkpoint_{step + 1:06d}", step + 1 == params.steps
            if first and (low or (step + 1) % params.checkpoint_every == 0) and not is_last:
                log.flush()
                _checkpoint(model, optimiser, checkpoint, step + 1, run)
            if low and not is_last:
                parallel.wait()  # a launcher kills the others when the first one leaves
                raise watchdog.ended(params.memory_floor_mib, step + 1, checkpoint.name)
    if first:
        _checkpoint(model, None, folder / "final", params.steps, run)
        _remove_checkpoints(folder)
    parallel.wait()
    return summary(log_path, params.log_every)


def sizing(feed: Feed, result: Mapping[str, Any]) -> dict[str, float]:
    """What one epoch over the feed's sequences takes at the rate that a run measured, and what fits into an hour."""
    epoch = sum(len(sequence) for pool in feed.pools.values() for sequence in pool.sequences)
    rate = result["tokens_per_s"]
    return {"epoch_tokens": epoch, "epoch_s": epoch / rate, "epochs_in_an_hour": 3600 * rate / epoch,
            "steps_in_an_hour": 3600 * rate / feed.tokens_per_batch}  # fmt: skip


def schedule(step: int, params: Training) -> float:
    """Learning rate as a share of its peak: linear warm-up, then a cosine down to a twentieth."""
    if step < params.warmup_steps:
        return (step + 1) / params.warmup_steps
    done = (step - params.warmup_steps) / max(1, params.steps - params.warmup_steps)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done))


def summary(log_path: Path, window: int) -> dict[str, Any]:
    """For each task the mean loss of its first and its last `window` steps that saw it, its target tokens; and the totals."""
    lines = [json.loads(line) for line in log_path.read_text().splitlines()]
    tasks: dict[str, Any] = {}
    for name in sorted({name for line in lines for name, count in line["target_tokens"].items() if count}):
        saw = [Sums(line["losses"], line["target_tokens"]) for line in lines if line["target_tokens"].get(name)]
        first, last = (sum(part, Sums({}, {})).mean(name) for part in (saw[:window], saw[-window:]))
        tasks[name] = {"first_loss": first, "last_loss": last, "target_tokens": sum(sums.tokens[name] for sums in saw)}
    seconds = sum(line["seconds"] for line in lines)
    tokens = sum(line["tokens"] for line in lines)
    return {"tasks": tasks, "tokens": tokens, "seconds": seconds, "tokens_per_s": tokens / seconds,
            "real_share": float(np.mean([line["real_share"] for line in lines]))}  # fmt: skip


def loss_curves(log_path: Path, points: int = 100) -> dict[str, list[tuple[float, float]]]:
    """For each task (step, token-weighted mean loss) over about `points` stretches of the log."""
    lines = [json.loads(line) for line in log_path.read_text().splitlines()]
    stride = max(1, len(lines) // points)
    curves: dict[str, list[tuple[float, float]]] = {}
    for start in range(0, len(lines), stride):
        stretch = sum(
            (Sums(line["losses"], line["target_tokens"]) for line in lines[start : start + stride]), Sums({}, {})
        )
        for name, tokens in sorted(stretch.tokens.items()):
            if tokens:
                curves.setdefault(name, []).append((start + stride / 2, stretch.mean(name)))
    return curves


# --- checkpoints ------------------------------------------------------------------------------------------------------


def _optimiser(model: LumoModel, params: Training) -> torch.optim.AdamW:
    groups = [{"params": model.row_parameters(), "peak": params.rows_learning_rate}]
    if isinstance(params, Stage4):
        groups.append({"params": model.lora_parameters(), "peak": params.lora_learning_rate})
    # no weight decay: rows that a batch doesn't hold would shrink at every step
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), weight_decay=0.0, fused=True)


def _identity(params: Training, seed: int, feed: Feed, model: LumoModel) -> dict[str, Any]:
    """What a checkpoint must share with the run that goes on from it."""
    start = hashlib.sha256()
    for parameter in [*model.row_parameters(), *model.lora_parameters()]:
        start.update(parameter.detach().cpu().numpy().tobytes())
    described = params.model_dump(mode="json", exclude={"checkpoint_every", "log_every", "memory_floor_mib"})
    return described | {"seed": seed, "data_sha256": feed.sha256, "start_sha256": start.hexdigest()}


def _checkpoint(
    model: LumoModel, optimiser: torch.optim.Optimizer | None, target: Path, step: int, run: dict[str, Any]
) -> None:
    """Write a folder that appears whole or not at all; the last one needs no optimiser."""
    with whole_folder(target) as partial:
        model.save_into(partial)
        if optimiser:
            torch.save(optimiser.state_dict(), partial / "optimiser.pt")
        write_atomically(partial / "state.json", json.dumps({"step": step, "run": run}, indent=2) + "\n")
    for old in sorted(target.parent.glob("checkpoint_*"))[:-2]:
        shutil.rmtree(old)


def _remove_checkpoints(folder: Path) -> None:
    for old in folder.glob("checkpoint_*"):
        shutil.rmtree(old)


def _resume(model: LumoModel, optimiser: torch.optim.Optimizer, folder: Path, run: dict[str, Any]) -> int:
    """Load the last checkpoint of this very run; the step to go on with."""
    for checkpoint in [folder / "final", *sorted(folder.glob("checkpoint_*"), reverse=True)]:
        if not checkpoint.is_dir():
            continue
        model.space.check_same(TokenSpace.load(checkpoint), str(checkpoint))
        state = _state(checkpoint)
        if state["run"] != run:
            shutil.rmtree(checkpoint)  # of a run with other parameters or data: this one starts anew
            continue
        model.load(checkpoint)
        if checkpoint.name != "final":
            try:
                optimiser.load_state_dict(torch.load(checkpoint / "optimiser.pt", weights_only=True))
            except (OSError, RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
                raise _damaged(checkpoint / "optimiser.pt", error) from error
        return state["step"]
    return 0


def _state(checkpoint: Path) -> dict[str, Any]:
    try:
        state = json.loads((checkpoint / "state.json").read_text())
        return {"step": state["step"], "run": state["run"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(checkpoint / "state.json", error) from error


def _damaged(path: Path, error: Exception) -> ModelError:
    reason = " ".join(str(error).split())[:200]
    return ModelError(f"{path}: can't be read ({reason}); remove {path.parent.name} to go on from the one before")


def _trim_log(path: Path, steps: int) -> None:
    """Drop lines of steps that will be done again, and a last line that a kill left half-written."""
    lines = path.read_text().splitlines(keepends=True)[:steps] if path.exists() else []
    write_atomically(path, "".join(lines))
