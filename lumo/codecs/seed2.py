"""SEED-2: a picture as 32 codes that say what is in it, and back through Stable unCLIP.

Source: Ge et al. 2023, "Making LLaMA SEE and draw with SEED tokenizer". The codes become one image embedding of CLIP ViT-H/14, and a
diffusion model draws a picture of that: its meaning comes back, its layout doesn't.

Axes: b picture · k codebook, of which there is one · t query, in the order in which the model asked · e embedding · c channel · h w pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError

from lumo.codecs import CodecError, check_cells, check_pictures, image_card
from lumo.codecs.seed2_network import Seed2Config, read_seed2
from lumo.codecs.tensors import pixels_of
from lumo.files import sha256_of
from lumo.media import Image, read_image
from lumo.wording import in_short

# of each channel in 0…1, as CLIP has them
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
STEPS = 20  # of denoising, where a profile doesn't say
GUIDANCE = 10.0  # what SEED's own loader asks of unCLIP, as noise level 0
DRAWN_AT_ONCE = 8  # pictures; guidance doubles them


class Seed2Codec:
    """Pictures of 224 x 224 pixels, one codebook of 8,192.

    folder: seed_quantizer.pt; eva_vit_g.pth, where that has no vision tower; and to decode unclip/, a `StableUnCLIPImg2ImgPipeline`
        in diffusers' format with safetensors weights
    steps: of denoising a picture
    device: where the networks compute; codes come from fp32, pictures are drawn in half precision on CUDA
    Raises CodecError when the weights can't be read or lack something; without unclip/ only when it is to decode.
    """

    name = "seed2"
    codebooks = 1
    fit = "stretch"  # as SEED's own loader does, github.com/AILab-CVC/SEED: all is seen, proportions aren't

    def __init__(self, folder: Path, steps: int = STEPS, config: Seed2Config | None = None, device: str = "cpu"):
        self.config, self.device = config or Seed2Config(), device
        self.model, self.files = read_seed2(folder, self.config)
        self.model.to(device)
        self.weights = self.files[0]
        self.unclip, self.steps = folder / "unclip", steps
        self.cardinalities = (self.config.codes,)
        self.frames = self.config.queries

    @cached_property
    def card(self) -> dict[str, Any]:
        """What the codes mean. How pictures are drawn from them is no part of that: unclip/ and its steps aren't in it."""
        order = "queries in the order of the Q-Former, each knows those before it"
        tower = {"vision_sha256": sha256_of(self.files[1])} if len(self.files) > 1 else {}
        return image_card(self, self.config.resolution, order) | tower

    @property
    def cannot_decode(self) -> str | None:
        if not self.unclip.is_dir():
            return "the weights of StableUnCLIP aren't there"
        return None if find_spec("diffusers") else "diffusers isn't installed"

    def read(self, path: Path) -> Image:
        return read_image(path, (self.config.resolution,) * 2)

    @torch.no_grad()
    def encode(self, media: Sequence[Image]) -> Int[np.ndarray, "b k t"]:
        check_pictures(media, self.config.resolution)
        pixels = (pixels_of(media) / 255 - MEAN) / STD
        return self.model.encode(pixels.to(self.device))[:, None].cpu().numpy()

    @torch.no_grad()
    def embed(self, codes: Int[np.ndarray, "b k t"]) -> Float[np.ndarray, "b e"]:
        """The embeddings of CLIP ViT-H/14 that the codes stand for; needs no unclip/."""
        check_cells(codes, self)
        return self.model.embed(torch.from_numpy(codes[:, 0]).to(self.device)).cpu().numpy()

    def decode(self, codes: Int[np.ndarray, "b k t"]) -> list[Image]:
        """Pictures of unCLIP's size, 768 x 768 as published. Same codes, same picture, within the rounding of a batch's sums.

        Raises CodecError, as `embed` does, and for pictures that aren't numbers.
        """
        parts = torch.from_numpy(self.embed(codes)).split(DRAWN_AT_ONCE)
        return [image for part in parts for image in self._draw(part)]

    def _draw(self, embeddings: Float[torch.Tensor, "b e"]) -> list[Image]:
        pipeline, count = self._pipeline, len(embeddings)
        pixels = pipeline(
            prompt=[""] * count,
            image_embeds=embeddings.to(self.device, pipeline.dtype),
            latents=start_of(pipeline.unet.config).to(self.device, pipeline.dtype).repeat(count, 1, 1, 1),
            noise_level=0,
            guidance_scale=GUIDANCE,
            num_inference_steps=self.steps,
            # of the little noise that unCLIP lays on embeddings; one for each picture, so that its neighbours don't matter
            generator=[torch.Generator().manual_seed(0) for _ in range(count)],
            output_type="np",
        ).images
        if not np.isfinite(pixels).all():
            raise CodecError(f"{self.unclip}: draws pixels that aren't numbers; fetch it again, or set device to cpu")
        return [Image(picture) for picture in (pixels * 255).round().astype(np.uint8)]

    @cached_property
    def _pipeline(self) -> Any:
        """Read when a picture is first drawn: codes alone need neither diffusers nor the memory."""
        dtype = torch.float16 if torch.device(self.device).type == "cuda" else torch.float32
        return read_unclip(self.unclip, self.config.embedding, dtype).to(self.device)


def start_of(unet: Any) -> Float[torch.Tensor, "1 c h w"]:
    """The latent that every picture is drawn from, as SEED's own loader has one for all; in fp32, as half precision draws other numbers."""
    shape = (1, unet.in_channels, unet.sample_size, unet.sample_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def read_unclip(folder: Path, embedding: int, dtype: torch.dtype) -> Any:
    """A `StableUnCLIPImg2ImgPipeline` for embeddings of that many numbers, on the CPU. Raises CodecError."""
    if not folder.is_dir():
        raise CodecError(
            f"{folder}: no such folder, and SEED-2's codes become pictures only there; "
            "put diffusers' folder of stable-diffusion-2-1-unclip in its place"
        )
    try:
        from diffusers import StableUnCLIPImg2ImgPipeline
    except (ImportError, RuntimeError) as error:  # the latter when it doesn't get along with another package
        raise CodecError(
            f"codec 'image' draws SEED-2's pictures with diffusers, which can't be loaded ({in_short(error)}); pip install diffusers"
        ) from error
    try:
        pipeline = StableUnCLIPImg2ImgPipeline.from_pretrained(
            folder, dtype=dtype, local_files_only=True, use_safetensors=True
        )
        size = pipeline.image_normalizer.config.embedding_dim
        if size != embedding:
            raise ValueError(f"it draws from embeddings of {size} numbers, SEED-2 gives {embedding}")
    except (OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, SafetensorError) as error:
        raise CodecError(f"{folder}: no unCLIP that can be read ({in_short(error)}); fetch it again") from error
    pipeline.set_progress_bar_config(disable=True)
    pipeline.vae.enable_slicing()  # one by one: at 768 x 768 a layer's values take 300 MB a picture, in half precision
    return pipeline
