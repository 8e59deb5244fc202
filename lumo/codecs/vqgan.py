"""VQGAN of taming-transformers: pictures of one size, one codebook, a code for each cell.

Source: Esser et al. 2021, "Taming transformers for high-resolution image synthesis". The modules have the names that its
checkpoints have.

Axes: b picture · c channel · h w pixel or cell · k codebook · t cell, row by row · v code · d number of a code's vector.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from lumo.codecs import check_cells, check_pictures, image_card
from lumo.codecs.taming import GROUPS, NetworkSizes, VqganConfig, check_state, read_config, read_state
from lumo.codecs.tensors import pixels_of
from lumo.codecs.vectors import nearest
from lumo.media import Image, read_image


class VqganCodec:
    """The adapter: pictures of `ddconfig.resolution`, cells row by row.

    folder: model.yaml and last.ckpt; device: where the network computes
    Raises CodecError when they can't be read or don't agree.
    """

    name = "vqgan"
    codebooks = 1
    cannot_decode = None
    fit = "crop"  # as taming-transformers' own loader of pictures does

    def __init__(self, folder: Path, device: str = "cpu"):
        config = read_config(folder / "model.yaml")
        self.weights = folder / "last.ckpt"
        with torch.device("meta"):  # shapes alone, until the file's values take their places
            self.model = Vqgan(config)
        state = read_state(self.weights)
        check_state(self.weights, state, self.model.state_dict())
        self.model.load_state_dict(state, assign=True)
        self.model.to(device)
        self.resolution = config.ddconfig.resolution
        self.cardinalities = (config.n_embed,)
        self.frames = config.ddconfig.heights[-1] ** 2

    @cached_property
    def card(self) -> dict[str, Any]:  # cached: with the optimiser that lies beside the weights the file has a gigabyte
        return image_card(self, self.resolution, "cells row by row from the top left")

    def read(self, path: Path) -> Image:
        return read_image(path, (self.resolution,) * 2)

    # One picture at a time: at 256 x 256 a layer's values take 34 MB a picture, and codes mustn't depend on what else is
    # in the batch, as the sums of a convolution do in their last bits.

    @torch.no_grad()
    def encode(self, media: Sequence[Image]) -> Int[np.ndarray, "b k t"]:
        check_pictures(media, self.resolution)
        pictures = (pixels_of(media) / 127.5 - 1).to(self.model.book.device).split(1)
        return torch.stack([self.model.encode(picture) for picture in pictures]).cpu().numpy()

    @torch.no_grad()
    def decode(self, codes: Int[np.ndarray, "b k t"]) -> list[Image]:
        check_cells(codes, self)
        cells = torch.from_numpy(codes).to(self.model.book.device)
        pictures = torch.cat([self.model.decode(picture) for picture in cells]).cpu()
        pixels = ((pictures.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
        return [Image(picture) for picture in pixels.contiguous().numpy()]


class Vqgan(nn.Module):
    """Pictures in -1…1 to codes, and back."""

    def __init__(self, config: VqganConfig):
        super().__init__()
        sizes = config.ddconfig
        self.encoder, self.decoder = Encoder(sizes), Decoder(sizes)
        self.quantize = nn.ModuleDict({"embedding": nn.Embedding(config.n_embed, config.embed_dim)})
        self.quant_conv = nn.Conv2d(sizes.z_channels, config.embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(config.embed_dim, sizes.z_channels, 1)
        self.side = sizes.heights[-1]

    @property
    def book(self) -> Float[Tensor, "v d"]:
        return self.quantize["embedding"].weight

    def encode(self, pixels: Float[Tensor, "b 3 h w"]) -> Int[Tensor, "b t"]:
        vectors = self.quant_conv(self.encoder(pixels)).flatten(2).transpose(1, 2)
        return nearest(vectors.flatten(0, 1), self.book).unflatten(0, vectors.shape[:2])

    def decode(self, codes: Int[Tensor, "b t"]) -> Float[Tensor, "b 3 h w"]:
        vectors = F.embedding(codes, self.book).transpose(1, 2).unflatten(2, (self.side, self.side))
        return self.decoder(self.post_quant_conv(vectors))


class Encoder(nn.Module):
    def __init__(self, sizes: NetworkSizes):
        super().__init__()
        self.conv_in = conv3(3, sizes.ch)
        self.down = nn.ModuleList()
        for inside, width, height in zip((sizes.ch, *sizes.widths[:-1]), sizes.widths, sizes.heights, strict=True):
            level = Level([inside] + [width] * sizes.num_res_blocks, height in sizes.attn_resolutions)
            level.downsample = nn.Identity() if height == sizes.heights[-1] else Downsample(width)
            self.down.append(level)
        deepest = sizes.widths[-1]
        self.mid = middle(deepest)
        self.norm_out, self.conv_out = norm(deepest), conv3(deepest, sizes.z_channels)

    def forward(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h2 w2"]:
        x = self.conv_in(pixels)
        for level in self.down:
            x = level.downsample(level(x))
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """One residual block more at each resolution than the encoder; `up` counts from the highest, which is the last to run."""

    def __init__(self, sizes: NetworkSizes):
        super().__init__()
        deepest = sizes.widths[-1]
        self.conv_in, self.mid = conv3(sizes.z_channels, deepest), middle(deepest)
        self.up = nn.ModuleList()
        for width, inside, height in zip(sizes.widths, (*sizes.widths[1:], deepest), sizes.heights, strict=True):
            level = Level([inside] + [width] * (sizes.num_res_blocks + 1), height in sizes.attn_resolutions)
            level.upsample = nn.Identity() if height == sizes.resolution else Upsample(width)
            self.up.append(level)
        self.norm_out, self.conv_out = norm(sizes.widths[0]), conv3(sizes.widths[0], 3)

    def forward(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 h2 w2"]:
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            x = level.upsample(level(x))
        return self.conv_out(F.silu(self.norm_out(x)))


class Level(nn.Module):
    """The blocks of one resolution. widths: channels before and after each."""

    def __init__(self, widths: list[int], attends: bool):
        super().__init__()
        self.block = nn.ModuleList(ResidualBlock(*pair) for pair in pairwise(widths))
        self.attn = nn.ModuleList(Attention(width) if attends else nn.Identity() for width in widths[1:])

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h w"]:
        for block, attention in zip(self.block, self.attn, strict=True):
            x = attention(block(x))
        return x


class ResidualBlock(nn.Module):
    def __init__(self, inside: int, width: int):
        super().__init__()
        self.norm1, self.conv1 = norm(inside), conv3(inside, width)
        self.norm2, self.conv2 = norm(width), conv3(width, width)
        self.nin_shortcut = nn.Identity() if inside == width else nn.Conv2d(inside, width, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h w"]:
        inner = self.conv1(F.silu(self.norm1(x)))
        return self.nin_shortcut(x) + self.conv2(F.silu(self.norm2(inner)))


class Attention(nn.Module):
    """One head over all cells."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = norm(width)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        inner = self.norm(x)
        q, k, v = (part(inner).flatten(2).transpose(1, 2) for part in (self.q, self.k, self.v))
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).unflatten(2, x.shape[2:])
        return x + self.proj_out(seen)


class Downsample(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # right and below alone


class Upsample(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv = conv3(width, width)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def middle(width: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(block_1=ResidualBlock(width, width), attn_1=Attention(width), block_2=ResidualBlock(width, width))
    )


def norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(GROUPS, width, eps=1e-6)


def conv3(inside: int, width: int) -> nn.Conv2d:
    return nn.Conv2d(inside, width, 3, padding=1)
