"""Folded LoRA: peft's values and gradients, and peft's own way wherever folding would not be that."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear
from torch import nn

from lumo.lora import FoldedLinear, fold, merged


def peft_model(inputs=7, outputs=5, rank=3, bias=False, dtype=torch.float64, seed=0, **options):
    torch.manual_seed(seed)
    plain = nn.Sequential(nn.Linear(inputs, outputs, bias=bias)).to(dtype)
    model = get_peft_model(plain, LoraConfig(r=rank, lora_alpha=5, target_modules=["0"], **options))
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter)  # peft starts B at 0, where nothing could differ
    return model


def folded(model):
    other = copy.deepcopy(model)
    fold(other)
    (layer,) = [layer for layer in other.modules() if isinstance(layer, Linear)]
    assert type(layer) is FoldedLinear
    return other, layer


def run(model, x):
    x = x.clone().requires_grad_()
    out = model(x)
    out.sin().sum().backward()
    return [out, x.grad, *(p.grad for p in model.parameters() if p.grad is not None)]


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 9), st.integers(1, 9), st.integers(1, 6), st.lists(st.integers(1, 5), min_size=1, max_size=3),
    st.booleans(), st.integers(0, 99),
)  # fmt: skip
def test_values_and_gradients_are_pefts(inputs, outputs, rank, shape, bias, seed):
    theirs = peft_model(inputs, outputs, rank, bias, seed=seed)
    ours, _ = folded(theirs)
    x = torch.randn(*shape, inputs, dtype=torch.float64)
    for got, expected in zip(run(ours, x), run(theirs, x), strict=True):
        torch.testing.assert_close(got, expected)


def test_enough_tokens_are_folded_and_few_are_not(monkeypatch):
    ours, _ = folded(peft_model(8, 8, 2))
    asked = []
    monkeypatch.setattr("lumo.lora._whole", lambda *given: asked.append(1) or torch.addmm(given[0], given[2], given[1]))
    ours(torch.randn(3, 8, dtype=torch.float64))
    assert not asked
    ours(torch.randn(2, 2, 8, dtype=torch.float64))
    assert asked


@pytest.mark.parametrize("bias", [False, True])
def test_merged_for_a_while_gives_the_same_and_leaves_no_trace(bias):
    theirs = peft_model(bias=bias)
    ours, layer = folded(theirs)
    before = layer.base_layer.weight.clone()
    x = torch.randn(2, 7, dtype=torch.float64)
    with merged(ours):
        torch.testing.assert_close(ours(x), theirs(x))
        assert layer.kept is not None
    assert layer.kept is None
    assert torch.equal(layer.base_layer.weight, before)
    with pytest.raises(ZeroDivisionError), merged(ours):
        raise ZeroDivisionError
    assert layer.kept is None


def test_an_adapter_that_is_switched_off_merged_or_doubled_is_pefts_business():
    x = torch.randn(50, 7, dtype=torch.float64)
    theirs = peft_model()
    ours, layer = folded(theirs)
    with ours.disable_adapter(), theirs.disable_adapter(), merged(ours):
        assert not layer.can_fold()
        assert torch.equal(ours(x), theirs(x))
    ours.merge_adapter()
    assert not layer.can_fold()
    torch.testing.assert_close(ours(x), theirs(x))
    ours.unmerge_adapter()
    for model in (ours, theirs):
        torch.manual_seed(3)
        model.add_adapter("second", LoraConfig(r=2, target_modules=["0"], init_lora_weights=False))
        model.base_model.set_adapter(["default", "second"])
    assert not layer.can_fold()
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize(
    "options", [{"use_dora": True}, {"lora_dropout": 0.5}, {"lora_bias": True, "bias": True}, {"dtype": torch.bfloat16}]
)
def test_what_is_more_than_plain_lora_is_left_to_peft(options):
    kind = {"bias": options.pop("bias", False), "dtype": options.pop("dtype", torch.float32)}
    theirs = peft_model(**kind, **options).eval()
    ours, layer = folded(theirs)
    assert not layer.can_fold()
    x = torch.randn(60, 7, dtype=kind["dtype"])
    assert torch.equal(ours(x), theirs(x))


def test_a_weight_that_trains_gets_its_gradient():
    theirs = peft_model()
    ours, layer = folded(theirs)
    layer.base_layer.weight.requires_grad_()
    ours(torch.randn(60, 7, dtype=torch.float64)).sum().backward()
    assert layer.base_layer.weight.grad is not None


def test_it_saves_and_merges_as_pefts_own(tmp_path):
    theirs = peft_model()
    ours, _ = folded(theirs)
    ours.save_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    saved = [(tmp_path / side / "adapter_model.safetensors").read_bytes() for side in ("ours", "theirs")]
    assert saved[0] == saved[1]
    x = torch.randn(60, 7, dtype=torch.float64)
    expected = theirs(x)
    torch.testing.assert_close(copy.deepcopy(ours).merge_and_unload()(x), expected)
