"""A small image codec for the miniature: each square patch is two tones and a mask that says where the second one lies.

That is block truncation coding (Delp and Mitchell 1979) with both parts vector-quantised: codebook 0 holds pairs of tones,
codebook 1 holds masks. A patch's codes depend on that patch alone, and a red ring and a blue ring have one mask, so a language
model learns colour and shape apart.

Axes: b picture · n patch of any picture · c channel · h w pixel · p pixel of a patch · v code · t patch, row by row.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from lumo.codecs import CodecError, check_cells, check_pictures, image_card
from lumo.codecs.tensors import pixels_of
from lumo.codecs.vectors import nearest
from lumo.media import Image, read_image
from lumo.params import Count, Positive, Section
from lumo.wording import in_short

LUMA = torch.tensor([0.299, 0.587, 0.114])  # weights of red, green and blue in brightness, ITU-R BT.601


class TwoToneConfig(Section):
    """resolution, patch: height and width in pixels; tones, masks: sizes of the two codebooks.

    flat: a patch whose two tones are closer than this (in 0…255, over three channels) is one tone, with an empty mask
    """

    resolution: Count = 64
    patch: Count = 16
    tones: Count = 64
    masks: Count = 512
    flat: Positive = 16.0


def cut(pixels: Float[Tensor, "b 3 h w"], config: TwoToneConfig) -> Float[Tensor, "n 3 p"]:
    """Patches, picture by picture and row by row."""
    patches = F.unfold(pixels, config.patch, stride=config.patch).transpose(1, 2)
    return patches.reshape(-1, 3, config.patch**2)


def split(patches: Float[Tensor, "n 3 p"], config: TwoToneConfig) -> tuple[Float[Tensor, "n 6"], Float[Tensor, "n p"]]:
    """Tones (the darkest and the brightest thirty-second of the pixels, three channels each) and masks in 0…1."""
    order = torch.einsum("c,ncp->np", LUMA, patches).sort(dim=1, stable=True).indices
    few = max(1, config.patch**2 // 32)
    dark, bright = (
        patches.gather(2, chosen[:, None].expand(-1, 3, -1)).mean(2) for chosen in (order[:, :few], order[:, -few:])
    )
    way = bright - dark
    squared = way.square().sum(1, keepdim=True)
    mask = torch.einsum("ncp,nc->np", patches - dark[..., None], way) / squared.clamp(min=1e-6)
    flat, mean = squared < config.flat**2, patches.mean(2)
    tones = torch.cat([torch.where(flat, mean, dark), torch.where(flat, mean, bright)], 1)
    return tones, torch.where(flat, 0.0, mask.clamp(0, 1))


class TwoToneCodec:
    """The adapter: pictures of one size, two codebooks, patches row by row.

    folder: config.json and model.safetensors (`tones` [v 6], `masks` [v p])
    Raises CodecError when they can't be read or don't agree.
    """

    name = "twotone"
    codebooks = 2
    cannot_decode = None
    fit = "crop"

    def __init__(self, folder: Path):
        try:
            self.config = TwoToneConfig(**json.loads((folder / "config.json").read_text()))
            books = load_file(folder / "model.safetensors")
            self.tones, self.masks = books["tones"].float(), books["masks"].float()
        except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
            reason = in_short(error)
            raise CodecError(f"{folder}: no image codec that can be read ({reason}); make it again") from error
        got = (tuple(self.tones.shape), tuple(self.masks.shape))
        wanted = ((self.config.tones, 6), (self.config.masks, self.config.patch**2))
        if got != wanted or self.config.resolution % self.config.patch:
            raise CodecError(f"{folder}: codebooks are {got}, config.json says {wanted}; make it again")
        self.weights = folder / "model.safetensors"
        self.cardinalities = (self.config.tones, self.config.masks)
        self.frames = (self.config.resolution // self.config.patch) ** 2

    @property
    def card(self) -> dict[str, Any]:
        return image_card(self, self.config.resolution, "patches row by row from the top left: tones[t] mask[t]")

    def read(self, path: Path) -> Image:
        return read_image(path, (self.config.resolution,) * 2)

    def encode(self, media: Sequence[Image]) -> Int[np.ndarray, "b k t"]:
        check_pictures(media, self.config.resolution)
        tones, masks = split(cut(pixels_of(media), self.config), self.config)
        codes = torch.stack([nearest(tones, self.tones), nearest(masks, self.masks)])
        return codes.unflatten(1, (len(media), self.frames)).transpose(0, 1).contiguous().numpy()

    def decode(self, codes: Int[np.ndarray, "b k t"]) -> list[Image]:
        check_cells(codes, self)
        tones, masks = torch.from_numpy(codes).unbind(1)
        dark, bright = self.tones[tones].unflatten(-1, (2, 3))[..., None].unbind(2)
        patches = dark + (bright - dark) * self.masks[masks][:, :, None]
        side = self.config.resolution
        pixels = F.fold(patches.flatten(2).transpose(1, 2), side, self.config.patch, stride=self.config.patch)
        pixels = pixels.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        return [Image(picture) for picture in pixels.contiguous().numpy()]

    @staticmethod
    def save(folder: Path, config: TwoToneConfig, tones: Float[Tensor, "v 6"], masks: Float[Tensor, "v p"]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config.model_dump(), indent=2) + "\n")
        save_file(
            {"tones": tones.half().contiguous(), "masks": masks.half().contiguous()}, folder / "model.safetensors"
        )
