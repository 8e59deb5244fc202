"""A training step of the new rows, beside the two stock ways of training them.

Axes: b row · s step.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from lumo.batches import IGNORE, Batch, pack
from lumo.bench.measure import Comparison, Disagreement, Goal, Measured, alternate, operations, peak_bytes, ratios
from lumo.machine import gemm_rate
from lumo.model import LumoModel
from lumo.sequence import TokenSequence
from lumo.space import TokenSpace
from lumo.tasks import TASKS
from lumo.training import Feed

# Qwen3's embedding rows, SEED-2's 8,192 codes and four EnCodec codebooks of 1,024
TRUE_LAYOUT = TokenSpace(
    151_936, {}, {"codebooks": 1, "cardinality": 8192}, {"codebooks": 4, "cardinality": 1024}
)  # fmt: skip
SMALL_TRUNK = {
    "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 64, "tie_word_embeddings": True,
}  # fmt: skip


def base_of(trunk: dict[str, Any], rows: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Qwen3ForCausalLM:
    """A Qwen3 of random weights; its size is all that a benchmark looks at."""
    torch.manual_seed(seed)
    # made in its own type: 8B in fp32 would take 33 GB first
    return AutoModelForCausalLM.from_config(Qwen3Config(**trunk, vocab_size=rows), dtype=dtype).eval()


def lines(name: str, lengths: Sequence[tuple[int, int]], space: TokenSpace, seed: int) -> list[TokenSequence]:
    """Sequences of a task with random content. lengths: of the picture or clip, and of the text, in tokens."""
    rng = np.random.default_rng(seed)
    modality = "image" if "i" in name else "audio"
    blocks = [block for block in space.blocks if block.name.startswith(modality)]
    made = []
    for medium, text in lengths:
        starts = np.array([blocks[i % len(blocks)].start for i in range(medium)])
        ids = {modality: starts + rng.integers(0, blocks[0].size, medium), "text": rng.integers(0, 1000, text)}
        made.append(TASKS[name].sequence(ids, space))
    return made


def stage3_mix(space: TokenSpace, each: int, seed: int) -> list[TokenSequence]:
    """Half clips of 300 tokens, half pictures of 32, with captions of 10 to 25: a twelfth of the tokens is supervised."""
    rng = np.random.default_rng(seed)
    texts = rng.integers(10, 26, 2 * each)
    clips = lines("a2t", [(300, text) for text in texts[:each]], space, seed)
    return clips + lines("i2t", [(32, text) for text in texts[each:]], space, seed + 1)


def padded(sequences: Sequence[TokenSequence], device: str) -> dict[str, Tensor]:
    """The stock batch: a row each, padded to the longest."""
    longest = max(map(len, sequences))
    ids, labels = torch.zeros(len(sequences), longest, dtype=torch.long), torch.full((len(sequences), longest), IGNORE)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        line = torch.from_numpy(sequence.ids)
        ids[row, : len(line)], mask[row, : len(line)] = line, 1
        labels[row, : len(line)] = torch.where(torch.from_numpy(sequence.is_target), line, IGNORE)
    return {name: value.to(device) for name, value in
            (("input_ids", ids), ("attention_mask", mask), ("labels", labels))}  # fmt: skip


def uniform(groups: Tensor) -> Tensor:
    """Weights that make the mean over all tokens, whatever their task: what stock losses are."""
    return torch.full(groups.shape, 1 / len(groups), device=groups.device)


class _Stock:
    """A model that takes a padded batch and gives transformers' own loss."""

    model: nn.Module
    optimiser: torch.optim.Optimizer

    def backward(self, batch: dict[str, Tensor]) -> Tensor:
        loss = self.model(**batch, use_cache=False).loss
        loss.backward()
        return loss.detach()


class MaskedRows(_Stock):
    """Resize the embedding, train all of it, and take the old rows' gradient away."""

    def __init__(self, base: nn.Module, space: TokenSpace, rows: Tensor):
        self.model, self.first = base.requires_grad_(False), space.text_size
        self.model.resize_token_embeddings(space.size, mean_resizing=False)
        table = self.model.get_input_embeddings().weight.requires_grad_(True)
        table.data[self.first :] = rows
        table.register_hook(lambda grad: grad.index_fill(0, torch.arange(self.first, device=grad.device), 0.0))
        self.optimiser = torch.optim.AdamW([table], lr=0.0, weight_decay=0.0, fused=True)

    def gradient(self) -> Tensor:
        return self.model.get_input_embeddings().weight.grad[self.first :]


class TrainableTokens(_Stock):
    """peft's trainable tokens, which replace rows of the table at every step."""

    def __init__(self, base: nn.Module, space: TokenSpace, rows: Tensor):
        base.resize_token_embeddings(space.size, mean_resizing=False)
        base.get_input_embeddings().weight.data[space.text_size :] = rows
        # rank 1 on one projection, frozen: peft wants some LoRA to hang the tokens on, and a tied head then follows
        config = LoraConfig(
            r=1,
            target_modules=r".*layers\.0\.self_attn\.q_proj",
            trainable_token_indices=list(range(space.text_size, space.size)),
        )
        self.model = get_peft_model(base, config).eval()
        for name, value in self.model.named_parameters():
            if "lora_" in name:
                value.requires_grad_(False)
        (self.delta,) = [p for p in self.model.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW([self.delta], lr=0.0, weight_decay=0.0, fused=True)

    def gradient(self) -> Tensor:
        return self.delta.grad


class SplitRows:
    """lumo's way: rows of their own, packed sequences, the head where it is supervised."""

    def __init__(self, base: nn.Module, space: TokenSpace, rows: Tensor):
        self.model = LumoModel(base, space).to(rows.device)
        self.model.new_rows.data.copy_(rows)
        self.optimiser = torch.optim.AdamW(self.model.row_parameters(), lr=0.0, weight_decay=0.0, fused=True)

    def gradient(self) -> Tensor:
        return self.model.new_rows.grad

    def backward(self, sequences: Sequence[TokenSequence]) -> Tensor:
        batch = pack(sequences, self.model.space.control("<|pad_mm|>"))
        loss, _, _ = self.model.loss(batch, uniform)
        loss.backward()
        return loss.detach()


Way = SplitRows | MaskedRows | TrainableTokens
AGAINST = {"masked": "resize, masked gradients, full logits", "peft": "peft trainable tokens, transformers' loss"}


def rows_step(
    device: str = "cpu",
    trunk: dict[str, Any] = SMALL_TRUNK,
    space: TokenSpace = TRUE_LAYOUT,
    each: int = 4,
    rounds: int = 3,
) -> list[Comparison]:
    """A stage 3 step beside both stock ways: tokens a second and peak memory. Raises Disagreement."""
    base = base_of(trunk, space.text_size).to(device)
    rows = torch.randn(space.new_rows, base.config.hidden_size, generator=torch.Generator().manual_seed(1)) * 0.02
    sequences = stage3_mix(space, each, seed=0)
    stock = padded(sequences, device)
    ways: dict[str, tuple[Way, Any]] = {
        "split": (SplitRows(copy.deepcopy(base), space, rows.to(device)), sequences),
        "masked": (MaskedRows(copy.deepcopy(base), space, rows.to(device)), stock),
        "peft": (TrainableTokens(copy.deepcopy(base), space, rows.to(device)), stock),
    }
    results = {name: (way.backward(data), way.gradient().clone()) for name, (way, data) in ways.items()}
    for name in AGAINST:
        _agree(f"rows step, split and {name}", results["split"], results[name])
    steps = {name: _step(way, data) for name, (way, data) in ways.items()}
    peaks = {name: peak_bytes(step, device) for name, step in steps.items()}
    seconds = alternate(steps, rounds, device)
    tokens = sum(map(len, sequences))
    return [row for name in AGAINST for row in _beside(name, seconds, peaks, tokens)]


def _beside(
    name: str, seconds: Mapping[str, list[float]], peaks: Mapping[str, int | None], tokens: int
) -> Iterator[Comparison]:
    """Ours and one of the others: the speed, and the memory where the system tells it. tokens: of a step"""
    figures: dict[str, Any] = {
        f"{side}_tokens_per_s": tokens / float(np.median(seconds[side])) for side in ("split", name)
    }
    figures |= {f"{side}_peak_bytes": peaks[side] for side in ("split", name)}
    faster = ratios(seconds["split"], seconds[name])
    what = "stage 3 step, true vocabulary, tokens/s"
    yield Comparison(f"rows_step_{name}", what, AGAINST[name], Goal("≥", "8", "×"), faster, figures)
    if peaks["split"] is not None:
        share = Measured(peaks["split"] / peaks[name])
        what = "the same, peak memory"
        yield Comparison(f"rows_memory_{name}", what, AGAINST[name], Goal("≤", "1/3"), share, figures)


def _step(way: Way, data: Any) -> Callable[[], None]:
    """data: a batch as this way takes it"""

    def step() -> None:
        way.backward(data)
        way.optimiser.step()
        way.optimiser.zero_grad(set_to_none=True)

    return step


def _agree(what: str, ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> None:
    """Loss within 1e-4, gradient within a thousandth of its largest entry: what fp32 sums in another order leave."""
    loss, gradient = ((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True))
    largest = theirs[1].abs().max().item()
    if loss > 1e-4 * theirs[0].item() or gradient > 1e-3 * largest:
        raise Disagreement(f"{what}: losses differ by {loss:.2e}, gradients by {gradient:.2e} of {largest:.2e}")


def lora_step(model: LumoModel, batch: Batch) -> Callable[[], None]:
    """A training step of rows and LoRA, to be run again and again: its learning rate is 0."""
    optimiser = torch.optim.AdamW([*model.row_parameters(), *model.lora_parameters()], lr=0.0, fused=True)
    model.train()

    def step() -> None:
        model.loss(batch, uniform)[0].backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


def step_rate(model: LumoModel, sequences: Sequence[TokenSequence], rounds: int, device: str = "cpu") -> Comparison:
    """A training step's floating-point operations a second, beside the machine's matrix product. Counted, not estimated."""
    batch = pack(sequences, model.space.control("<|pad_mm|>"))
    step = lora_step(model, batch)
    flops = operations(step)
    dtype = next(model.base.parameters()).dtype
    seconds = alternate({"step": step}, rounds, device)["step"]
    rate = gemm_rate(device, dtype)
    shares = [flops / second / rate for second in seconds]
    figures = {"flops": flops, "gemm_flops_per_s": rate, "tokens_per_s": batch.tokens / float(np.median(seconds))}
    share = Measured(float(np.median(shares)), min(shares), max(shares))
    what = "mini training step, rows and LoRA, operations/s"
    return Comparison("step_rate", what, "this machine's fp32 GEMM rate", Goal("≥", "0.70"), share, figures)


def padding(feed: Feed, model: LumoModel, steps: int) -> Comparison:
    """Real tokens of those computed, over batches that training draws."""
    goal = Goal("≥", "0.98" if model.skips else "0.95")
    batches = (feed.at(step) for step in range(0, steps, max(1, steps // 300)))
    shares = [batch.tokens / model.computed_tokens(batch) for batch in batches]
    share = Measured(float(np.mean(shares)), min(shares), max(shares))
    return Comparison("padding", "real tokens", "tokens computed", goal, share)
