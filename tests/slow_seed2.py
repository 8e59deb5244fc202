"""SEED-2 the slow way, from the published names as they are, and small weights in that layout."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from lumo.codecs.seed2 import Seed2Codec
from lumo.codecs.seed2_network import Seed2Config
from lumo.media import Image

SMALL = Seed2Config(
    patch=56, vision_width=32, vision_layers=2, vision_heads=2, vision_inner=48, width=24, layers=3, heads=2, inner=40,
    queries=8, codes=64, code_width=6, decoder_layers=2, down=(16, 12, 8), embedding=20,
)  # fmt: skip
# of CLIP, for each channel
MEAN, STD = (
    torch.tensor(values)[:, None, None]
    for values in ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
)


# --- the published layout, by hand ------------------------------------------------------------------------------------


def layout(c: Seed2Config) -> dict[str, tuple[int, ...]]:
    """Names and shapes in seed_quantizer.pt with its tower, as SEED's own modules have them."""
    found: dict[str, tuple[int, ...]] = {}

    def linear(name: str, out: int, into: int, bias: bool = True) -> None:
        found[f"{name}.weight"] = (out, into)
        if bias:
            found[f"{name}.bias"] = (out,)

    def norm(name: str, width: int) -> None:
        found[f"{name}.weight"] = found[f"{name}.bias"] = (width,)

    def block(name: str, width: int, inner: int) -> None:
        for n in (1, 2):
            norm(f"{name}.norm{n}", width)
        linear(f"{name}.attn.proj", width, width)
        linear(f"{name}.mlp.fc1", inner, width)
        linear(f"{name}.mlp.fc2", width, inner)

    def bert_attention(name: str, into: int) -> None:
        for part, source in (("query", c.width), ("key", into), ("value", into)):
            linear(f"{name}.self.{part}", c.width, source)
        linear(f"{name}.output.dense", c.width, c.width)
        norm(f"{name}.output.LayerNorm", c.width)

    seen = c.vision_width
    found["visual_encoder.cls_token"] = (1, 1, seen)
    found["visual_encoder.pos_embed"] = (1, (c.resolution // c.patch) ** 2 + 1, seen)
    found["visual_encoder.patch_embed.proj.weight"] = (seen, 3, c.patch, c.patch)
    found["visual_encoder.patch_embed.proj.bias"] = (seen,)
    for n in range(c.vision_layers):
        block(f"visual_encoder.blocks.{n}", seen, c.vision_inner)
        linear(f"visual_encoder.blocks.{n}.attn.qkv", 3 * seen, seen, bias=False)
        for bias in "qv":
            found[f"visual_encoder.blocks.{n}.attn.{bias}_bias"] = (seen,)
    norm("ln_vision", seen)
    found["query_tokens"] = found["pos_embed_image"] = (1, c.queries, c.width)
    norm("Qformer.bert.embeddings.LayerNorm", c.width)
    for n in range(c.layers):
        layer = f"Qformer.bert.encoder.layer.{n}"
        bert_attention(f"{layer}.attention", c.width)
        if n % 2 == 0:
            bert_attention(f"{layer}.crossattention", seen)
        linear(f"{layer}.intermediate_query.dense", c.inner, c.width)
        linear(f"{layer}.output_query.dense", c.width, c.inner)
        norm(f"{layer}.output_query.LayerNorm", c.width)
    linear("encode_task_layer.0", c.width, c.width)
    linear("encode_task_layer.2", c.code_width, c.width)
    found["quantize.embedding.weight"] = (c.codes, c.code_width)
    linear("decode_task_layer.0", c.code_width, c.code_width)
    linear("decode_task_layer.2", c.width, c.code_width)
    for n in range(c.decoder_layers):
        block(f"blocks_image.{n}", c.width, c.inner)
        linear(f"blocks_image.{n}.attn.qkv", 3 * c.width, c.width)
    for n, (into, out) in enumerate(zip((c.width, *c.down), c.down, strict=False)):
        linear(f"image_down.{2 * n}", out, into, bias=False)
    linear("distill_image_proj", c.embedding, c.queries * c.down[-1])
    return found


# --- a slow copy ------------------------------------------------------------------------------------------------------


def normalised(image: Image) -> torch.Tensor:
    return (torch.from_numpy(image.pixels).permute(2, 0, 1) / 255 - MEAN) / STD


class Slow:
    """SEED-2 in plain products, from the file's names; one picture at a time."""

    def __init__(self, state: dict[str, torch.Tensor], config: Seed2Config):
        self.state, self.config = state, config

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.state[name]

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ self[f"{name}.weight"].T + self.state.get(f"{name}.bias", 0)

    def norm(self, name: str, x: torch.Tensor, eps: float) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return (
            centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * self[f"{name}.weight"]
            + self[f"{name}.bias"]
        )

    def attend(self, q, k, v, heads: int, causal: bool = False) -> torch.Tensor:
        made = []
        for one, two, three in zip(q.chunk(heads, 1), k.chunk(heads, 1), v.chunk(heads, 1), strict=True):
            rows = []
            for n, row in enumerate(one):
                upto = n + 1 if causal else len(two)
                rows.append((two[:upto] @ row / math.sqrt(len(row))).softmax(0) @ three[:upto])
            made.append(torch.stack(rows))
        return torch.cat(made, 1)

    def vit(self, name: str, x: torch.Tensor, heads: int) -> torch.Tensor:
        q, k, v = (self.norm(f"{name}.norm1", x, 1e-6) @ self[f"{name}.attn.qkv.weight"].T).chunk(3, 1)
        if f"{name}.attn.qkv.bias" in self.state:
            biases = self[f"{name}.attn.qkv.bias"].chunk(3)
            q, k, v = q + biases[0], k + biases[1], v + biases[2]
        else:
            q, v = q + self[f"{name}.attn.q_bias"], v + self[f"{name}.attn.v_bias"]
        x = x + self.linear(f"{name}.attn.proj", self.attend(q, k, v, heads))
        inner = torch.nn.functional.gelu(self.linear(f"{name}.mlp.fc1", self.norm(f"{name}.norm2", x, 1e-6)))
        return x + self.linear(f"{name}.mlp.fc2", inner)

    def bert(self, name: str, x: torch.Tensor, source: torch.Tensor, causal: bool) -> torch.Tensor:
        q, k, v = (
            self.linear(f"{name}.self.{part}", y) for part, y in (("query", x), ("key", source), ("value", source))
        )
        made = self.linear(f"{name}.output.dense", self.attend(q, k, v, self.config.heads, causal))
        return self.norm(f"{name}.output.LayerNorm", made + x, 1e-12)

    def vectors(self, image: Image) -> torch.Tensor:
        c = self.config
        pixels = normalised(image).permute(1, 2, 0)
        weight, bias = (self[f"visual_encoder.patch_embed.proj.{part}"] for part in ("weight", "bias"))
        cells = [
            pixels[y : y + c.patch, x : x + c.patch].permute(2, 0, 1).flatten() @ weight.flatten(1).T + bias
            for y in range(0, c.resolution, c.patch)
            for x in range(0, c.resolution, c.patch)
        ]
        x = torch.stack([self["visual_encoder.cls_token"][0, 0], *cells]) + self["visual_encoder.pos_embed"][0]
        for n in range(c.vision_layers):
            x = self.vit(f"visual_encoder.blocks.{n}", x, c.vision_heads)
        seen = self.norm("ln_vision", x, 1e-5)
        x = self.norm("Qformer.bert.embeddings.LayerNorm", self["query_tokens"][0], 1e-12)
        for n in range(c.layers):
            layer = f"Qformer.bert.encoder.layer.{n}"
            x = self.bert(f"{layer}.attention", x, x, causal=True)
            if n % 2 == 0:
                x = self.bert(f"{layer}.crossattention", x, seen, causal=False)
            inner = torch.nn.functional.gelu(self.linear(f"{layer}.intermediate_query.dense", x))
            x = self.norm(
                f"{layer}.output_query.LayerNorm", self.linear(f"{layer}.output_query.dense", inner) + x, 1e-12
            )
        return self.linear("encode_task_layer.2", self.linear("encode_task_layer.0", x).tanh())

    def embed(self, codes: np.ndarray) -> torch.Tensor:
        x = self["quantize.embedding.weight"][torch.from_numpy(codes)]
        x = (
            self.linear("decode_task_layer.2", self.linear("decode_task_layer.0", x).tanh())
            + self["pos_embed_image"][0]
        )
        for n in range(self.config.decoder_layers):
            x = self.vit(f"blocks_image.{n}", x, self.config.heads)
        for n in (0, 2):
            x = self.linear(f"image_down.{n}", x).relu()
        return self.linear("distill_image_proj", self.linear("image_down.4", x).flatten())


# --- small weights ----------------------------------------------------------------------------------------------------


def drawn(config: Seed2Config, pictures: list[Image]) -> dict[str, torch.Tensor]:
    """Random weights in the published layout, with codebook vectors where the pictures' vectors lie."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in layout(config).items():
        value = torch.randn(shape, generator=generator)
        if len(shape) > 1 and "query" not in name:
            value *= value[0].numel() ** -0.5
        if "norm" in name.lower() or name.startswith("ln_"):
            value = 0.1 * value + name.endswith("weight")
        if re.search(r"cls_token|pos_embed|patch_embed|(attn\.proj|fc2)\.|decode_task_layer\.2", name):
            value *= 0.003  # so small that a norm's epsilon tells
        state[name] = 300 * value if name == "distill_image_proj.weight" else value  # and makes up for it
    slow = Slow(state, config)
    vectors = torch.cat([slow.vectors(picture) for picture in pictures])
    noise = torch.randn((config.codes, config.code_width), generator=generator)
    state["quantize.embedding.weight"] = vectors.mean(0) + vectors.std(0) * noise
    return state


@pytest.fixture(name="pictures", scope="module")
def fixture_pictures() -> list[Image]:
    rng = np.random.default_rng(0)
    shades = [rng.integers(0, 256, (8, 8, 3), dtype=np.uint8) for _ in range(3)]
    return [Image(np.kron(shade, np.ones((28, 28, 1), np.uint8))) for shade in shades]


@pytest.fixture(name="state", scope="module")
def fixture_state(pictures):
    return drawn(SMALL, pictures)


@pytest.fixture(name="folder", scope="module")
def fixture_folder(state, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("seed2")
    torch.save(state, folder / "seed_quantizer.pt")
    return folder


@pytest.fixture(name="codec", scope="module")
def fixture_codec(folder) -> Seed2Codec:
    return Seed2Codec(folder, config=SMALL)
