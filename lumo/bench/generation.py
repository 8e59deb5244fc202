"""Golden generation beside transformers' `generate` with a Python callback, and beside one case at a time."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from lumo.bench.measure import Comparison, Disagreement, Goal, alternate, ratios
from lumo.bench.training import SMALL_TRUNK, TRUE_LAYOUT, base_of
from lumo.generation import Grammar, generate, media_grammar
from lumo.model import LumoModel
from lumo.space import TokenSpace


def prompts_of(space: TokenSpace, count: int, seed: int) -> list[np.ndarray]:
    """Captions of 8 to 24 random tokens, asking for a clip."""
    rng = np.random.default_rng(seed)
    tail = [space.control(token) for token in ("<|text_end|>", "<|gen_aud|>", "<|aud_start|>")]
    start = space.control("<|text_start|>")
    return [np.array([start, *rng.integers(0, 700, rng.integers(8, 25)), *tail]) for _ in range(count)]


def clip_grammar(space: TokenSpace, frames: int) -> Grammar:
    """Clips of just so many frames."""
    blocks = [block for block in space.blocks if block.name.startswith("audio")]
    return media_grammar(blocks, space.control("<|aud_end|>"), frames, frames)


class Stock:
    """The merged model in transformers' `generate`, its choice narrowed by `prefix_allowed_tokens_fn`."""

    def __init__(self, model: LumoModel):
        self.pad = model.space.control("<|pad_mm|>")
        self.model = copy.deepcopy(model.base)
        self.model.resize_token_embeddings(model.space.size, mean_resizing=False)
        self.model.get_input_embeddings().weight.data[model.space.text_size :] = model.new_rows.data

    def __call__(self, prompts: Sequence[np.ndarray], grammar: Grammar) -> list[list[int]]:
        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), self.pad)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :], mask[row, width - len(prompt) :] = torch.from_numpy(prompt), 1
        device = self.model.device
        allowed = [grammar.at(step).tolist() for step in range(grammar.steps)]
        made = self.model.generate(
            ids.to(device), attention_mask=mask.to(device), do_sample=False, max_new_tokens=grammar.steps,
            eos_token_id=grammar.end, pad_token_id=grammar.end,
            prefix_allowed_tokens_fn=lambda _, seen: allowed[len(seen) - width],
        )  # fmt: skip
        return [[token for token in row if token != grammar.end] for row in made[:, width:].tolist()]


def against_stock(
    model: LumoModel, frames: int, name: str, what: str, goal: float, cases: int = 64, rounds: int = 2
) -> list[Comparison]:
    """64 cases at once, beside stock and beside one case at a time; all three must give the same ids. Raises Disagreement."""
    space = model.space
    grammar = clip_grammar(space, frames)
    prompts = prompts_of(space, cases, seed=0)
    stock, few = Stock(model), prompts[:4]
    ours = [answer.tolist() for answer in generate(model, prompts, grammar)]
    if ours != stock(prompts, grammar):
        raise Disagreement(f"{name}: greedy ids differ from those of transformers' generate")
    if ours[: len(few)] != [generate(model, [prompt], grammar)[0].tolist() for prompt in few]:
        raise Disagreement(f"{name}: greedy ids of one case depend on the others in its batch")
    seconds = alternate(
        {
            "batch": lambda: generate(model, prompts, grammar),
            "stock": lambda: stock(prompts, grammar),
            "single": lambda: [generate(model, [prompt], grammar) for prompt in few],
        },
        rounds,
        model.new_rows.device.type,
    )
    tokens = sum(map(len, ours))
    rates = {"batch": tokens, "stock": tokens, "single": sum(map(len, ours[: len(few)]))}
    figures: dict[str, Any] = {
        f"{side}_tokens_per_s": count / float(np.median(seconds[side])) for side, count in rates.items()
    }
    faster = ratios(seconds["batch"], seconds["stock"])
    than_alone = ratios(seconds["batch"], seconds["single"], tokens / rates["single"])
    against = "transformers generate + prefix_allowed_tokens_fn"
    return [
        Comparison(f"{name}_stock", what, against, Goal("≥", f"{goal:g}", "×"), faster, figures),
        Comparison(f"{name}_single", what, "one case at a time", Goal("≥", "10", "×"), than_alone, figures),
    ]


def true_layout(
    device: str = "cpu", trunk: dict[str, Any] = SMALL_TRUNK, space: TokenSpace = TRUE_LAYOUT, frames: int = 8
):
    """Golden generation with a small trunk and the true vocabulary."""
    model = LumoModel(base_of(trunk, space.text_size), space).to(device)
    return against_stock(model, frames, "generation_true", "golden generation, 64 cases, true vocabulary, tokens/s", 5)
