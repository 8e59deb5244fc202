"""What a run will need, said before it: tokens, lengths and drops, memory, time, disk.

Tokens, lengths and drops are exact: they come from the captions and the codecs' sizes, through the code that makes the run's
own sequences. Memory is a sum of parts, activations counted on a model without weights. Time follows from a rate that is
measured here in a few steps, or given.

Axes: b row · s step in a row.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch.autograd.graph import saved_tensors_hooks
from transformers import AutoConfig, AutoModelForCausalLM

from lumo.datasets import manifest_of, world
from lumo.datasets.manifest import Row, read_manifest
from lumo.lora import fold
from lumo.loss import CHUNK_BYTES
from lumo.machine import device_of, free_bytes, status_bytes, synchronise
from lumo.media import Image, png_bytes, wav_bytes
from lumo.model import LORA_TARGETS, load_model
from lumo.params import Profile, weights_folder
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
    steps: real and computed tokens of a step; memory, disk: bytes by part; seconds: by stage, empty without a rate
    """

    media: dict[str, int]
    tasks: dict[str, dict[str, float]]
    steps: dict[str, dict[str, float]]
    memory: dict[str, int]
    disk: dict[str, int]
    seconds: dict[str, float]
    rate: float | None

    @property
    def peak_bytes(self) -> int:
        return sum(self.memory.values())

    @property
    def disk_bytes(self) -> int:
        return sum(self.disk.values())


def forecast(profile: Profile, rate: float | None = None, measure: bool = True) -> Forecast:
    """rate: real tokens a second in stage 4; measured in a few steps where it isn't given and `measure` is true.

    Raises ManifestError, ParamsError or CodecError for parts that aren't there.
    """
    device = device_of(profile.device)
    tokenizer = load_tokenizer(profile)
    samples = {split: [] for split in ("train", "eval", "golden")}
    split_of = Plan(profile.data.eval_share, profile.data.golden_source, profile.data.samples_per_shard).split
    for row in _rows(profile):
        samples[split_of(row)].append(_sample(row, tokenizer))
    feeds = {"warm_start": _feed(profile, samples["train"], tokenizer, "warm_start"),
             "stage4": _feed(profile, samples["train"], tokenizer, "stage4")}  # fmt: skip
    looks = {stage: _look(feed, getattr(profile, stage).steps) for stage, feed in feeds.items()}
    pools = feeds["stage4"].pools
    memory = _memory(profile, tokenizer, looks["stage4"], pools, device)  # before anything is trained here
    if rate is None and measure:
        rate = _measured(profile, feeds["stage4"])
    return Forecast(
        {medium: tokenizer.codecs[medium].frames * tokenizer.codecs[medium].codebooks for medium in ("image", "audio")},
        {name: _lengths(pool) for name, pool in pools.items()},
        looks,
        memory,
        _disk(profile, samples, tokenizer),
        {stage: getattr(profile, stage).steps * look["tokens"] / rate for stage, look in looks.items()} if rate else {},
        rate,
    )


def check(plan: Forecast, device: str) -> None:
    """Raises PlanError when the run needs more memory than is free, naming what takes most."""
    free = free_bytes(device)
    if free is not None and plan.peak_bytes > free:
        part = max(plan.memory, key=plan.memory.__getitem__)
        raise PlanError(
            f"plan: needs {plan.peak_bytes / 2**30:.1f} GiB of memory, {free / 2**30:.1f} are free; most goes to {part} "
            f"({plan.memory[part] / 2**30:.1f} GiB): lower tokens_per_batch, lora_rank or golden.cases, or take a smaller backbone"
        )


# --- tokens -----------------------------------------------------------------------------------------------------------


def _rows(profile: Profile) -> Iterator[Row]:
    if profile.data.manifest:
        yield from read_manifest(manifest_of(profile, None))[0]
    else:
        amounts = profile.world
        yield from map(Row.model_validate, world.rows(amounts.images, amounts.clips, amounts.pairs, profile.seed))


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
    """Means over some steps of a run; of `computed`, `row` and `supervised` the largest that were seen."""
    looks = max(4, min(STEPS_LOOKED_AT, TOKENS_LOOKED_AT // feed.tokens_per_batch))
    batches = [feed.at(step) for step in range(0, steps, max(1, steps // looks))]
    largest = max(batches, key=lambda batch: batch.input_ids.numel() * (1 + batch.input_ids.shape[1] / 900))
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


@dataclass(frozen=True)
class _Bare:
    """A model with shapes and no values. weights: bytes of the base; rows, adapters: numbers that are trained."""

    model: torch.nn.Module
    weights: int
    rows: int
    adapters: int


def _bare(profile: Profile, tokenizer: UnifiedTokenizer, device: str) -> _Bare:
    config = AutoConfig.from_pretrained(weights_folder(profile.backbone.path, "backbone"), local_files_only=True)
    dtype = torch.float32 if device == "cpu" else config.dtype or torch.bfloat16
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(config, dtype=dtype).requires_grad_(False)
    table, head = base.get_input_embeddings().weight, base.get_output_embeddings().weight
    weights = sum(p.numel() for p in base.parameters()) * dtype.itemsize
    model = get_peft_model(base, LoraConfig(r=profile.stage4.lora_rank, target_modules=LORA_TARGETS, lora_dropout=0.0))
    fold(model)
    adapters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    rows = tokenizer.space.new_rows * table.shape[1] * (1 if head is table else 2)
    return _Bare(model, weights, rows, adapters)


def _memory(
    profile: Profile, tokenizer: UnifiedTokenizer, look: Mapping[str, float], pools: Mapping[str, Pool], device: str
) -> dict[str, int]:
    """Bytes at the peak of stage 4, which is above the warm start's, or of generation where that is higher."""
    bare = _bare(profile, tokenizer, device)
    model, text = bare.model, bare.model.config.get_text_config()
    dtype = next(model.parameters()).dtype
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    media = max(codec.frames * codec.codebooks for codec in (tokenizer.codecs.image, tokenizer.codecs.audio))
    steps = media + max(
        profile.golden.max_text_tokens, max((len(s) for p in pools.values() for s in p.sequences), default=0)
    )
    cache = 2 * text.num_hidden_layers * heads * head * steps * profile.golden.batch_size * dtype.itemsize
    generating = cache + (bare.weights if dtype == torch.float32 else 0)  # LoRA merged into a copy, see lumo.lora
    activations = _activations(model, int(look["rows"]), int(look["row"]))
    logits = 2 * min(CHUNK_BYTES, int(look["supervised"]) * tokenizer.space.size * FP32)
    training = {
        # value, gradient, and AdamW's two moments
        "new rows": 4 * bare.rows * FP32,
        "LoRA": 4 * bare.adapters * FP32,
        "activations": activations,
        "gradients in flight, allocator": round(SLACK["cpu" if device == "cpu" else "cuda"] * activations),
        "logits": logits,
    }
    most = training if sum(training.values()) >= generating else {"generation": generating}
    return {"program, codecs, data": _held(device), "base": bare.weights, **most}


def _held(device: str) -> int:
    """What this process holds by now, codecs and samples among it; nothing of it lies on a GPU."""
    return (status_bytes("VmRSS") or 0) if device == "cpu" else 0


def _activations(model: torch.nn.Module, rows: int, length: int) -> int:
    """Bytes that a forward pass keeps for the backward one, counted on tensors that have a shape and no values."""
    kept: dict[int, Any] = {}
    weights = {p.untyped_storage()._cdata for p in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        # without a device attention is the slow kind, which keeps its weights [… s s]; no device makes those
        if storage._cdata not in weights and tensor.shape[-2:] != (length, length):
            kept[storage._cdata] = storage  # held, or its address would be given away again
        return tensor

    trunk = model.get_base_model().base_model
    embedded = torch.empty(rows, length, model.config.hidden_size, device="meta", dtype=next(model.parameters()).dtype)
    positions = torch.zeros(rows, length, dtype=torch.long, device="meta")
    mask = torch.ones(rows, 1, length, length, dtype=torch.bool, device="meta")
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        trunk(
            inputs_embeds=embedded.requires_grad_(),
            attention_mask=mask,
            position_ids=positions,
            use_cache=False,
        )
    return sum(storage.nbytes() for storage in kept.values())


# --- time and disk ----------------------------------------------------------------------------------------------------


def _measured(profile: Profile, feed: Feed, steps: int = 8) -> float:
    """Real tokens a second over a few steps, after the first two."""
    device = device_of(profile.device)
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


def _disk(profile: Profile, samples: Mapping[str, list[Sample]], tokenizer: UnifiedTokenizer) -> dict[str, int]:
    every = [sample for part in samples.values() for sample in part]
    some = every[:: max(1, len(every) // 200)]
    shards = len(tar_of(some)) * len(every) // len(some) if some else 0
    bare = _bare(profile, tokenizer, "cpu")
    trained = FP32 * (bare.rows + bare.adapters)
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
