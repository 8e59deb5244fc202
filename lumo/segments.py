"""Attention within segments: kernels that never compute what lies between them.

The segments of a batch stand one after the other in a single row, and a step looks back to the beginning of its own. A dense mask says
the same, but every pair of steps is then computed before most are thrown away.

transformers hands what it doesn't know on to the attention function, so this one is registered beside its own (transformers 5,
`AttentionInterface`).

Axes: h head of a query · k head of keys and values · s step of all segments · e of a head · g segment.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.backends.cuda import SDPAParams, can_use_flash_attention
from torch.nn import functional as F
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface

NAME = "lumo_segments"
# torch 2.11 lets queries share keys and values without being told
SHARED = {"enable_gqa": True} if "enable_gqa" in signature(varlen_attn).parameters else {}


@dataclass(frozen=True)
class Segments:
    """bounds: where segments begin in the row, and where the last one ends; on the model's device.
    lengths: the same for Python, so that no layer waits for the device to tell."""

    bounds: Int[Tensor, "g+1"]
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device | str) -> Segments:
        bounds = torch.tensor([0, *lengths]).cumsum(0)
        return cls(bounds.to(device, torch.int32), tuple(lengths))


@contextmanager
def attention_within(trunk: nn.Module) -> Iterator[None]:
    """Let a trunk's layers take `segments=` for a while, in place of a mask."""
    before = trunk.config._attn_implementation
    trunk.config._attn_implementation = NAME
    try:
        yield
    finally:
        trunk.config._attn_implementation = before


def attend(
    module: nn.Module,
    query: Float[Tensor, "1 h s e"],
    key: Float[Tensor, "1 k s e"],
    value: Float[Tensor, "1 k s e"],
    attention_mask: None,
    *,
    segments: Segments,
    scaling: float | None = None,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[Float[Tensor, "1 s h e"], None]:
    """What transformers' layers call. others: what they say besides, of which causal attention needs nothing."""
    query, key = query.to(value.dtype), key.to(value.dtype)  # norms in fp32 leave them wider under autocast
    # that question is scaled_dot_product_attention's, which widens heads to whole eights first; this kernel's caller has to
    whole_eights = query.shape[-1] % 8 == 0
    if not dropout and whole_eights and can_use_flash_attention(SDPAParams(query, key, value, None, 0.0, True, True)):
        return _in_one_kernel(query, key, value, segments, scaling), None
    return _one_by_one(query, key, value, segments, scaling, dropout), None


def _in_one_kernel(query: Tensor, key: Tensor, value: Tensor, segments: Segments, scale: float | None) -> Tensor:
    """FlashAttention (Dao 2023) over all segments at once: in half precision on a GPU."""
    longest = max(segments.lengths)
    parts = (part[0].transpose(0, 1) for part in (query, key, value))  # [s _ e]
    bounds = (segments.bounds, segments.bounds, longest, longest)
    return varlen_attn(*parts, *bounds, scale=scale, window_size=(-1, 0), **SHARED)[None]


def _one_by_one(
    query: Tensor, key: Tensor, value: Tensor, segments: Segments, scale: float | None, dropout: float
) -> Tensor:
    """Every segment by itself: in fp32, with dropout, on a CPU, and on GPUs older than FlashAttention."""
    shared = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(shared, 1) for part in (key, value))
    parts = zip(*(part.split(segments.lengths, 2) for part in (query, key, value)), strict=True)
    made = [F.scaled_dot_product_attention(*part, dropout_p=dropout, is_causal=True, scale=scale) for part in parts]
    return torch.cat(made, 2).transpose(1, 2)


AttentionInterface.register(NAME, attend)
