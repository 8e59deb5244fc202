"""A small image codec for the miniature: convolutions around finite scalar quantisation.

Each of a latent's few channels is rounded to a few levels; the code is the mixed-radix number that they spell (Mentzer et
al. 2023, "Finite scalar quantization"). There is no codebook to collapse and nothing to look up.

Axes: b picture · c channel · h w pixel · y x cell of the latent · k codebook (one) · t cell, row by row.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from lumo.codecs import CodecError, weights_sha256
from lumo.media import Image, read_image


@dataclass(frozen=True)
class FiniteConfig:
    """resolution: height and width in pixels, a multiple of 8; levels: how many values each latent channel takes."""

    resolution: int = 64
    width: int = 32
    levels: tuple[int, ...] = (7, 7, 5)

    @property
    def cells(self) -> int:
        return (self.resolution // 8) ** 2

    @property
    def cardinality(self) -> int:
        return math.prod(self.levels)


class Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.first, self.second = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(x))))


class FiniteAutoencoder(nn.Module):
    """Eight pixels to a cell on the way in, eight out of a cell on the way back."""

    def __init__(self, config: FiniteConfig):
        super().__init__()
        self.config = config
        a, b, c = config.width, config.width * 2, config.width * 4
        self.encoder = nn.Sequential(
            nn.Conv2d(3 * 4, a, 3, padding=1), Residual(a),
            nn.Conv2d(a, b, 4, stride=2, padding=1), Residual(b),
            nn.Conv2d(b, c, 4, stride=2, padding=1), Residual(c), Residual(c),
            nn.SiLU(), nn.Conv2d(c, len(config.levels), 1),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Conv2d(len(config.levels), c, 3, padding=1), Residual(c), Residual(c),
            nn.Conv2d(c, b * 4, 1), nn.PixelShuffle(2), Residual(b),
            nn.Conv2d(b, a * 4, 1), nn.PixelShuffle(2), Residual(a),
            nn.SiLU(), nn.Conv2d(a, 3 * 4, 3, padding=1), nn.PixelShuffle(2),
        )  # fmt: skip
        self.register_buffer(
            "top", torch.tensor([level - 1.0 for level in config.levels])[:, None, None], persistent=False
        )

    def latent(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c y x"]:
        """Latent channels in 0…level-1, not yet rounded."""
        return torch.sigmoid(self.encoder(F.pixel_unshuffle(pixels, 2))) * self.top

    def paint(self, levels: Float[Tensor, "b c y x"]) -> Float[Tensor, "b 3 h w"]:
        return self.decoder(levels / self.top * 2 - 1)

    def encode(self, pixels: Float[Tensor, "b 3 h w"]) -> Int[Tensor, "b t"]:
        """Pixels in -1…1 to one code a cell."""
        code = 0
        for channel, level in zip(self.latent(pixels).round().long().unbind(1), self.config.levels, strict=True):
            code = code * level + channel
        return code.flatten(1)

    def decode(self, codes: Int[Tensor, "b t"]) -> Float[Tensor, "b 3 h w"]:
        side = self.config.resolution // 8
        channels = []
        for level in reversed(self.config.levels):
            channels.append(codes % level)
            codes = codes // level
        return self.paint(torch.stack(channels[::-1], 1).float().unflatten(2, (side, side)))

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(asdict(self.config), indent=2) + "\n")
        # half precision halves the file; loading copies into fp32, so there is one rounding and it is the weights'
        save_file(
            {name: value.half().contiguous() for name, value in self.state_dict().items()}, folder / "model.safetensors"
        )

    @classmethod
    def load(cls, folder: Path) -> FiniteAutoencoder:
        """Raises RuntimeError from torch when keys or shapes differ: loading is strict."""
        config = json.loads((folder / "config.json").read_text())
        model = cls(FiniteConfig(**(config | {"levels": tuple(config["levels"])})))
        model.load_state_dict(load_file(folder / "model.safetensors"))
        return model.eval()


class FiniteCodec:
    """The adapter: pictures of one size, one codebook, cells row by row.

    folder: config.json and model.safetensors
    Raises CodecError when they can't be read or don't agree.
    """

    name = "finite"
    codebooks = 1

    def __init__(self, folder: Path):
        try:
            self.model = FiniteAutoencoder.load(folder)
        except (OSError, RuntimeError, ValueError, TypeError, KeyError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CodecError(f"{folder}: no image codec that can be read ({reason}); make it again") from error
        self.folder = folder
        self.cardinality = self.model.config.cardinality
        self.frames = self.model.config.cells

    @property
    def card(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "weights_sha256": weights_sha256(self.folder / "model.safetensors"),
            "resolution": self.model.config.resolution,
            "channels": 3,
            "codebooks": 1,
            "cardinality": self.cardinality,
            "frames": self.frames,
            "order": "row by row from the top left",
        }

    def read(self, path: Path) -> Image:
        return read_image(path, (self.model.config.resolution,) * 2)

    @torch.no_grad()
    def encode(self, media: Sequence[Image]) -> Int[np.ndarray, "b k t"]:
        side = self.model.config.resolution
        for image in media:
            if image.resolution != (side, side):
                raise CodecError(
                    f"codec 'image' reads {side}x{side} pixels, got {image.resolution[1]}x{image.resolution[0]}; resize it first"
                )
        pixels = torch.from_numpy(np.stack([image.pixels for image in media])).permute(0, 3, 1, 2).float() / 127.5 - 1
        return self.model.encode(pixels)[:, None].numpy()

    @torch.no_grad()
    def decode(self, codes: Int[np.ndarray, "b k t"]) -> list[Image]:
        if codes.shape[1:] != (1, self.frames):
            raise CodecError(
                f"codec 'image' decodes (codebooks, cells) {(1, self.frames)}, got {codes.shape[1:]}; "
                "is this another codec's picture?"
            )
        pixels = self.model.decode(torch.from_numpy(codes)[:, 0])
        pixels = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
        return [Image(picture) for picture in pixels.contiguous().numpy()]
