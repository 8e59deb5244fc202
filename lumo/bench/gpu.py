"""Large shapes with random weights, where there is a GPU; elsewhere the rows say that they weren't measured.

The same functions run tiny shapes on a CPU in the tests.
"""

from __future__ import annotations

import gc
import re
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from lumo.batches import pack
from lumo.bench.generation import clip_grammar, prompts_of
from lumo.bench.measure import Comparison, Goal, Measured, alternate, peak_bytes
from lumo.bench.training import TRUE_LAYOUT, base_of, lines, lora_step
from lumo.footprint import activation_bytes
from lumo.generation import generate
from lumo.lora import with_lora
from lumo.loss import split_cross_entropy
from lumo.machine import bandwidth, synchronise
from lumo.model import LumoModel
from lumo.space import TokenSpace
from lumo.wording import in_short

# shapes of the published Qwen3
QWEN3 = {
    "0.6B": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
             "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True},
    "1.7B": {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16,
             "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True},
    "8B": {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32,
           "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": False},
}  # fmt: skip
H100_FLOPS = 989e12  # bf16, dense, NVIDIA's data sheet
COMMAND = "python -m lumo bench --device cuda"
TOKENS = (16_384, 8192, 4096, 2048)  # of a step: the first whose activations fit
SPARE = 0.85  # of a GPU's memory, for weights, activations and logits; the rest is the allocator's
CASES, CLIP_FRAMES = 64, 375  # a suite of clips of 5 seconds, by EnCodec 24 kHz


def large_shapes(device: str) -> list[Comparison]:
    """A step of rows and LoRA in bf16, the memory of logits, and golden decoding; not measured where there is no CUDA."""
    works: list[tuple[Comparison, Callable[[], Comparison]]] = [
        *((_mfu_row(size), lambda size=size: mfu(size, device, tokens_that_fit(size))) for size in QWEN3),
        (_logits_row("8B"), lambda: logits_memory("8B", device)),
        (_decode_row("0.6B", CASES), lambda: decode_roofline("0.6B", device)),
    ]
    if device == "cuda":
        return [_if_it_fits(row, work) for row, work in works]
    return [replace(row, figures={"how": f"not measured; on a GPU: {COMMAND}"}) for row, _ in works]


def _if_it_fits(row: Comparison, work: Callable[[], Comparison]) -> Comparison:
    """A row that a GPU has no memory for says so, and leaves the others theirs."""
    gc.collect()  # the model of the row before lies in cycles
    try:
        return work()
    except RuntimeError as error:
        reason = in_short(error)
        # torch's allocator says it with a class of its own; cuBLAS and graphs with words
        if not isinstance(error, torch.OutOfMemoryError) and not re.search("out of memory|ALLOC_FAILED", reason):
            raise
        return replace(row, what=f"{row.what}: out of memory", figures={"how": f"not measured: {reason}"})


def _mfu_row(size: str) -> Comparison:
    goal = Goal("≥", "0.45") if size == "8B" else None
    return Comparison(f"mfu_{_key(size)}", f"{size} rows + LoRA step, bf16, MFU", "989 TFLOP/s of an H100", goal)


def _logits_row(size: str) -> Comparison:
    what = f"{size} memory of logits at 16,384 tokens, GB"
    return Comparison(f"logits_{_key(size)}", what, "all supervised", Goal("≤", "0.3"))


def _decode_row(size: str, cases: int) -> Comparison:
    what = f"{size} golden decode, batch {cases}"
    return Comparison(f"decode_{_key(size)}", what, "bytes ÷ bandwidth", Goal("≤", "2", "× the roofline"))


def _key(size: str) -> str:
    return size.replace(".", "_")


def made(trunk: dict[str, Any], space: TokenSpace, device: str, dtype: torch.dtype) -> LumoModel:
    with torch.device(device):
        base = base_of(trunk, space.text_size, dtype=dtype)
    return LumoModel(base, space).to(device)


def tokens_that_fit(size: str) -> int:
    """Tokens of a step that a GPU has memory for, counted on a model without values. All 16,384 of 8B take 191 GB."""
    with torch.device("meta"):
        model = with_lora(base_of(QWEN3[size], TRUE_LAYOUT.text_size, dtype=torch.bfloat16).requires_grad_(False), 16)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    free = SPARE * torch.cuda.mem_get_info()[1] - weights
    return next((n for n in TOKENS if activation_bytes(model, n // 1024, 1024) < free), TOKENS[-1])


def mfu(
    size: str, device: str, tokens: int = 16_384, trunk: dict[str, Any] | None = None, space: TokenSpace = TRUE_LAYOUT
) -> Comparison:
    """Model FLOPs utilisation of a step on t2a sequences: twice the weights forward and twice back for the frozen ones, six times for
    LoRA's, and attention within each sequence; operations that a cleverer step leaves out don't count for it."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = made(trunk or QWEN3[size], space, device, dtype)
    model.add_lora(16)
    length = min(1024, tokens)
    sequences = lines("t2a", [(length - 32, 24)] * (tokens // length), space, 0)
    batch = pack(sequences, space.control("<|pad_mm|>"))
    step = lora_step(model, batch)
    peak = peak_bytes(step, device)
    seconds = float(np.median(alternate({"step": step}, 5, device)["step"]))
    config = model.base.get_base_model().config
    targets = sum(int(sequence.is_target.sum()) for sequence in sequences)
    head = config.hidden_size * (4 * config.vocab_size + 6 * space.new_rows)
    attention = 3 * 2 * length * config.num_attention_heads * config.head_dim * config.num_hidden_layers
    flops = batch.tokens * (model.step_flops_per_token() + attention) + targets * head
    share = flops / seconds / H100_FLOPS
    figures = {"flops": flops, "seconds": seconds, "tokens_per_s": batch.tokens / seconds, "peak_bytes": peak}
    return replace(_mfu_row(size), measured=Measured(share), figures=figures)


def logits_memory(
    size: str,
    device: str,
    tokens: int = TOKENS[0],
    trunk: dict[str, Any] | None = None,
    space: TokenSpace = TRUE_LAYOUT,
) -> Comparison:
    """What the loss takes at its peak above what it takes with 16 positions at a time: gradients of hidden states and rows aside."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    width, draw = (trunk or QWEN3[size])["hidden_size"], torch.Generator(device).manual_seed(0)
    make = partial(torch.randn, generator=draw, device=device)
    hidden, old = make(tokens, width, dtype=dtype).requires_grad_(), make(space.text_size, width, dtype=dtype)
    new, weights = make(space.new_rows, width).requires_grad_(), torch.ones(tokens, device=device)
    labels = torch.randint(space.text_size, space.size, (tokens,), generator=draw, device=device)

    def peak(chunk: int | None) -> int | None:
        return peak_bytes(
            lambda: split_cross_entropy(hidden, old, new, labels, weights, space.text_size, chunk), device
        )

    whole, least = peak(None), peak(16)
    if whole is None or least is None:
        return _logits_row(size)
    taken = Measured((whole - least) / 1e9)
    return replace(_logits_row(size), measured=taken, figures={"peak_bytes": whole, "tokens": tokens})


def decode_roofline(
    size: str,
    device: str,
    cases: int = CASES,
    frames: int = CLIP_FRAMES,
    trunk: dict[str, Any] | None = None,
    space: TokenSpace = TRUE_LAYOUT,
) -> Comparison:
    """Golden decoding beside the time that reading weights and cache takes at the bandwidth that a copy reaches."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = made(trunk or QWEN3[size], space, device, dtype)
    grammar = clip_grammar(space, frames)
    prompts = prompts_of(space, cases, 0)
    generate(model, prompts, grammar)
    synchronise(device)
    began = time.perf_counter()
    answers = generate(model, prompts, grammar)
    synchronise(device)
    seconds = time.perf_counter() - began
    config, width = model.base.config, torch.finfo(dtype).bits // 8
    body = sum(p.numel() for p in model.base.parameters()) - model.base.get_input_embeddings().weight.numel()
    cache = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * width
    longest, steps = max(map(len, prompts)), len(answers[0])
    read = steps * body * width + cases * cache * sum(longest + step for step in range(steps))
    roofline = read / bandwidth(device)
    figures = {"seconds": seconds, "roofline_seconds": roofline, "tokens_per_s": cases * steps / seconds}
    return replace(_decode_row(size, cases), measured=Measured(seconds / roofline), figures=figures)
