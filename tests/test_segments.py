"""Attention within segments: the dense mask's hidden states and gradients, with nothing computed between segments."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from toys import make_samples, with_lora

from lumo import segments
from lumo.batches import Batch, pack
from lumo.model import LumoModel
from lumo.segments import Segments, attend, attention_within
from lumo.tasks import TASKS


@pytest.fixture
def batch(tokenizer) -> Batch:
    """Rows of several sequences, with padding."""
    samples = make_samples(tokenizer, images=3, clips=2)
    pairs = [(n, s) for n, task in enumerate(TASKS.values()) for s in samples if task.fits(s)]
    sequences = [list(TASKS.values())[n].sequence(s.ids, tokenizer.space) for n, s in pairs]
    made = pack(sequences, tokenizer.space.control("<|pad_mm|>"), [n for n, _ in pairs])
    assert made.segment_ids.max() > 1 and made.real_share < 1, "a test of nothing"
    return made


@settings(deadline=None, max_examples=30)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5), shared=st.integers(1, 3), seed=st.integers(0, 99))
def test_each_segment_attends_to_itself_alone(lengths, shared, seed):
    generator = torch.Generator().manual_seed(seed)
    query, key, value = (
        torch.randn(1, heads, sum(lengths), 8, generator=generator, dtype=torch.float64, requires_grad=True)
        for heads in (2 * shared, 2, 2)
    )
    owner = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    mask = (owner[:, None] == owner) & torch.ones(len(owner), len(owner)).tril().bool()
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.3, enable_gqa=True)
    made, _ = attend(torch.nn.Identity(), query, key, value, None, segments=Segments.of(lengths, "cpu"), scaling=0.3)
    torch.testing.assert_close(made.transpose(1, 2), expected)
    weights = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    wanted = torch.autograd.grad(expected, (query, key, value), weights)
    torch.testing.assert_close(torch.autograd.grad(made.transpose(1, 2), (query, key, value), weights), wanted)


def test_the_one_kernel_is_asked_for_the_same(monkeypatch):
    """What stands in for it reads its arguments as PyTorch describes them: [steps, heads, head], bounds, causal by window."""

    def plain(query, key, value, begins, ends, longest, longest_key, *, scale, window_size, enable_gqa=True):
        assert torch.equal(begins, ends) and begins.dtype == torch.int32 and longest == longest_key == 4
        assert window_size == (-1, 0) and enable_gqa
        spans = [slice(a, b) for a, b in zip(begins.tolist(), begins.tolist()[1:], strict=False)]
        parts = [[part[span].transpose(0, 1) for part in (query, key, value)] for span in spans]
        made = [F.scaled_dot_product_attention(*part, is_causal=True, scale=scale, enable_gqa=True) for part in parts]
        return torch.cat(made, 1).transpose(0, 1)

    query, key, value = (torch.randn(1, heads, 8, 16) for heads in (4, 2, 2))
    given = (torch.nn.Identity(), query, key, value, None)
    expected, _ = attend(*given, segments=Segments.of([3, 4, 1], "cpu"), scaling=0.3)
    monkeypatch.setattr(segments, "can_use_flash_attention", lambda asked: True)
    monkeypatch.setattr(segments, "varlen_attn", plain)
    made, _ = attend(*given, segments=Segments.of([3, 4, 1], "cpu"), scaling=0.3)
    torch.testing.assert_close(made, expected)


def test_heads_of_other_than_whole_eights_are_kept_from_the_one_kernel(monkeypatch):
    """scaled_dot_product_attention pads them, so it says that FlashAttention would do."""
    monkeypatch.setattr(segments, "can_use_flash_attention", lambda asked: True)
    monkeypatch.setattr(segments, "varlen_attn", lambda *given, **how: pytest.fail("asked for heads of 12"))
    query, key, value = (torch.randn(1, 2, 8, 12) for _ in range(3))
    made, _ = attend(torch.nn.Identity(), query, key, value, None, segments=Segments.of([3, 5], "cpu"), scaling=0.3)
    assert made.shape == (1, 8, 2, 12)


def test_the_one_kernel_takes_these_arguments(monkeypatch):
    """PyTorch's own function, on tensors without values."""
    monkeypatch.setattr(segments, "can_use_flash_attention", lambda asked: True)
    query, key, value = (torch.empty(1, heads, 8, 16, dtype=torch.bfloat16, device="meta") for heads in (4, 2, 2))
    made, _ = attend(torch.nn.Identity(), query, key, value, None, segments=Segments.of([3, 4, 1], "meta"), scaling=0.3)
    assert made.shape == (1, 8, 4, 16)


def test_one_row_has_the_real_tokens_in_their_order(batch):
    row, real = batch.in_one_row(), batch.segment_ids > 0
    assert row.real_share == 1 and row.tokens == batch.tokens
    for name in ("input_ids", "labels", "position_ids", "groups"):
        assert torch.equal(getattr(row, name)[0], getattr(batch, name)[real])
    lengths = [int(n) for here in batch.segment_ids for n in here.bincount()[1:]]
    assert row.segment_lengths() == lengths
    again = row.in_one_row()
    assert torch.equal(again.segment_ids, row.segment_ids) and torch.equal(again.input_ids, row.input_ids)


@pytest.mark.parametrize("lora", [False, True])
def test_losses_and_gradients_are_those_of_the_dense_mask(model, batch, monkeypatch, lora):
    if lora:
        with_lora(model)
    trained = [*model.row_parameters(), *model.lora_parameters()]

    def step():
        total, losses, groups = model.loss(batch, lambda groups: 1.0 + groups)
        return total, losses, groups, torch.autograd.grad(total, trained)

    total, losses, groups, gradients = step()
    monkeypatch.setattr(LumoModel, "skips", True)
    ours = step()
    torch.testing.assert_close(ours[:2], (total, losses), rtol=1e-5, atol=1e-5)
    assert torch.equal(ours[2], groups)
    for mine, dense in zip(ours[3], gradients, strict=True):
        torch.testing.assert_close(mine, dense, rtol=1e-4, atol=1e-5 * float(dense.abs().max()))


def test_no_mask_is_made_and_the_model_is_left_as_it_was(model, batch, monkeypatch):
    before = model.base.model.config._attn_implementation
    monkeypatch.setattr(LumoModel, "skips", True)
    monkeypatch.setattr(Batch, "attention_mask", lambda self: pytest.fail("a mask was made"))
    model.token_losses(batch)
    assert model.base.model.config._attn_implementation == before
    with pytest.raises(RuntimeError, match="inside"), attention_within(model.base.model):
        raise RuntimeError("inside")
    assert model.base.model.config._attn_implementation == before


def test_a_cpu_keeps_its_rows_and_masks(model, batch):
    assert not model.skips and model.computed_tokens(batch) == batch.input_ids.numel()


def test_dropout_is_not_swallowed():
    """transformers' layers ask for it in training where their config has it, GPT-2's by default."""
    query, key, value = (torch.randn(1, 2, 8, 4) for _ in range(3))
    within = {"segments": Segments.of([3, 5], "cpu"), "scaling": 0.3}
    kept, dropped = (attend(torch.nn.Identity(), query, key, value, None, dropout=p, **within)[0] for p in (0.0, 1.0))
    assert kept.abs().min() > 0 and not dropped.any()
