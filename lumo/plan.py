"""What a run will need, said before it: tokens, lengths and drops, memory, time, disk.

Tokens, lengths and drops are exact, unless files that are there can't be read: they come from the captions and the codecs' sizes, through
the code that makes the run's own sequences. Memory is a sum of parts, activations counted on a model without weights. Time follows from a rate that is
measured here in a few steps, or given.

Axes: b row · s step in a row.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.autograd.graph import saved_tensors_hooks

from lumo.backbone import Skeleton, load_model, skeleton
from lumo.datasets import world
from lumo.datasets.manifest import Row, read_manifest
from lumo.loss import CHUNK_BYTES
from lumo.machine import device_of, free_bytes, status_bytes, synchronise
from lumo.media import Image, png_bytes, wav_bytes
from lumo.params import ROOT, Profile
from lumo.shards import Plan, Sample, tar_of
from lumo.tasks import Mixture, Pool, build_pools
from lumo.tokenizer import UnifiedTokenizer, load_tokenizer
from lumo.training import Feed, task_weights

FP32 = 4
STEPS_LOOKED_AT = 40  # fewer where a step has many tokens
TOKENS_LOOKED_AT = 2**19
# Of the activations: gradients in flight, and freed blocks that don't fit what comes next. Measured with glibc on the mini profile with 768 to
# 6,144 tokens a batch, where it put the peak within 4 % each time; for CUDA's own allocator it is a guess.
SLACK = {"cpu": 1.1, "cuda": 0.3}


class PlanError(ValueError):
    """A run that can't fit; the message is one line."""


@dataclass(frozen=True)
class Forecast:
    """media: tokens of one picture, of one clip; tasks: for each task its sequences, lengths and drops in stage 4
    steps: of each stage, real and computed tokens of a step; memory_bytes, disk_bytes: by part; left_out: rows that can't be used
    feed: what stage 4 draws from, with the first code of each codebook in place of all codes
    """

    media: dict[str, int]
    tasks: dict[str, dict[str, float]]
    steps: dict[str, dict[str, float]]
    memory_bytes: dict[str, int]
    disk_bytes: dict[str, int]
    left_out: int
    feed: Feed


def forecast(profile: Profile) -> Forecast:
    """Raises ManifestError, ParamsError, CodecError, ModelError or TaskError for what isn't there, PlanError for what can't be counted."""
    tokenizer = load_tokenizer(profile)
    rows, left_out = _rows(profile)
    samples: dict[str, list[Sample]] = {"train": [], "eval": [], "golden": []}
    split_of = Plan(profile.data.eval_share, profile.data.golden_source, profile.data.samples_per_shard).split
    for row in rows:
        samples[split_of(row)].append(_sample(row, tokenizer))
    feeds = {stage: _feed(profile, samples["train"], tokenizer, stage) for stage in ("warm_start", "stage4")}
    looks = {stage: _look(feed, getattr(profile, stage).steps) for stage, feed in feeds.items()}
    pools, bare = feeds["stage4"].pools, skeleton(profile)
    return Forecast(
        {medium: tokenizer.codecs[medium].frames * tokenizer.codecs[medium].codebooks for medium in ("image", "audio")},
        {name: _lengths(pool) for name, pool in pools.items()},
        looks,
        _memory(profile, tokenizer, looks["stage4"], pools, bare),
        _disk(profile, samples, tokenizer, bare),
        left_out,
        feeds["stage4"],
    )


def check(plan: Forecast, device: str) -> None:
    """Raises PlanError when the run needs more memory than is free, naming what takes most."""
    free = free_bytes(device)
    if free is None:
        return
    need, free = sum(plan.memory_bytes.values()), free + _held(device)  # what this process holds is in the need already
    if need > free:
        part = max(plan.memory_bytes, key=plan.memory_bytes.__getitem__)
        raise PlanError(
            f"plan: needs {need / 2**30:.1f} GiB of memory, {free / 2**30:.1f} are free; most goes to {part} "
            f"({plan.memory_bytes[part] / 2**30:.1f} GiB): lower stage4.tokens_per_batch, stage4.lora_rank or golden.batch_size, "
            "or take a smaller backbone"
        )


def seconds(plan: Forecast, profile: Profile, tokens_per_s: float) -> dict[str, float]:
    """Of each stage's steps. The warm start, which has no LoRA to train, is quicker than this says."""
    return {stage: getattr(profile, stage).steps * look["tokens"] / tokens_per_s for stage, look in plan.steps.items()}


# --- tokens -----------------------------------------------------------------------------------------------------------


def _rows(profile: Profile) -> tuple[list[Row], int]:
    """The rows of a run, and how many can't be used: broken ones, and those whose files aren't there."""
    if not profile.data.manifest:
        amounts = profile.world
        made = world.rows(amounts.images, amounts.clips, amounts.pairs, profile.seed)
        return [Row.model_validate(row) for row in made], 0
    path = ROOT / Path(profile.data.manifest).expanduser()
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


def _lengths(pool: Pool) -> dict[str, float]:
    lengths = [len(sequence) for sequence in pool.sequences] or [0]
    return {"sequences": len(pool.sequences), "mean": round(statistics.fmean(lengths), 1), "longest": max(lengths),
            "dropped": pool.dropped, "shortened": pool.shortened}  # fmt: skip


# --- memory -----------------------------------------------------------------------------------------------------------


def _memory(
    profile: Profile, tokenizer: UnifiedTokenizer, look: Mapping[str, float], pools: Mapping[str, Pool], bare: Skeleton
) -> dict[str, int]:
    """Bytes at the peak of stage 4, which is above the warm start's, or of generation where that is higher."""
    device = device_of(profile.device)
    model, text = bare.model, bare.model.config.get_text_config()
    dtype = next(model.parameters()).dtype
    rows = tokenizer.space.new_rows * bare.width * bare.tables
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    media = max(codec.frames * codec.codebooks for codec in (tokenizer.codecs.image, tokenizer.codecs.audio))
    steps = media + max(
        profile.golden.max_text_tokens, max((len(s) for p in pools.values() for s in p.sequences), default=0)
    )
    cache = 2 * text.num_hidden_layers * heads * head * steps * profile.golden.batch_size * dtype.itemsize
    head_rows = len(tokenizer.text_ids) * bare.width * FP32  # of text, the largest set that an answer is chosen from
    copied = bare.base_bytes if dtype == torch.float32 else 0  # LoRA merged into a copy, see lumo.lora
    generating = cache + head_rows + copied
    activations = _activations(model, int(look["rows"]), int(look["row"]))
    logits = 2 * min(CHUNK_BYTES, int(look["supervised"]) * tokenizer.space.size * FP32)
    training = {
        # value, gradient, and AdamW's two moments
        "new rows": 4 * rows * FP32,
        "LoRA": 4 * bare.adapters * FP32,
        "activations": activations,
        "gradients in flight, allocator": round(SLACK["cpu" if device == "cpu" else "cuda"] * activations),
        "logits": logits,
    }
    most = training if sum(training.values()) >= generating else {"generation": generating}
    return {"program, codecs, data": _held(device), "base": bare.base_bytes, **most}


def _held(device: str) -> int:
    """What this process holds by now, codecs and samples among it; nothing of it lies on a GPU."""
    return (status_bytes("VmRSS") or 0) if device == "cpu" else 0


def _activations(model: torch.nn.Module, rows: int, length: int) -> int:
    """Bytes that a forward pass keeps for the backward one, counted on tensors that have a shape and no values.

    Raises PlanError for layers whose shapes depend on values.
    """
    kept: dict[int, Any] = {}
    weights = {p.untyped_storage()._cdata for p in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        # without a device attention is the slow kind, which keeps its weights [b h s s]; no device makes those
        is_attention = tensor.shape[-2:] == (length, length) and tensor.shape[:-2].numel() > rows
        if storage._cdata not in weights and not is_attention:
            kept[storage._cdata] = storage  # held, or its address would be given away again
        return tensor

    trunk = model.get_base_model().base_model
    embedded = torch.empty(
        rows, length, model.config.get_text_config().hidden_size, device="meta", dtype=next(model.parameters()).dtype
    )
    positions = torch.zeros(rows, length, dtype=torch.long, device="meta")
    mask = torch.ones(rows, 1, length, length, dtype=torch.bool, device="meta")
    try:
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            trunk(
                inputs_embeds=embedded.requires_grad_(),
                attention_mask=mask,
                position_ids=positions,
                use_cache=False,
            )
    except RuntimeError as error:  # torch 2.13 knows no shapes of a mixture of experts in fp32
        reason = " ".join(str(error).split())[:200]
        raise PlanError(
            f"plan: activations of {type(trunk).__name__} can't be counted without its weights ({reason}); "
            "expected layers whose shapes are known, run without a plan"
        ) from error
    return sum(storage.nbytes() for storage in kept.values())


# --- time and disk ----------------------------------------------------------------------------------------------------


def measured_tokens_per_s(plan: Forecast, profile: Profile, steps: int = 8) -> float:
    """Real tokens a second of stage 4 over a few steps, after the first two."""
    device = device_of(profile.device)
    feed = plan.feed
    model = load_model(profile, feed.space)
    model.add_lora(profile.stage4.lora_rank, profile.seed)
    trained = [*model.row_parameters(), *model.lora_parameters()]
    optimiser = torch.optim.AdamW(trained, lr=0.0, fused=True)
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
    trained = FP32 * (tokenizer.space.new_rows * bare.width * bare.tables + bare.adapters)
    sizes = {"shards": shards, "warm start and stage 4, when finished": 2 * trained - FP32 * bare.adapters,
             "two checkpoints with the optimiser, while training": 2 * 3 * trained}  # fmt: skip
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
