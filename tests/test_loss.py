"""The chunked loss: the naive one's values and gradients, whatever the chunk."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from lumo.loss import split_cross_entropy


def case(m: int, old: int, new: int, gap: int, seed: int, dtype=torch.float64):
    rng = torch.Generator().manual_seed(seed)
    hidden, base, rows = (torch.randn(n, 5, generator=rng, dtype=dtype) * 2 for n in (m, old, new))
    text_size = old + gap
    ids = torch.cat([torch.arange(old), text_size + torch.arange(new)])
    labels = ids[torch.randint(len(ids), (m,), generator=rng)]
    return hidden, base, rows, labels, torch.rand(m, generator=rng, dtype=dtype), text_size


def naive(hidden, base, rows, labels, weights, text_size):
    gap = torch.full((len(hidden), text_size - len(base)), float("-inf"), dtype=hidden.dtype)
    losses = F.cross_entropy(torch.cat([hidden @ base.T, gap, hidden @ rows.T], 1), labels, reduction="none")
    return (losses * weights).sum(), losses


@settings(deadline=None, max_examples=50)
@given(
    st.integers(1, 12), st.integers(1, 9), st.integers(1, 9), st.integers(0, 3), st.integers(1, 13), st.integers(0, 999)
)
def test_values_and_gradients_are_the_naive_ones(m, old, new, gap, chunk, seed):
    given = case(m, old, new, gap, seed)
    results = []
    for compute in (lambda *a: split_cross_entropy(*a, chunk), naive):
        hidden, rows = (given[i].clone().requires_grad_() for i in (0, 2))
        total, losses = compute(hidden, given[1], rows, *given[3:])
        (3 * total).backward()  # an upstream factor must come through
        results.append((total, losses, hidden.grad, rows.grad))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)


def test_what_needs_no_gradient_gets_none():
    hidden, base, rows, *rest = case(6, 4, 3, 1, 0)
    rows.requires_grad_()
    split_cross_entropy(hidden, base, rows, *rest)[0].backward()
    assert rows.grad is not None and hidden.grad is None
    with torch.no_grad():
        assert not split_cross_entropy(hidden, base, rows, *rest)[0].requires_grad


def test_rows_stay_fp32_beside_a_bf16_base():
    hidden, base, rows, labels, weights, text_size = case(64, 40, 30, 2, 0, torch.float32)
    low, rows = hidden.bfloat16().requires_grad_(), rows.requires_grad_()
    total, losses = split_cross_entropy(low, base.bfloat16(), rows, labels, weights, text_size, 7)
    total.backward()
    assert (losses.dtype, rows.grad.dtype, low.grad.dtype) == (torch.float32, torch.float32, torch.bfloat16)
    torch.testing.assert_close(losses, naive(hidden, base, rows, labels, weights, text_size)[1], rtol=0.02, atol=0.1)


def test_a_head_that_trains_is_refused():
    hidden, base, *rest = case(2, 3, 3, 0, 0)
    with pytest.raises(ValueError, match="the base's head is to be frozen"):
        split_cross_entropy(hidden, base.requires_grad_(), *rest)
