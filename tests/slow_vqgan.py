"""VQGAN the slow way, from a checkpoint's keys alone, and small checkpoints as taming writes them."""

from __future__ import annotations

import math
import shutil
import sys
from itertools import pairwise
from types import ModuleType

import numpy as np
import pytest
import torch
import yaml
from torch.nn import functional as F

from lumo.codecs.vqgan import VqganCodec
from lumo.datasets import world
from lumo.media import Image

# as published for vqgan_imagenet_f16_1024 and _16384
PUBLISHED = {"double_z": False, "z_channels": 256, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
             "ch_mult": [1, 1, 2, 2, 4], "num_res_blocks": 2, "attn_resolutions": [16], "dropout": 0.0}  # fmt: skip
TOY = PUBLISHED | {"z_channels": 8, "resolution": 64, "ch": 32, "ch_mult": [1, 1, 2], "num_res_blocks": 1}
# small channels at the published size: 256 x 256 pixels to 256 cells
NARROW = PUBLISHED | {"z_channels": 8, "ch": 32, "ch_mult": [1, 1, 1, 1, 1], "num_res_blocks": 1}


# --- the slow way: a state dict and nothing else ----------------------------------------------------------------------


def layout(sizes: dict, cardinality: int, embed_dim: int) -> dict[str, tuple[int, ...]]:
    """Every tensor of a checkpoint, and its shape."""
    found = {"quantize.embedding.weight": (cardinality, embed_dim)}

    def conv(key, inside, width, kernel=3):
        found.update({f"{key}.weight": (width, inside, kernel, kernel), f"{key}.bias": (width,)})

    def norm(key, width):
        found.update({f"{key}.weight": (width,), f"{key}.bias": (width,)})

    def block(key, inside, width):
        norm(f"{key}.norm1", inside)
        conv(f"{key}.conv1", inside, width)
        norm(f"{key}.norm2", width)
        conv(f"{key}.conv2", width, width)
        if inside != width:
            conv(f"{key}.nin_shortcut", inside, width, 1)

    def attention(key, width):
        norm(f"{key}.norm", width)
        for part in ("q", "k", "v", "proj_out"):
            conv(f"{key}.{part}", width, width, 1)

    z, first = sizes["z_channels"], sizes["ch"]
    widths = [first * times for times in sizes["ch_mult"]]
    for side, before, name in (("encoder", [first, *widths], "down"), ("decoder", [*widths[1:], widths[-1]], "up")):
        conv(f"{side}.conv_in", *((3, first) if side == "encoder" else (z, widths[-1])))
        for part in ("block_1", "block_2"):
            block(f"{side}.mid.{part}", widths[-1], widths[-1])
        attention(f"{side}.mid.attn_1", widths[-1])
        for n, width in enumerate(widths):
            steps = [before[n]] + [width] * (sizes["num_res_blocks"] + (side == "decoder"))
            for m, (inside, outside) in enumerate(pairwise(steps)):
                block(f"{side}.{name}.{n}.block.{m}", inside, outside)
                if sizes["resolution"] // 2**n in sizes["attn_resolutions"]:
                    attention(f"{side}.{name}.{n}.attn.{m}", outside)
        norm(f"{side}.norm_out", widths[-1] if side == "encoder" else widths[0])
        conv(f"{side}.conv_out", *((widths[-1], z) if side == "encoder" else (widths[0], 3)))
    for n, width in enumerate(widths):
        if n < len(widths) - 1:
            conv(f"encoder.down.{n}.downsample.conv", width, width)
        if n > 0:
            conv(f"decoder.up.{n}.upsample.conv", width, width)
    conv("quant_conv", z, embed_dim, 1)
    conv("post_quant_conv", embed_dim, z, 1)
    return found


class Naive:
    """One operation after the other, in double precision. used: the keys that were asked for."""

    def __init__(self, state: dict[str, torch.Tensor], sizes: dict):
        self.state, self.sizes, self.used = {key: value.double() for key, value in state.items()}, sizes, set()

    def of(self, key):
        self.used |= {f"{key}.weight", f"{key}.bias"}
        return self.state[f"{key}.weight"], self.state[f"{key}.bias"]

    def conv(self, key, x, padding=1):
        return F.conv2d(x, *self.of(key), padding=padding)

    def norm(self, key, x):
        weight, bias = self.of(key)
        groups = x.unflatten(1, (32, -1))
        mean, var = groups.mean((2, 3, 4), keepdim=True), groups.var((2, 3, 4), keepdim=True, correction=0)
        normed = ((groups - mean) / (var + 1e-6).sqrt()).flatten(1, 2)
        return normed * weight[:, None, None] + bias[:, None, None]

    def swish(self, key, x):
        x = self.norm(key, x)
        return x / (1 + (-x).exp())

    def block(self, key, x):
        inner = self.conv(f"{key}.conv1", self.swish(f"{key}.norm1", x))
        inner = self.conv(f"{key}.conv2", self.swish(f"{key}.norm2", inner))
        return inner + (self.conv(f"{key}.nin_shortcut", x, 0) if f"{key}.nin_shortcut.bias" in self.state else x)

    def attention(self, key, x):
        if f"{key}.q.bias" not in self.state:
            return x
        inner = self.norm(f"{key}.norm", x)
        q, k, v = (self.conv(f"{key}.{part}", inner, 0).flatten(2) for part in "qkv")
        weights = (torch.einsum("bci,bcj->bij", q, k) / q.shape[1] ** 0.5).softmax(2)
        return x + self.conv(f"{key}.proj_out", torch.einsum("bij,bcj->bci", weights, v).view_as(x), 0)

    def middle(self, key, x):
        return self.block(f"{key}.block_2", self.attention(f"{key}.attn_1", self.block(f"{key}.block_1", x)))

    def encoded(self, pixels):
        """[b 3 h w] in 0…255 to vectors [b t d]"""
        x, levels = self.conv("encoder.conv_in", pixels.double() / 255 * 2 - 1), len(self.sizes["ch_mult"])
        for n in range(levels):
            for m in range(self.sizes["num_res_blocks"]):
                x = self.attention(f"encoder.down.{n}.attn.{m}", self.block(f"encoder.down.{n}.block.{m}", x))
            if n < levels - 1:
                larger = x.new_zeros(*x.shape[:2], x.shape[2] + 1, x.shape[3] + 1)
                larger[..., :-1, :-1] = x
                x = F.conv2d(larger, *self.of(f"encoder.down.{n}.downsample.conv"), stride=2)
        x = self.conv("encoder.conv_out", self.swish("encoder.norm_out", self.middle("encoder.mid", x)))
        return self.conv("quant_conv", x, 0).flatten(2).transpose(1, 2)

    def codes(self, pixels):
        vectors, book = self.encoded(pixels), self.state["quantize.embedding.weight"]
        return (vectors[:, :, None] - book).square().sum(3).argmin(2)

    def decoded(self, codes):
        """[b t] to [b 3 h w], around -1…1"""
        side = round(codes.shape[1] ** 0.5)
        x = self.state["quantize.embedding.weight"][codes].transpose(1, 2).unflatten(2, (side, side))
        x = self.middle("decoder.mid", self.conv("decoder.conv_in", self.conv("post_quant_conv", x, 0)))
        for n in reversed(range(len(self.sizes["ch_mult"]))):
            for m in range(self.sizes["num_res_blocks"] + 1):
                x = self.attention(f"decoder.up.{n}.attn.{m}", self.block(f"decoder.up.{n}.block.{m}", x))
            if n > 0:
                x = self.conv(f"decoder.up.{n}.upsample.conv", x.repeat_interleave(2, 2).repeat_interleave(2, 3))
        return self.conv("decoder.conv_out", self.swish("decoder.norm_out", x))


# --- files as taming writes them --------------------------------------------------------------------------------------


def random_state(sizes: dict, cardinality: int, embed_dim: int, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Weights that keep signals alive, and a codebook of what the encoder makes of a few pictures."""
    generator, state = torch.Generator().manual_seed(0), {}
    for key, shape in layout(sizes, cardinality, embed_dim).items():
        noise = torch.randn(shape, generator=generator)
        is_scale = "norm" in key and key.endswith("weight")
        state[key] = 1 + 0.1 * noise if is_scale else noise * (math.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 0.1)
    vectors = Naive(state, sizes).encoded(pixels).flatten(0, 1).float()
    chosen = vectors[torch.randperm(len(vectors), generator=generator)[:cardinality]]
    state["quantize.embedding.weight"] = chosen + 0.1 * torch.randn(chosen.shape, generator=generator)
    return state


def config_of(sizes: dict, cardinality: int, embed_dim: int) -> dict:
    params = {"embed_dim": embed_dim, "n_embed": cardinality, "monitor": "val/rec_loss", "ddconfig": sizes,
              "lossconfig": {"target": "taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator", "params": {}}}  # fmt: skip
    model = {"base_learning_rate": 4.5e-06, "target": "taming.models.vqgan.VQModel", "params": params}
    return {"model": model, "data": {"target": "main.DataModuleFromConfig"}}


def lightning(monkeypatch, name: str = "ModelCheckpoint") -> type:
    """A class that is pickled as one of PyTorch Lightning's callbacks."""
    module = "pytorch_lightning.callbacks.model_checkpoint"
    kind = type(name, (), {"__module__": module})
    for part in ("pytorch_lightning", "pytorch_lightning.callbacks", module):
        monkeypatch.setitem(sys.modules, part, ModuleType(part))
    monkeypatch.setattr(sys.modules[module], name, kind, raising=False)
    return kind


def save(folder, state: dict, *, zipped: bool = True, **more) -> None:
    """As Lightning 1.0 does: its callback is a class, and the loss's weights are among the model's."""
    loss = {"loss.discriminator.main.0.weight": torch.zeros(2, 3), "loss.logvar": torch.zeros(())}
    with pytest.MonkeyPatch.context() as patch:
        notes = {"best_model_score": torch.tensor(0.5), "best_model_path": "epoch=1.ckpt"}
        checkpoint = {"epoch": 3, "global_step": 1000, "pytorch-lightning_version": "1.0.8",
                      "callbacks": {lightning(patch): notes}, "lr_schedulers": [],
                      "optimizer_states": [{"state": {0: {"step": 1000}}, "param_groups": [{"betas": (0.5, 0.9)}]}],
                      "state_dict": state | loss} | more  # fmt: skip
        torch.save(checkpoint, folder / "last.ckpt", _use_new_zipfile_serialization=zipped)


# --- a small checkpoint -----------------------------------------------------------------------------------------------


def pixels_of(pictures: list[Image]) -> torch.Tensor:
    return torch.from_numpy(np.stack([picture.pixels for picture in pictures])).permute(0, 3, 1, 2)


@pytest.fixture(name="pictures", scope="module")
def fixture_pictures():
    return [world.draw(scene, np.random.default_rng(n)) for n, scene in enumerate(world.scenes("image")[::200])]


@pytest.fixture(name="state", scope="module")
def fixture_state(pictures):
    return random_state(TOY, 24, 6, pixels_of(pictures))


@pytest.fixture(name="whole", scope="module")
def fixture_whole(state, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vqgan")
    (folder / "model.yaml").write_text(yaml.safe_dump(config_of(TOY, 24, 6)))
    save(folder, state)
    return folder


@pytest.fixture(name="codec", scope="module")
def fixture_codec(whole):
    return VqganCodec(whole)


@pytest.fixture(name="folder")
def fixture_folder(whole, tmp_path):
    """A copy to damage."""
    return shutil.copytree(whole, tmp_path / "vqgan")
