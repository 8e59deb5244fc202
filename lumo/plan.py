"""What a run will need, said before it: tokens, lengths and drops, memory, time, disk.

Tokens, lengths and drops are exact, unless files that are there can't be read or a generated world is looked at in part: they come
from the captions and the codecs' sizes, through the code that makes the run's own sequences. Memory is a sum of parts, activations
counted on a model without weights. Time follows from a rate that is measured here in a few steps, or given. Weights and data needn't
be there, nor the GPU: what stands for them is said.

Axes: b row · s step in a row.
"""

from __future__ import annotations

import shutil
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lumo import full, reach
from lumo.backbone import Skeleton, load_model, skeleton
from lumo.codecs.sizes import CodecSizes
from lumo.disk import disk_bytes
from lumo.footprint import Footprint, PlanError, Steps, codec_memory, held_bytes
from lumo.lengths import Lengths, task_lengths
from lumo.machine import free_bytes, planned_device, shares_memory, synchronise
from lumo.model import LumoModel
from lumo.params import Profile, Training, has_weights
from lumo.preview import Preview, manifest, preview, unified_tokenizer
from lumo.shards import Sample
from lumo.tasks import TASKS, Mixture, build_pools
from lumo.tokenizer import UnifiedTokenizer
from lumo.training import Feed, prepare, task_weights

STEPS_LOOKED_AT = 40  # fewer where a step has many tokens
TOKENS_LOOKED_AT = 2**17
BATCH_LOOKED_AT = 2**13  # tokens; a larger batch is so many times as large


@dataclass(frozen=True)
class Forecast:
    """media: tokens of one picture, of one clip; tasks: for each task its sequences, lengths and drops in stage 4
    steps: of each stage; training_bytes, generation_bytes, coding_bytes: of memory at the peak of each;
    disk_bytes; operations: of each stage's step for a token
    left_out: rows that can't be used; assumed: what isn't there, and what stands for it, one line each
    feeds: what each stage draws from, with the first code of each codebook in place of all codes
    """

    media: dict[str, int]
    tasks: dict[str, dict[str, float]]
    steps: dict[str, Steps]
    training_bytes: dict[str, int]
    generation_bytes: dict[str, int]
    coding_bytes: dict[str, int]
    disk_bytes: dict[str, int]
    operations: dict[str, float]
    left_out: int
    assumed: list[str]
    feeds: dict[str, Feed]

    @property
    def memory_bytes(self) -> dict[str, int]:
        """By part, at the highest of three peaks: training, generation, the codecs' work."""
        return max(self.training_bytes, self.generation_bytes, self.coding_bytes, key=_total)


def forecast(profile: Profile) -> Forecast:
    """Raises ManifestError, ParamsError, CodecError, ModelError or TaskError for what isn't there and has no stand-in, PlanError for what
    can't be counted."""
    tokenizer = unified_tokenizer(profile)
    data = preview(profile, tokenizer)
    reach.check(profile, tokenizer, data.splits["golden"] + data.splits["eval"])
    feeds = {stage: _feed(profile, data.splits["train"], tokenizer, stage) for stage in ("warm_start", "stage4")}
    _check_cases(profile, data.splits["golden"])
    processes = {"warm_start": 1, "stage4": profile.processes}
    steps = {stage: _steps(feed, getattr(profile, stage), processes[stage]) for stage, feed in feeds.items()}
    bare = skeleton(profile)
    footprint = Footprint(profile, tokenizer, bare, codec_memory(profile, tokenizer.codecs))
    tasks = _tasks(profile, data, tokenizer)
    longest = max((int(row["longest"]) for row in tasks.values()), default=0)
    # the warm start trains rows alone
    warm_start = replace(footprint, bare=replace(bare, tuned=0)).training(steps["warm_start"])
    return Forecast(
        media={medium: tokenizer.tokens_of(medium) for medium in ("image", "audio")},
        tasks=tasks,
        steps=steps,
        training_bytes=max(warm_start, footprint.training(steps["stage4"]), key=_total),
        generation_bytes=footprint.generation(longest),
        coding_bytes=footprint.coding(data.shards(profile.data.samples_per_shard)),
        disk_bytes=disk_bytes(profile, data, tokenizer.space, bare),
        operations=_operations(bare, tokenizer.space.text_size),
        left_out=data.left_out,
        assumed=_assumed(profile, tokenizer, data),
        feeds=feeds,
    )


def _total(parts: dict[str, int]) -> int:
    return sum(parts.values())


def budget(profile: Profile, whole: float | None = None) -> float | None:
    """Bytes that this run may take: of `whole`, another machine's memory, or of what is free here and what this process holds by now, which
    is in the need already; less the floor of its watchdog. None where it can't be known, as for a GPU that isn't here.

    The watchdog looks at the system's memory, so no floor is taken off a GPU's own. One that isn't here may share it (DGX Spark): then it is.
    """
    device = planned_device(profile.device)
    is_here = device == "cpu" or torch.cuda.is_available()
    floor = 0 if is_here and not shares_memory(device) else profile.stage4.memory_floor_mib * 2**20
    if whole is None and is_here and (free := free_bytes(device)) is not None:
        whole = free + held_bytes(device)
    return None if whole is None else whole - floor


def check(plan: Forecast, budget: float | None, folder: Path) -> None:
    """Raises PlanError when the run needs more memory than its budget, or more disk than is free where `folder` lies.

    It names what takes most.
    """
    need = sum(plan.memory_bytes.values())
    if budget is not None and need > budget:
        part = max(plan.memory_bytes, key=plan.memory_bytes.__getitem__)
        raise PlanError(
            f"plan: needs {need / 2**30:.1f} GiB of memory, {max(0, budget) / 2**30:.1f} may be taken; most goes to {part} "
            f"({plan.memory_bytes[part] / 2**30:.1f} GiB): lower stage4.tokens_per_batch, stage4.lora_rank, golden.batch_size "
            "or, of processes that make shards, data.workers, or take a smaller backbone"
        )
    need, there = sum(plan.disk_bytes.values()), next(p for p in (folder, *folder.parents) if p.exists())
    if need > (free := shutil.disk_usage(there).free):
        part = max(plan.disk_bytes, key=plan.disk_bytes.__getitem__)
        raise PlanError(
            f"plan: needs {need / 2**30:.1f} GiB of disk, {free / 2**30:.1f} are free at {there}; most goes to {part} "
            f"({plan.disk_bytes[part] / 2**30:.1f} GiB): free some space, or set LUMO_REPORTS to a folder on another disk"
        )


def seconds(plan: Forecast, profile: Profile, tokens_per_s: dict[str, float]) -> dict[str, float]:
    """How long each stage's steps take, at its own rate."""
    return {
        stage: getattr(profile, stage).steps * steps.tokens / tokens_per_s[stage] for stage, steps in plan.steps.items()
    }


def rates(plan: Forecast, tokens_per_s: float) -> dict[str, float]:
    """Tokens a second of each stage, from that of stage 4: the warm start, which trains no LoRA, is as much quicker as it has fewer operations (on the mini
    profile 1.41 times; a run had 1.40)."""
    return {stage: tokens_per_s * plan.operations["stage4"] / count for stage, count in plan.operations.items()}


# --- tokens -----------------------------------------------------------------------------------------------------------


def _check_cases(profile: Profile, golden: list[Sample]) -> None:
    """Raises PlanError when the data that is there has too few cases for the golden suites, which notebook 05 would refuse."""
    path = manifest(profile)
    if path and not path.is_file():
        return
    for name in profile.tasks:
        there = sum(map(TASKS[name].fits, golden))
        if there < profile.golden.cases:
            raise PlanError(
                f"plan: golden suite {name} has {there} cases at hand, expected {profile.golden.cases}; mark more rows golden (meta.split, or lumo adopt --golden), "
                "or lower golden.cases"
            )


def _assumed(profile: Profile, tokenizer: UnifiedTokenizer, data: Preview) -> list[str]:
    """What isn't there, and what stands for it."""
    lines, path, rows = [], manifest(profile), data.count(data.samples)
    if path and not path.is_file():
        lines.append(f"{path} isn't there: {rows} rows with the generated world's captions stand for it")
    if rows > len(data.samples):
        lines.append(f"{len(data.samples)} rows of the generated world stand for {rows}")
    for medium in ("image", "audio"):
        if isinstance(tokenizer.codecs[medium], CodecSizes):
            lines.append(f"codecs.{medium} has no weights there: its sizes are known, its disk isn't counted")
    for medium, params in (("image", profile.codecs.image), ("audio", profile.codecs.audio)):
        if params.name == "own":
            lines.append(f"codecs.{medium} is your own: its memory isn't counted")
    if not has_weights(profile.backbone.path):
        lines.append("backbone has no weights there: its config.json stands for it")
    if profile.device == "cuda" and not torch.cuda.is_available():
        lines.append(
            "no GPU here: the plan is for one, and isn't held against its memory; --memory says how much it has, and memory_floor_mib of that "
            "stays free, as on a DGX Spark; set stage4.memory_floor_mib to 0 for a GPU with memory of its own, which no watchdog looks at"
        )
    return lines


def _feed(profile: Profile, samples: list[Sample], tokenizer: UnifiedTokenizer, stage: str) -> Feed:
    params = getattr(profile, stage)
    rates = {name: rate for name, rate in params.rates.items() if rate}
    shorten = getattr(params, "shorten_inputs", False)
    pools = build_pools(samples, list(rates), tokenizer.space, params.max_seq_len, shorten)
    mixture = Mixture(rates, getattr(params, "ramp_steps", 0))
    return Feed(pools, mixture, min(params.tokens_per_batch, BATCH_LOOKED_AT), tokenizer.space, profile.seed)


def _steps(feed: Feed, params: Training, processes: int) -> Steps:
    """The `Steps` of a stage, from some of them, spread over the whole run."""
    times = params.tokens_per_batch / feed.tokens_per_batch
    looks = max(4, min(STEPS_LOOKED_AT, TOKENS_LOOKED_AT // feed.tokens_per_batch))
    numbers = range(0, params.steps, max(1, params.steps // looks))
    batches = [feed.at(number) for number in numbers]
    parts = [feed.at(number, 0, processes) for number in numbers] if processes > 1 else batches
    rows, length = max((batch.input_ids for batch in parts), key=torch.numel).shape
    return Steps(
        tokens=times * statistics.fmean(batch.tokens for batch in batches),
        rows=rows,
        length=length,
        supervised=int(times * max(int((batch.labels >= 0).sum()) for batch in parts)),
        times=times,
        processes=processes,
    )


def _tasks(profile: Profile, data: Preview, tokenizer: UnifiedTokenizer) -> dict[str, dict[str, float]]:
    """For each task of stage 4: its sequences, their lengths and what the limit does to them."""
    limit, shorten = profile.stage4.max_seq_len, profile.stage4.shorten_inputs
    lengths = task_lengths(data.splits["train"], profile.tasks, tokenizer.space)
    return {name: _row(found, limit, shorten, data.times_of(TASKS[name])) for name, found in lengths.items()}


def _row(lengths: Lengths, limit: int, shorten: bool, times: float) -> dict[str, float]:
    kept = lengths.kept(limit, shorten)
    mean = sum(length * count for length, count in kept.items()) / max(1, kept.total())
    counts = {"dropped": lengths.dropped(limit, shorten), "shortened": lengths.shortened(limit) if shorten else 0}
    return {"sequences": round(times * kept.total()), "mean": round(mean, 1), "longest": max(kept, default=0),
            **{name: round(times * count) for name, count in counts.items()}}  # fmt: skip


def _operations(bare: Skeleton, text_size: int) -> dict[str, float]:
    """Operations for a token in a step of each stage, as `LumoModel.step_flops_per_token` counts them."""
    body, trained = bare.base_numbers - bare.tables * text_size * bare.width, bare.adapters + bare.tuned
    return {"warm_start": 4.0 * body, "stage4": 4.0 * (body - bare.tuned) + 6.0 * trained}


# --- time -------------------------------------------------------------------------------------------------------------


def can_measure(profile: Profile) -> bool:
    """Whether there are weights and a device to measure a rate with."""
    shared_out = profile.stage4.tune == "full" and profile.processes > 1 and planned_device(profile.device) == "cuda"
    there = profile.device != "cuda" or torch.cuda.is_available()
    return has_weights(profile.backbone.path) and there and not shared_out


def measured_tokens_per_s(plan: Forecast, profile: Profile, steps: int = 8) -> dict[str, float]:
    """Real tokens a second of each stage over a few steps, after the first two."""
    model = load_model(profile, plan.feeds["stage4"].space)
    rate = {"warm_start": _measured(model, plan.feeds["warm_start"], steps, 0)}
    prepare(model, profile.stage4, profile.seed)
    if model.backbone_parameters():
        full.share_out(model.base)
    all_tasks = min(profile.stage4.steps, 3 * profile.stage4.ramp_steps)  # where all are drawn
    return rate | {"stage4": _measured(model, plan.feeds["stage4"], steps, all_tasks)}


def _measured(model: LumoModel, feed: Feed, steps: int, first: int) -> float:
    optimiser = torch.optim.AdamW(model.trained_parameters(), lr=0.0, fused=True)
    device, tokens, began = model.new_rows.device.type, 0, 0.0
    model.train()
    for step in range(steps + 2):
        if step == 2:
            synchronise(device)
            tokens, began = 0, time.perf_counter()
        batch = feed.at(first + step)
        loss, _, _ = model.loss(batch, lambda groups: task_weights(groups, len(feed.names)))
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        tokens += batch.tokens
    synchronise(device)
    return tokens / (time.perf_counter() - began)
