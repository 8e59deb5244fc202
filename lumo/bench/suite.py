"""All comparisons, in order; what this machine can't measure is listed with the command that would."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lumo.backbone import load_model
from lumo.bench import data, gpu
from lumo.bench.generation import against_stock, true_layout
from lumo.bench.measure import Comparison
from lumo.bench.training import padding, rows_step, step_rate
from lumo.datasets import world
from lumo.machine import bandwidth, gemm_rate
from lumo.params import Profile
from lumo.shards import Plan, read_shards, write_shards
from lumo.tasks import Mixture, build_pools
from lumo.tokenizer import load_tokenizer
from lumo.training import Feed


def machine(device: str) -> dict[str, Any]:
    """What the figures were measured on."""
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    return {
        "device": f"{device}: {name}", "threads": torch.get_num_threads(),
        "torch": torch.__version__, "transformers": version("transformers"), "python": platform.python_version(),
        f"gemm_{str(dtype).removeprefix('torch.')}_flops_per_s": gemm_rate(device, dtype),
        "copy_bytes_per_s": bandwidth(device),
    }  # fmt: skip


def run_all(
    profile: Profile, device: str = "cpu", progress: Callable[[str], None] = lambda name: None
) -> tuple[dict[str, Any], list[Comparison]]:
    """The machine and all comparisons. Raises Disagreement when two sides of one don't give the same result."""
    progress("the machine")
    described = machine(device)
    progress("stage 3 step")
    made = rows_step(device)
    progress("golden generation, true vocabulary")
    made += true_layout(device)
    with tempfile.TemporaryDirectory() as name:
        made += _miniature(profile, device, Path(name), progress)
    progress("shard tokenising")
    made.append(data.tokenising(profile))
    progress("large shapes")
    made += gpu.large_shapes(device)
    return described, made


def _miniature(profile: Profile, device: str, folder: Path, progress: Callable[[str], None]) -> Iterator[Comparison]:
    """The comparisons on the miniature itself, on a few hundred of its samples."""
    tokenizer = load_tokenizer(profile)
    space, params = tokenizer.space, profile.stage4
    manifest = world.write_world(folder / "world", seed=profile.seed, images=200, clips=200)
    plan = Plan(eval_share=0.0, golden_source="world-held-out", samples_per_shard=200)
    write_shards(manifest, folder / "shards", tokenizer, plan)
    samples = read_shards(folder / "shards", "train", space)
    pools = build_pools(samples, list(params.rates), space, params.max_seq_len)
    mixed = [sequence for pool in pools.values() for sequence in pool.sequences]
    rng = np.random.default_rng(0)
    chosen = [mixed[i] for i in rng.permutation(len(mixed))]
    model = load_model(profile, space).to(device)
    frames = tokenizer.codecs.audio.frames
    what = "golden generation, 64 cases, mini profile, tokens/s"
    progress("golden generation, mini")
    yield from against_stock(model, frames, "generation_mini", what, goal=2)
    model.add_lora(params.lora_rank)
    size = params.tokens_per_batch
    count = int(np.searchsorted(np.cumsum([len(sequence) for sequence in chosen]), size))
    progress("mini training step")
    step = step_rate(model, chosen[:count], rounds=8, device=device)
    yield step
    progress("padding")
    feed = Feed(pools, Mixture(params.rates, params.ramp_steps), size, space, profile.seed)
    yield padding(feed, model, params.steps)
    progress("loading shards")
    # each sample with one picture or clip is read once and trained twice an epoch, there and back
    yield data.loading(folder / "shards", space, 2 / step.figures["tokens_per_s"])
