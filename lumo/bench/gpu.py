"""Large shapes with random weights, where there is a GPU; elsewhere the rows say that they weren't measured.

The same functions run tiny shapes on a CPU in the tests.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from lumo.batches import pack
from lumo.bench.generation import clip_grammar, prompts_of
from lumo.bench.measure import Comparison, alternate, peak_bytes
from lumo.bench.training import TRUE_LAYOUT, base_of, lines, uniform
from lumo.generation import generate
from lumo.machine import bandwidth, synchronise
from lumo.model import LumoModel
from lumo.space import TokenSpace

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


def large_shapes(device: str) -> list[Comparison]:
    """8B rows and LoRA in bf16, and 0.6B golden decoding; not measured where there is no CUDA."""
    if device != "cuda":
        missing = f"not measured; on a GPU: {COMMAND}"
        return [
            Comparison("mfu_8B", "8B rows + LoRA step, bf16, MFU", "989 TFLOP/s of an H100", "≥ 0.45",
                       figures={"how": missing}),
            Comparison("decode_0_6B", "0.6B golden decode, batch 64", "bytes ÷ bandwidth", "≤ 2 × the roofline",
                       figures={"how": missing}),
        ]  # fmt: skip
    return [mfu("8B", device), decode_roofline("0.6B", device)]


def made(trunk: dict[str, Any], space: TokenSpace, device: str, dtype: torch.dtype) -> LumoModel:
    with torch.device(device):
        base = base_of(trunk, space.text_size, dtype=dtype)
    return LumoModel(base, space).to(device)


def mfu(
    size: str, device: str, tokens: int = 16_384, trunk: dict[str, Any] | None = None, space: TokenSpace = TRUE_LAYOUT
) -> Comparison:
    """Model FLOPs utilisation of a step on t2a sequences: twice the weights forward and twice back for the frozen ones, six times for
    LoRA's, and attention within each sequence; operations that a cleverer step leaves out don't count for it."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = made(trunk or QWEN3[size], space, device, dtype)
    model.add_lora(16)
    model.train()
    length = min(1024, tokens)
    sequences = lines("t2a", [(length - 32, 24)] * (tokens // length), space, 0)
    batch = pack(sequences, space.control("<|pad_mm|>"))
    optimiser = torch.optim.AdamW([*model.row_parameters(), *model.lora_parameters()], lr=0.0, fused=True)

    def step() -> None:
        model.loss(batch, uniform)[0].backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    peak = peak_bytes(step, device)
    seconds = float(np.median(alternate({"step": step}, 5, device)["step"]))
    config = model.base.get_base_model().config
    targets = sum(int(sequence.is_target.sum()) for sequence in sequences)
    head = config.hidden_size * (4 * config.vocab_size + 6 * space.new_rows)
    attention = 3 * 2 * length * config.num_attention_heads * config.head_dim * config.num_hidden_layers
    flops = batch.tokens * (model.step_flops_per_token() + attention) + targets * head
    share = flops / seconds / H100_FLOPS
    figures = {"flops": flops, "seconds": seconds, "tokens_per_s": batch.tokens / seconds, "peak_bytes": peak}
    return Comparison(f"mfu_{size}", f"{size} rows + LoRA step, bf16, MFU", "989 TFLOP/s of an H100", "≥ 0.45",
                      share, None, None, share >= 0.45, figures)  # fmt: skip


def decode_roofline(
    size: str,
    device: str,
    cases: int = 64,
    frames: int = 64,
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
    return Comparison(f"decode_{size.replace('.', '_')}", f"{size} golden decode, batch {cases}", "bytes ÷ bandwidth",
                      "≤ 2 × the roofline", seconds / roofline, None, None, seconds <= 2 * roofline, figures)  # fmt: skip
