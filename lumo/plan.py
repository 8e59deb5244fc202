"""What a run will need, said before it: tokens, lengths and drops, memory, time, disk.

Tokens, lengths and drops are exact, unless files that are there can't be read: they come from the captions and the codecs' sizes, through
the code that makes the run's own sequences. Memory is a sum of parts, activations counted on a model without weights. Time follows from a rate that is
measured here in a few steps, or given. Weights and data needn't be there, nor the GPU: what stands for them is said.

Axes: b row · s step in a row.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lumo import full
from lumo.backbone import Skeleton, load_model, skeleton
from lumo.codecs.sizes import CodecSizes, known_codecs
from lumo.datasets import world
from lumo.datasets.manifest import Row, read_manifest
from lumo.footprint import FP32, PlanError, generation_bytes, held_bytes, training_bytes
from lumo.lengths import Lengths, task_lengths
from lumo.machine import device_of, free_bytes, planned_device, shares_memory, synchronise
from lumo.media import Image, png_bytes, wav_bytes
from lumo.params import ROOT, Profile, has_weights, weights_folder
from lumo.shards import Plan, Sample, tar_of
from lumo.tasks import Mixture, build_pools
from lumo.tokenizer import UnifiedTokenizer, load_text_tokenizer, make_space
from lumo.training import Feed, prepare, task_weights

BF16 = 2
STEPS_LOOKED_AT = 40  # fewer where a step has many tokens
TOKENS_LOOKED_AT = 2**19


@dataclass(frozen=True)
class Forecast:
    """media: tokens of one picture, of one clip; tasks: for each task its sequences, lengths and drops in stage 4
    steps: of each stage, real and computed tokens of a step; training_bytes, generation_bytes: of memory at the peak of each; disk_bytes
    left_out: rows that can't be used; assumed: what isn't there, and what stands for it, one line each
    feed: what stage 4 draws from, with the first code of each codebook in place of all codes
    """

    media: dict[str, int]
    tasks: dict[str, dict[str, float]]
    steps: dict[str, dict[str, float]]
    training_bytes: dict[str, int]
    generation_bytes: dict[str, int]
    disk_bytes: dict[str, int]
    left_out: int
    assumed: list[str]
    feed: Feed

    @property
    def memory_bytes(self) -> dict[str, int]:
        """Of training or of generation, whichever takes more."""
        return max(self.training_bytes, self.generation_bytes, key=lambda parts: sum(parts.values()))


def forecast(profile: Profile) -> Forecast:
    """Raises ManifestError, ParamsError, CodecError, ModelError or TaskError for what isn't there and has no stand-in, PlanError for what
    can't be counted."""
    tokenizer = _tokenizer(profile)
    rows, left_out = _rows(profile)
    samples: dict[str, list[Sample]] = {"train": [], "eval": [], "golden": []}
    split_of = Plan(profile.data.eval_share, profile.data.golden_source, profile.data.samples_per_shard).split
    for row in rows:
        samples[split_of(row)].append(_sample(row, tokenizer))
    feeds = {stage: _feed(profile, samples["train"], tokenizer, stage) for stage in ("warm_start", "stage4")}
    looks = {stage: _look(feed, getattr(profile, stage).steps) for stage, feed in feeds.items()}
    pools, bare = feeds["stage4"].pools, skeleton(profile)
    limit, shorten = profile.stage4.max_seq_len, profile.stage4.shorten_inputs
    lengths = task_lengths(samples["train"], list(pools), tokenizer.space)
    tasks = {name: _row(found, limit, shorten) for name, found in lengths.items()}
    longest = max((int(row["longest"]) for row in tasks.values()), default=0)
    return Forecast(
        {medium: tokenizer.tokens_of(medium) for medium in ("image", "audio")},
        tasks,
        looks,
        max(
            (training_bytes(profile, tokenizer, look, bare) for look in looks.values()), key=lambda it: sum(it.values())
        ),
        generation_bytes(profile, tokenizer, longest, bare),
        _disk(profile, samples, tokenizer, bare),
        left_out,
        _assumed(profile, tokenizer, len(rows)),
        feeds["stage4"],
    )


def budget(profile: Profile) -> int | None:
    """Bytes that this run may take: what is free and what this process holds by now, which is in the need already, less the floor of its
    watchdog where that memory is shared. None where it can't be known, as for a GPU that isn't here."""
    device = planned_device(profile.device)
    if device == "cuda" and not torch.cuda.is_available():
        return None
    free = free_bytes(device)
    floor = profile.stage4.memory_floor_mib * 2**20 if shares_memory(device) else 0
    return None if free is None else free + held_bytes(device) - floor


def check(plan: Forecast, budget: int | None, folder: Path) -> None:
    """Raises PlanError when the run needs more memory than its budget, or more disk than is free where `folder` lies; it names what takes most."""
    need = sum(plan.memory_bytes.values())
    if budget is not None and need > budget:
        part = max(plan.memory_bytes, key=plan.memory_bytes.__getitem__)
        raise PlanError(
            f"plan: needs {need / 2**30:.1f} GiB of memory, {max(0, budget) / 2**30:.1f} may be taken; most goes to {part} "
            f"({plan.memory_bytes[part] / 2**30:.1f} GiB): lower stage4.tokens_per_batch, stage4.lora_rank or golden.batch_size, "
            "or take a smaller backbone"
        )
    need, there = sum(plan.disk_bytes.values()), next(p for p in (folder, *folder.parents) if p.exists())
    if need > (free := shutil.disk_usage(there).free):
        part = max(plan.disk_bytes, key=plan.disk_bytes.__getitem__)
        raise PlanError(
            f"plan: needs {need / 2**30:.1f} GiB of disk, {free / 2**30:.1f} are free at {there}; most goes to {part} "
            f"({plan.disk_bytes[part] / 2**30:.1f} GiB): free some space, or set LUMO_REPORTS to a folder on another disk"
        )


def seconds(plan: Forecast, profile: Profile, tokens_per_s: float) -> dict[str, float]:
    """Of each stage's steps. The warm start, which has no LoRA to train, is quicker than this says."""
    return {stage: getattr(profile, stage).steps * look["tokens"] / tokens_per_s for stage, look in plan.steps.items()}


# --- tokens -----------------------------------------------------------------------------------------------------------


def _tokenizer(profile: Profile) -> UnifiedTokenizer:
    """As `load_tokenizer`, but codecs without weights are no more than their sizes."""
    backbone, codecs = weights_folder(profile.backbone.path, "backbone"), known_codecs(profile.codecs)
    return UnifiedTokenizer(make_space(backbone, codecs), load_text_tokenizer(backbone), codecs)


def _manifest(profile: Profile) -> Path | None:
    return ROOT / Path(profile.data.manifest).expanduser() if profile.data.manifest else None


def _assumed(profile: Profile, tokenizer: UnifiedTokenizer, rows: int) -> list[str]:
    """What isn't there, and what stands for it."""
    lines, path = [], _manifest(profile)
    if path and not path.is_file():
        lines.append(f"{path} isn't there: {rows} rows with the generated world's captions stand for it")
    for medium in ("image", "audio"):
        if isinstance(tokenizer.codecs[medium], CodecSizes):
            lines.append(
                f"codecs.{medium} has no weights there: its sizes are known, its memory and disk aren't counted"
            )
    if not has_weights(profile.backbone.path):
        lines.append("backbone has no weights there: its config.json stands for it")
    if profile.device == "cuda" and not torch.cuda.is_available():
        lines.append(
            "no GPU here: the plan is for one, and isn't held against its memory; --memory says how much it has"
        )
    return lines


def _rows(profile: Profile) -> tuple[list[Row], int]:
    """The rows of a run, and how many can't be used: broken ones, and those whose files aren't there. Without a manifest the world's."""
    path = _manifest(profile)
    if path is None or not path.is_file():
        amounts = profile.world
        made = world.rows(amounts.images, amounts.clips, amounts.pairs, profile.seed, amounts.held_out_pairs)
        return [Row.model_validate(row) for row in made], 0
    rows, broken = read_manifest(path)
    there = [row for row in rows if all((path.parent / medium.path).is_file() for _, medium in row.modalities.items())]
    return there, len(broken) + len(rows) - len(there)


def _sample(row: Row, tokenizer: UnifiedTokenizer) -> Sample:
    """A sample of the length that the run's will have; its codes are the first of each codebook."""
    ids = {"text": tokenizer.encode_text(row.text.caption)}
    for medium, _ in row.modalities.items():
        starts = [tokenizer.space.block(name).start for name in tokenizer.blocks(medium)]
        ids[medium] = np.tile(np.array(starts), tokenizer.codecs[medium].frames)
    return Sample(row.id, ids, row.model_dump(mode="json"))


def _feed(profile: Profile, samples: list[Sample], tokenizer: UnifiedTokenizer, stage: str) -> Feed:
    params = getattr(profile, stage)
    rates = {name: rate for name, rate in params.rates.items() if rate}
    shorten = getattr(params, "shorten_inputs", False)
    pools = build_pools(samples, list(rates), tokenizer.space, params.max_seq_len, shorten)
    mixture = Mixture(rates, getattr(params, "ramp_steps", 0))
    return Feed(pools, mixture, params.tokens_per_batch, tokenizer.space, profile.seed)


def _look(feed: Feed, steps: int) -> dict[str, float]:
    """Means over some steps of a run; rows and their length of the largest batch, and the most supervised tokens."""
    looks = max(4, min(STEPS_LOOKED_AT, TOKENS_LOOKED_AT // feed.tokens_per_batch))
    batches = [feed.at(step) for step in range(0, steps, max(1, steps // looks))]
    largest = max(batches, key=lambda batch: batch.input_ids.numel())
    return {
        "tokens": statistics.fmean(batch.tokens for batch in batches),
        "real_share": statistics.fmean(batch.real_share for batch in batches),
        "rows": largest.input_ids.shape[0],
        "row": largest.input_ids.shape[1],
        "supervised": max(int((batch.labels >= 0).sum()) for batch in batches),
    }


def _row(lengths: Lengths, limit: int, shorten: bool) -> dict[str, float]:
    kept = lengths.kept(limit, shorten)
    mean = sum(length * count for length, count in kept.items()) / max(1, kept.total())
    return {"sequences": kept.total(), "mean": round(mean, 1), "longest": max(kept, default=0),
            "dropped": lengths.dropped(limit, shorten), "shortened": lengths.shortened(limit) if shorten else 0}  # fmt: skip


# --- time and disk ----------------------------------------------------------------------------------------------------


def can_measure(profile: Profile) -> bool:
    """Whether there are weights and a device to measure a rate with."""
    return has_weights(profile.backbone.path) and (profile.device != "cuda" or torch.cuda.is_available())


def measured_tokens_per_s(plan: Forecast, profile: Profile, steps: int = 8) -> float:
    """Real tokens a second of stage 4 over a few steps, after the first two."""
    device = device_of(profile.device)
    feed = plan.feed
    model = load_model(profile, feed.space)
    prepare(model, profile.stage4, profile.seed)
    if model.backbone_parameters():
        full.share_out(model.base)
    optimiser = torch.optim.AdamW(model.trained_parameters(), lr=0.0, fused=True)
    model.train()
    tokens, began = 0, 0.0
    first = min(profile.stage4.steps, 3 * profile.stage4.ramp_steps)  # where all tasks are drawn
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


def _disk(
    profile: Profile, samples: Mapping[str, list[Sample]], tokenizer: UnifiedTokenizer, bare: Skeleton
) -> dict[str, int]:
    every = [sample for part in samples.values() for sample in part]
    some = every[:: max(1, len(every) // 200)]
    shards = len(tar_of(some)) * len(every) // len(some) if some else 0
    rows = FP32 * tokenizer.space.new_rows * bare.width * bare.tables
    moments = 2 * (rows + FP32 * (bare.adapters + bare.tuned))
    tuned = FP32 * bare.tuned + bare.frozen_bytes if bare.tuned else FP32 * bare.adapters
    sizes = {"shards": shards, "warm start and stage 4, when finished": 2 * rows + tuned,
             "two checkpoints with the optimiser, while training": 2 * (rows + tuned + moments)}  # fmt: skip
    if not has_weights(profile.backbone.path):
        sizes["backbone, to be fetched"] = sum(p.numel() for p in bare.model.parameters()) * BF16
    if not profile.data.manifest:
        sizes["the world's files"] = _world_bytes(every)
    return sizes


def _world_bytes(samples: list[Sample]) -> int:
    """From a few that are rendered."""
    metas = [(medium, content["meta"]) for s in samples for medium, content in s.row["modalities"].items() if content]
    sizes: Counter[str] = Counter()
    for medium in ("image", "audio"):
        these = [meta for name, meta in metas if name == medium]
        if these:
            media = [world.render(meta) for meta in these[:: max(1, len(these) // 20)]]
            mean = statistics.fmean(len(png_bytes(m) if isinstance(m, Image) else wav_bytes(m)) for m in media)
            sizes[medium] = round(mean * len(these))
    return sum(sizes.values())
