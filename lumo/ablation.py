"""Ablations: does the model use what it is given?

Teacher-forced loss on the same targets under arms that differ in one input alone. Writing tasks: the correct prompt, another
case's, none. Reading tasks: the correct picture or clip, another case's, code 0 everywhere, random codes. Differences are paired
case by case, with a bootstrap interval over what the cases show: several of one combination or recording tell little more than one.

Axes: n token of the case's own input · m of another's · k of the arm's · c case.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from lumo.batches import pack
from lumo.files import write_atomically
from lumo.golden import combination, partner
from lumo.model import LumoModel
from lumo.sequence import TokenSequence
from lumo.shards import Sample, unit_hash
from lumo.space import TokenSpace
from lumo.tasks import TASKS, Task


def arms(task: Task) -> tuple[str, ...]:
    """The arms of a task, the correct one first. Of several inputs each has its own, such as `shuffled_image`: does every one count?"""
    return tuple(_changes(task))


def _changes(task: Task) -> dict[str, tuple[str, str]]:
    """arm → (what is done, to which input)."""
    changes = {"correct": ("correct", task.inputs[0])}
    for given in task.inputs:
        for kind in ("shuffled", "empty") if given == "text" else ("shuffled", "zero", "noise"):
            changes[kind if len(task.inputs) == 1 else f"{kind}_{given}"] = (kind, given)
    return changes


@dataclass(frozen=True)
class CaseLosses:
    """sums: summed loss of each case's target in nats, float64 [c]; tokens: target tokens of each case, int64 [c]
    clusters: a number for each combination or recording, int64 [c]: cases that have it in common aren't independent
    """

    sums: Float[np.ndarray, "c"]
    tokens: Int[np.ndarray, "c"]
    clusters: Int[np.ndarray, "c"]

    @property
    def mean(self) -> float:
        """The token-weighted mean loss."""
        return float(self.sums.sum() / self.tokens.sum())


def pick(samples: Sequence[Sample], task_name: str, count: int) -> list[Sample]:
    """At most `count` samples that fit a task, in an order given by a hash of their ids."""
    return sorted(filter(TASKS[task_name].fits, samples), key=lambda sample: unit_hash(sample.id))[:count]


def replace(
    kind: str, own: Int[np.ndarray, "n"], other: Int[np.ndarray, "m"], space: TokenSpace, rng: np.random.Generator
) -> Int[np.ndarray, "k"]:
    """The ids of an input under an arm of this kind; zero and noise stand in the same blocks as the case's own."""
    if kind == "correct":
        return own
    if kind == "shuffled":
        return other
    if kind == "empty":
        return own[:0]
    blocks = [space.blocks[index] for index in space.block_index(own)]
    if kind == "zero":
        return np.array([block.start for block in blocks])
    return np.array([rng.integers(block.start, block.end) for block in blocks])


@torch.no_grad()
def losses(
    model: LumoModel, sequences: Sequence[TokenSequence], tokens_per_batch: int
) -> tuple[Float[np.ndarray, "c"], Int[np.ndarray, "c"]]:
    """Each sequence's teacher-forced loss in nats, summed over its target, and the number of target tokens."""
    model.eval()
    sums, counts = torch.zeros(len(sequences), dtype=torch.float64), torch.zeros(len(sequences), dtype=torch.long)
    start = 0
    while start < len(sequences):
        end, tokens = start, 0
        while end < len(sequences) and (end == start or tokens + len(sequences[end]) <= tokens_per_batch):
            tokens += len(sequences[end])
            end += 1
        batch = pack(sequences[start:end], model.space.control("<|pad_mm|>"), list(range(start, end)))
        token_losses, cases = model.token_losses(batch)
        sums.index_add_(0, cases.cpu(), token_losses.cpu().double())
        counts += torch.bincount(cases.cpu(), minlength=len(sequences))
        start = end
    return sums.numpy(), counts.numpy()


def run(
    task_name: str, cases: Sequence[Sample], model: LumoModel, tokens_per_batch: int, seed: int
) -> dict[str, CaseLosses]:
    """The losses of every arm of a task, on the same cases in the same order.

    Cases of one cluster have no `shuffled`: it would be their own input.
    """
    task, results = TASKS[task_name], {}
    clusters = np.unique([combination(case) for case in cases], return_inverse=True)[1]
    for arm, (kind, given) in _changes(task).items():
        if kind == "shuffled" and not clusters.any():
            continue
        rng = np.random.default_rng(seed)
        sequences = []
        for i, case in enumerate(cases):
            other = cases[partner(i, cases)].ids[given]
            ids = case.ids | {given: replace(kind, case.ids[given], other, model.space, rng)}
            sequences.append(task.sequence(ids, model.space))
        results[arm] = CaseLosses(*losses(model, sequences, tokens_per_batch), clusters)
    return results


def difference(arm: CaseLosses, correct: CaseLosses, resamples: int, seed: int) -> tuple[float, float, float]:
    """Token-weighted loss of an arm minus the correct arm's: mean, and a two-sided 95 % percentile interval over resampled clusters.

    Paired: each resample draws clusters, and takes both arms of all their cases (Efron and Tibshirani 1993, chapter 13; Davison and
    Hinkley 1997, section 3.8).
    """
    gap, tokens = (np.bincount(correct.clusters, of) for of in (arm.sums - correct.sums, correct.tokens))
    draws = np.random.default_rng(seed).integers(len(gap), size=(resamples, len(gap)))
    means = gap[draws].sum(1) / tokens[draws].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(gap.sum() / tokens.sum()), float(low), float(high)


def figures(results: Mapping[str, CaseLosses], resamples: int, seed: int) -> dict[str, Any]:
    """A task's numbers for `metrics.json`: each arm's loss, and `<arm>_minus_correct` as [low, high].

    No cases have no losses, and one cluster has no intervals: drawn again and again it is always the same.
    """
    correct = results["correct"]
    numbers: dict[str, Any] = {"cases": len(correct.sums), "clusters": len(np.unique(correct.clusters))}
    if not numbers["cases"]:
        return numbers
    numbers |= {arm: result.mean for arm, result in results.items()}
    for arm, result in results.items():
        if arm != "correct" and numbers["clusters"] > 1:
            _, low, high = difference(result, correct, resamples, seed)
            numbers[f"{arm}_minus_correct"] = [low, high]
    return numbers


def write(path: Path, cases: Mapping[str, Sequence[Sample]], results: Mapping[str, Mapping[str, CaseLosses]]) -> None:
    """Every case's losses under every arm, so that other statistics need no new run."""
    content = {
        name: [
            {
                "id": case.id,
                "tokens": int(arms_of["correct"].tokens[i]),
                "cluster": int(arms_of["correct"].clusters[i]),
                **{arm: float(r.sums[i]) for arm, r in arms_of.items()},
            }
            for i, case in enumerate(cases[name])
        ]
        for name, arms_of in results.items()
    }
    write_atomically(path, json.dumps(content) + "\n")
