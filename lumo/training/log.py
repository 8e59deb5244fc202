"""What a run says of itself: a line for each step in `log.jsonl`, and what is made of them."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from lumo.files import write_atomically
from lumo.machine import gemm_rate, memory_bytes
from lumo.model import LumoModel, ModelError
from lumo.params import Training
from lumo.training.feed import Feed
from lumo.training.losses import Sums
from lumo.wording import in_short


class Line(BaseModel):
    """What `log.jsonl` says of a step. What it says besides is kept.

    losses: in nats, added up over each task's target tokens; tokens: real ones, and their share of those computed
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    step: int
    losses: dict[str, float]
    target_tokens: dict[str, int]
    tokens: int
    real_share: float
    gradient_norm: float | None = None
    seconds: float

    @property
    def sums(self) -> Sums:
        return Sums(self.losses, self.target_tokens)

    @property
    def json_line(self) -> str:
        return json.dumps(self.model_dump(exclude_unset=True)) + "\n"


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


class Meter:
    """Adds up a run's lines, and says every `log_every` steps how it goes. done: steps before"""

    def __init__(self, model: LumoModel, feed: Feed, params: Training, done: int):
        self.names, self.params, self.device = feed.names, params, model.new_rows.device.type
        ceiling = gemm_rate(self.device, next(model.base.parameters()).dtype)
        self.ceiling_tokens_per_s = ceiling / model.step_flops_per_token()
        self._begin(done)

    def _begin(self, done: int) -> None:
        self.since, self.done, self.sums, self.tokens = time.perf_counter(), done, Sums({}, {}), 0

    def add(self, line: Line) -> Progress | None:
        """A line of the log; what is to be shown after it, if anything is."""
        self.sums, self.tokens = self.sums + line.sums, self.tokens + line.tokens
        step, steps = line.step + 1, self.params.steps
        if step % self.params.log_every and step < steps:
            return None
        took = time.perf_counter() - self.since
        means = {name: self.sums.mean(name) for name in self.names if self.sums.tokens.get(name)}
        speed, left = self.tokens / took, took / (step - self.done) * (steps - step)
        self._begin(step)
        return Progress(step, steps, means, speed, left, speed / self.ceiling_tokens_per_s, memory_bytes(self.device))


def read_log(path: Path) -> list[Line]:
    """The lines of a run. Raises ModelError for a log that isn't there, or isn't what a run writes."""
    try:
        return _lines(path.read_text())
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ModelError:
    return ModelError(
        f"{path}: can't be read ({in_short(error)}); mend it or put it back, or move {path.parent} away to train anew"
    )


def _lines(text: str) -> list[Line]:
    """Raises ValueError for what a run doesn't write."""
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            lines.append(Line.model_validate_json(line))
        except ValidationError as error:
            fault = error.errors()[0]
            key = "".join(f", {part}" for part in fault["loc"])
            raise ValueError(f"line {number}{key}: {fault['msg']}") from error
    if not lines:
        raise ValueError("it is empty")
    return lines


def summary(log_path: Path, window: int) -> dict[str, Any]:
    """For each task the mean loss of its first and its last `window` steps that saw it, its target tokens; and the totals."""
    lines = read_log(log_path)
    tasks: dict[str, Any] = {}
    for name in sorted({name for line in lines for name, count in line.target_tokens.items() if count}):
        saw = [line.sums for line in lines if line.target_tokens.get(name)]
        first, last = (sum(part, Sums({}, {})).mean(name) for part in (saw[:window], saw[-window:]))
        tasks[name] = {"first_loss": first, "last_loss": last, "target_tokens": sum(sums.tokens[name] for sums in saw)}
    seconds = sum(line.seconds for line in lines)
    tokens = sum(line.tokens for line in lines)
    return {"tasks": tasks, "tokens": tokens, "seconds": seconds, "tokens_per_s": tokens / seconds,
            "real_share": float(np.mean([line.real_share for line in lines]))}  # fmt: skip


def loss_curves(log_path: Path, points: int = 100) -> dict[str, list[tuple[float, float]]]:
    """For each task (step, token-weighted mean loss) over about `points` stretches of the log."""
    lines = read_log(log_path)
    stride = max(1, len(lines) // points)
    curves: dict[str, list[tuple[float, float]]] = {}
    for start in range(0, len(lines), stride):
        stretch = sum((line.sums for line in lines[start : start + stride]), Sums({}, {}))
        for name, tokens in sorted(stretch.tokens.items()):
            if tokens:
                curves.setdefault(name, []).append((start + stride / 2, stretch.mean(name)))
    return curves


def sizing(feed: Feed, result: Mapping[str, Any]) -> dict[str, float]:
    """What one epoch over the feed's sequences takes at the rate that a run measured, and what fits into an hour."""
    epoch = sum(len(sequence) for pool in feed.pools.values() for sequence in pool.sequences)
    rate = result["tokens_per_s"]
    return {"epoch_tokens": epoch, "epoch_s": epoch / rate, "epochs_in_an_hour": 3600 * rate / epoch,
            "steps_in_an_hour": 3600 * rate / feed.tokens_per_batch}  # fmt: skip


def trim_log(path: Path, steps: int) -> None:
    """Drop lines of steps that will be done again, and a last line that a kill left half-written. Warns where lines of the others are gone.

    Raises ModelError for a log that can't be read: now, not after the last step.
    """
    text = path.read_text(errors="replace") if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    try:
        lines = [line for line in _lines(whole) if line.step < steps] if whole else []
    except ValueError as error:
        raise _unreadable(path, error) from error
    write_atomically(path, "".join(line.json_line for line in lines))
    if len(lines) < steps:
        warnings.warn(
            f"{path} lacks {steps - len(lines)} of {steps} steps; losses and curves are without them", stacklevel=2
        )
