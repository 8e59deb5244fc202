"""The short step: transformers' own hidden states, and transformers' own way wherever it would not give them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, inject_adapter_in_model
from transformers import LlamaConfig, LlamaModel, Qwen3Config, Qwen3Model

from lumo.cache import RoomyCache
from lumo.decoder import short_step
from lumo.lora import fold

SIZES = {"vocab_size": 11, "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 2, "head_dim": 8,
         "max_position_embeddings": 64}  # fmt: skip


def trunk(kind=Qwen3Model, config=Qwen3Config, heads=4, kv_heads=2, seed=0, dtype=torch.float64, **options):
    torch.manual_seed(seed)
    sizes = SIZES | {"num_attention_heads": heads, "num_key_value_heads": kv_heads}
    made = kind(config(**sizes, **options, attn_implementation="sdpa")).to(dtype).eval()
    with torch.no_grad():
        for weight in made.parameters():  # norms start at 1, where forgetting one wouldn't show
            weight.normal_(mean=0.5 if weight.dim() == 1 else 0.0, std=0.5)
    return made


def with_lora(made, **options):
    made = inject_adapter_in_model(
        LoraConfig(r=3, target_modules="all-linear", init_lora_weights=False, **options), made
    )
    fold(made)
    return made


@torch.no_grad()
def read(made, cache, x, mask, positions, step=None):
    """New steps one after the other, after a prompt: the last hidden states of each."""
    prompt = mask.shape[1] - x.shape[1] + 4
    causal = (mask[:, None, None, :4] & torch.ones(4, 4).tril().bool()) | torch.eye(4).bool()
    found = [
        made(inputs_embeds=x[:, :4], attention_mask=causal, position_ids=positions[:, :4], past_key_values=cache)[0]
    ]
    for at in range(prompt, mask.shape[1]):
        now, where, seen = x[:, at : at + 1], positions[:, at : at + 1], mask[:, None, None, : at + 1]
        if step:
            found.append(step(now, where, seen))
        else:
            found.append(made(inputs_embeds=now, attention_mask=seen, position_ids=where, past_key_values=cache)[0])
    return torch.cat(found[1:], 1)


@settings(deadline=None, max_examples=40)
@given(
    kv_heads=st.integers(1, 3), queries=st.integers(1, 3), cases=st.integers(1, 4), lora=st.booleans(),
    rope=st.sampled_from(["default", "yarn"]), left=st.lists(st.integers(0, 3), min_size=4, max_size=4), seed=st.integers(0, 99),
)  # fmt: skip
def test_it_gives_what_transformers_gives(kv_heads, queries, cases, lora, rope, left, seed):
    """With rotary embeddings that scale what they turn (yarn) too, and prompts that are padded on the left."""
    rotary = {"rope_type": rope, "rope_theta": 100.0} | ({"factor": 2.0} if rope == "yarn" else {})
    made = trunk(heads=queries * kv_heads, kv_heads=kv_heads, seed=seed, rope_parameters=rotary)
    if lora:
        made = with_lora(made)
    x = torch.randn(cases, 9, 12, dtype=torch.float64)
    mask = torch.arange(9) >= torch.tensor(left[:cases])[:, None]
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    ours, theirs = RoomyCache(2, 9), RoomyCache(2, 9)
    step = short_step(made, ours)
    assert step is not None
    # transformers' norms go through fp32, whatever the weights are
    close = {"rtol": 1e-5, "atol": 1e-5}
    got, expected = read(made, ours, x, mask, positions, step), read(made, theirs, x, mask, positions)
    torch.testing.assert_close(got, expected, **close)
    for mine, stock in zip(ours.layers, theirs.layers, strict=True):
        torch.testing.assert_close((mine.keys, mine.values), (stock.keys, stock.values), **close)


def test_nothing_is_written_into_the_weights():
    made = with_lora(trunk())
    before = {name: value.clone() for name, value in made.state_dict().items()}
    cache = RoomyCache(2, 9)
    mask = torch.ones(2, 9).bool()
    read(made, cache, torch.randn(2, 9, 12).double(), mask, mask.cumsum(1) - 1, short_step(made, cache))
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())


@pytest.mark.parametrize(
    "other",
    [
        lambda: trunk(LlamaModel, LlamaConfig),
        lambda: trunk(attention_bias=True),
        lambda: trunk(dtype=torch.bfloat16),
        lambda: trunk(use_sliding_window=True, sliding_window=4, max_window_layers=1),
        lambda: with_lora(trunk(), use_dora=True),
        lambda: with_lora(trunk(), lora_bias=True),
    ],
    ids=["llama", "bias", "bf16", "sliding", "dora", "lora bias"],
)
def test_other_models_keep_transformers_way(other):
    assert short_step(other(), RoomyCache(2, 9)) is None
