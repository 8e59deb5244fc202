"""One new token for each case, for Qwen3 in fp32: fewer and larger products than transformers' layers make of it.

A token's work is small, so that each operation's own cost decides. Here query, key and value are one product, gate and up
another; the weights of the norms before them stand in these products already, and attention is two products over all cases.
Cases are columns, as the weights then stand in the products as they are stored: 1.5 times faster for the widest (64 cases on two
cores). It computes what transformers' Qwen3 does, within rounding (transformers 5, `models/qwen3`).

In half precision the weights of norms and LoRA would be rounded where they are multiplied in, so transformers' own way stays there.

Axes: b case · h head of a query · k head of keys and values · g queries that share one · s step so far · d hidden · e of a head.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import Qwen3Model

from lumo.cache import RoomyCache, RoomyLayer, Step
from lumo.lora import whole_weight


class _Layer(NamedTuple):
    """norms: those of queries and keys, with attention's scale in the queries'."""

    qkv: Float[Tensor, "_ d"]
    norms: Float[Tensor, "h+k e 1"]
    out: Float[Tensor, "d _"]
    gate_up: Float[Tensor, "_ d"]
    down: Float[Tensor, "d _"]


def short_step(trunk: nn.Module, cache: RoomyCache) -> Step | None:
    """A step for this trunk on this cache, with the weights as they are now; None for other models, and in half precision.

    It takes two thirds of the trunk's memory once more, and with LoRA all of it.
    """
    if not isinstance(trunk, Qwen3Model) or set(trunk.config.layer_types) != {"full_attention"}:
        return None
    layers = [_layer(layer, trunk.config.num_attention_heads) for layer in trunk.layers]
    return None if None in layers else _Decoder(trunk, layers, cache).step


def _layer(layer: nn.Module, heads: int) -> _Layer | None:
    attention, mlp = layer.self_attn, layer.mlp
    parts = [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj]  # fmt: skip
    whole = [whole_weight(part) for part in parts]
    if any(weight is None for weight in whole):
        return None
    query, key, value, out, gate, up, down = whole
    scaled = attention.q_norm.weight.expand(heads, -1) * attention.scaling
    shared = attention.k_norm.weight.expand(len(key) // attention.head_dim, -1)
    return _Layer(
        torch.cat([query, key, value]) * layer.input_layernorm.weight,
        torch.cat([scaled, shared])[..., None],
        out,
        torch.cat([gate, up]) * layer.post_attention_layernorm.weight,
        down,
    )


class _Decoder:
    def __init__(self, trunk: Qwen3Model, layers: list[_Layer], cache: RoomyCache):
        config = trunk.config
        self.trunk, self.layers, self.cache = trunk, layers, cache
        self.eps, self.act = config.rms_norm_eps, trunk.layers[0].mlp.act_fn
        self.heads, self.kv_heads, self.half = (
            config.num_attention_heads,
            config.num_key_value_heads,
            trunk.layers[0].self_attn.head_dim // 2,
        )

    def step(
        self, x: Float[Tensor, "b 1 d"], position_ids: Int[Tensor, "b 1"], mask: Bool[Tensor, "b 1 1 s"]
    ) -> Float[Tensor, "b 1 d"]:
        """Last hidden states of one new token for each case. mask: true where it may look, itself included."""
        cos, sin = (turn[:, 0].T.contiguous() for turn in self.trunk.rotary_emb(x, position_ids))
        # transformers turns by cat(-second half, first half); here the halves change places and the sine has the minus
        sin[: self.half].neg_()
        unseen = x.new_zeros(mask[:, 0].shape).masked_fill_(~mask[:, 0], -torch.inf)
        unseen = unseen.repeat_interleave(self.kv_heads, 0)
        x = x[:, 0].T
        for layer, kept in zip(self.layers, self.cache.layers, strict=True):
            x = torch.addmm(x, layer.out, self._attention(layer.qkv @ self._normed(x), layer, kept, cos, sin, unseen))
            gate, up = (layer.gate_up @ self._normed(x)).chunk(2)
            x = torch.addmm(x, layer.down, self.act(gate) * up)
        return (self._normed(x).T * self.trunk.norm.weight)[:, None]

    def _attention(
        self,
        qkv: Float[Tensor, "_ b"],
        layer: _Layer,
        kept: RoomyLayer,
        cos: Float[Tensor, "e b"],
        sin: Float[Tensor, "e b"],
        unseen: Float[Tensor, "b*k 1 s"],
    ) -> Float[Tensor, "h*e b"]:
        turned, value = qkv.unflatten(0, (-1, 2 * self.half)).tensor_split([-self.kv_heads])
        turned = self._normed(turned, 1) * layer.norms
        turned = turned * cos + turned.roll(self.half, 1) * sin
        query, key = turned.tensor_split([self.heads])
        # heads in front of cases within a row of the cache, so that its views are the products' operands
        keys, values = (
            part.flatten(0, 1) for part in kept.update(*(new.permute(2, 0, 1)[:, :, None] for new in (key, value)))
        )
        query = query.permute(2, 0, 1).reshape(len(keys), -1, 2 * self.half)  # [b*k g e]
        weights = torch.baddbmm(unseen, query, keys.transpose(1, 2)).softmax(-1)
        return torch.bmm(weights, values).view(qkv.shape[1], -1).T

    def _normed(self, x: Float[Tensor, "..."], axis: int = 0) -> Float[Tensor, "..."]:
        """Root mean square norm without its weight (Zhang and Sennrich 2019)."""
        return x * (x.square().mean(axis, keepdim=True) + self.eps).rsqrt_()
