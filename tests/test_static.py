"""The static step gives what the growing one gives: the same ids, whatever lies in the part of a window that isn't filled."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import make_base
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from toys import make_samples, with_lora
from transformers import LlamaConfig, LlamaModel, Qwen3Config, Qwen3Model

from lumo import generation, static
from lumo.backbone import check_logits
from lumo.cache import RoomyCache
from lumo.generation import Sampling, generate
from lumo.model import LumoModel
from lumo.static import can_be_static, whole_windows
from lumo.tasks import TASKS


@pytest.fixture
def small_windows(monkeypatch):
    """So that an answer passes through several, and ends between two looks."""
    monkeypatch.setattr(static, "WINDOW", 8)
    monkeypatch.setitem(generation.LOOK_EVERY, "cpu", 16)


@pytest.fixture(params=["short step", "transformers' layers"])
def step(request, monkeypatch):
    """Both steps that are made static; the second is what half precision has."""
    if request.param != "short step":
        monkeypatch.setattr("lumo.model.short_step", lambda trunk, past: None)


def prompts_of(name, tokenizer, count=3):
    """Of different lengths, so that some are padded."""
    task = TASKS[name]
    samples = [sample for sample in make_samples(tokenizer, images=8, clips=8) if task.fits(sample)]
    return [task.prompt(sample.ids, tokenizer.space)[i:] for i, sample in enumerate(samples[:count])]


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0, seed=2)], ids=["greedy", "seeded"])
@pytest.mark.parametrize("name", ["t2a", "a2t"])
def test_ids_are_those_of_the_growing_step(tokenizer, small_windows, step, monkeypatch, name, sampling):
    model = with_lora(LumoModel(make_base(), tokenizer.space))
    grammar = TASKS[name].grammar(tokenizer, max_text_tokens=24)
    prompts = prompts_of(name, tokenizer)
    growing = generate(model, prompts, grammar, sampling)
    monkeypatch.setattr(LumoModel, "replays", True)
    made = generate(model, prompts, grammar, sampling)
    assert [answer.tolist() for answer in made] == [answer.tolist() for answer in growing]
    assert len({tuple(answer) for answer in made}) > 1, "all answers alike: a weak test"


@torch.inference_mode()
def test_in_half_precision_it_differs_by_rounding(tokenizer, small_windows, monkeypatch):
    """The same tokens read both ways: a wider window sums in another order."""
    model = with_lora(LumoModel(make_base().bfloat16(), tokenizer.space))
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, model.space.size, (3, 40)))
    seen = torch.arange(40) >= torch.tensor([0, 2, 5])[:, None]
    positions = (seen.cumsum(1) - 1).clamp(min=0)
    mask = (seen[:, None] & torch.ones(40, 40).tril().bool()) | torch.eye(40).bool()

    def read():
        with model.decoding(40) as cache:
            parts = [model.hidden(ids[:, :9], positions[:, :9], mask[:, None, :9, :9], cache)]
            for at in range(9, 40):
                here = slice(at, at + 1)
                parts.append(
                    model.hidden(ids[:, here], positions[:, here], mask[:, None, here, : at + 1], cache).clone()
                )
        return torch.cat(parts, 1)[seen].float()

    growing = read()
    monkeypatch.setattr(LumoModel, "replays", True)
    assert (read() - growing).std() < 0.01 * growing.std()


def test_a_cases_draws_do_not_depend_on_its_batch(model, tokenizer, small_windows, monkeypatch):
    monkeypatch.setattr(LumoModel, "replays", True)
    grammar = TASKS["t2i"].grammar(tokenizer, max_text_tokens=24)
    prompts, cases, sampling = prompts_of("t2i", tokenizer), [7, 3, 40], Sampling(1.0, seed=2)
    together = generate(with_lora(model), prompts, grammar, sampling, cases)
    for prompt, case, answer in zip(prompts, cases, together, strict=True):
        assert np.array_equal(generate(model, [prompt], grammar, sampling, [case])[0], answer)


class Tape(TorchDispatchMode):
    """A CUDA graph on a CPU: what a run does is recorded with the tensors it reads and writes, and done again on these very tensors."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, made))
        return made

    def replay(self):
        for function, args, kwargs, made in self.calls:
            for place, value in zip(tree_leaves(made), tree_leaves(function(*args, **kwargs)), strict=True):
                if isinstance(place, torch.Tensor) and place.data_ptr() != value.data_ptr():
                    place.copy_(value)


class Tapes:
    """In place of capture on CUDA."""

    def __init__(self):
        self.count = 0

    def __call__(self, run):
        run()  # the warm-up
        self.count += 1
        with Tape() as tape:
            result = run()
        return lambda: (tape.replay(), result)[1]


def taped(monkeypatch):
    tapes = Tapes()
    monkeypatch.setattr(LumoModel, "replays", True)
    monkeypatch.setattr("lumo.model.static_step", lambda step, cache, device: static._StaticStep(step, cache, tapes))
    return tapes


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0, seed=2)], ids=["greedy", "seeded"])
def test_a_replay_needs_no_python(model, tokenizer, small_windows, step, monkeypatch, sampling):
    """Recorded once for each window and then replayed: whatever changes from token to token has to stand in the recorded places."""
    grammar = TASKS["t2a"].grammar(tokenizer, max_text_tokens=24)
    prompts = prompts_of("t2a", tokenizer)
    growing = generate(with_lora(model), prompts, grammar, sampling)
    tapes = taped(monkeypatch)
    made = generate(model, prompts, grammar, sampling)
    assert [answer.tolist() for answer in made] == [answer.tolist() for answer in growing]
    width = max(map(len, prompts))
    assert tapes.count == len({whole_windows(width + n) for n in range(1, grammar.steps)}) > 2


def test_states_of_one_token_outlive_the_next(model, step, monkeypatch):
    """The comparison with transformers' own logits, at load, keeps those of two."""
    taped(monkeypatch)
    check_logits(model, "here")


@torch.no_grad()
def test_what_is_not_filled_does_not_show(model):
    """Of a cache that holds anything but numbers beyond what is filled: zeros stand there, as NaN times no weight is NaN."""
    cache = RoomyCache(2, 8)
    torch.empty(10_000).fill_(float("nan"))
    cache.update(torch.ones(1, 1, 3, 16), torch.ones(1, 1, 3, 16), 0)
    cache.fix(torch.tensor([3]), 8)
    keys, values = cache.update(torch.full((1, 1, 1, 16), 2.0), torch.full((1, 1, 1, 16), 2.0), 0)
    assert keys[0, 0, :, 0].tolist() == values[0, 0, :, 0].tolist() == [1, 1, 1, 2, 0, 0, 0, 0]
    cache.update(torch.full((1, 1, 1, 16), 5.0), torch.full((1, 1, 1, 16), 5.0), 0)
    assert keys[0, 0, :5, 0].tolist() == [1, 1, 1, 5, 0], "the same place, once more"


def test_a_cpu_keeps_the_growing_step(model):
    assert not model.replays
    with model.decoding(9) as decoding:
        assert decoding.past.layers[0].room == 9


@pytest.mark.parametrize(
    ("kind", "config", "options", "fit"),
    [
        (Qwen3Model, Qwen3Config, {}, True),
        (Qwen3Model, Qwen3Config, {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, False),
        (LlamaModel, LlamaConfig, {}, False),
    ],
    ids=["qwen3", "dynamic rotations", "llama"],
)  # fmt: skip
def test_only_what_never_looks_at_values_is_made_static(kind, config, options, fit):
    sizes = {"vocab_size": 11, "hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    assert can_be_static(kind(config(**sizes, **heads, **options))) == fit
