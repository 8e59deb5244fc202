"""DAC through transformers' `DacModel`: 16, 24 and 44.1 kHz.

Source: Kumar et al. 2023, "High-fidelity audio compression with improved RVQGAN".

Axes: b clip · samples · k codebook · t frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch.nn import functional as F
from transformers import DacModel

from lumo.codecs import CodecError, audio_card, check_codebooks
from lumo.codecs.pretrained import load_pretrained
from lumo.codecs.tensors import samples_of
from lumo.media import Audio, ClipPolicy, read_audio


class DacCodec:
    """Mono clips of one length, the first few of the model's codebooks.

    folder: config.json and model.safetensors
    codebooks: how many; fewer make fewer tokens and less fidelity
    clip_s: seconds of every clip; encoded with silence up to a whole number of frames, which decoding takes away
    device: where the model computes; codes and clips are on the CPU
    bare: sizes without weights, see `load_pretrained`; it codes nothing
    Raises CodecError for more codebooks than there are.
    """

    name = "dac"
    cannot_decode = None

    def __init__(self, folder: Path, codebooks: int, clip_s: float, device: str = "cpu", bare: bool = False):
        model = load_pretrained(DacModel, folder, "DAC", bare)
        self.model = model if bare else model.to(device)
        config = self.model.config
        if not 1 <= codebooks <= config.n_codebooks:
            raise CodecError(f"{folder}: no {codebooks} codebooks, expected 1 to {config.n_codebooks}")
        self.weights, self.codebooks = folder / "model.safetensors", codebooks
        self.policy = ClipPolicy(config.sampling_rate, 1, float(clip_s))
        self.cardinalities = (config.codebook_size,) * codebooks
        self.frames = -(-self.policy.samples // config.hop_length)

    @property
    def card(self) -> dict[str, Any]:
        return audio_card(self, self.model.config.sampling_rate / self.model.config.hop_length)

    def read(self, path: Path) -> Audio:
        return read_audio(path, self.policy)

    @torch.no_grad()
    def encode(self, media: Sequence[Audio]) -> Int[np.ndarray, "b k t"]:
        samples = samples_of(media, self.policy).to(self.model.device)
        silence = self.frames * self.model.config.hop_length - self.policy.samples
        codes = self.model.encode(F.pad(samples, (0, silence)), n_quantizers=self.codebooks).audio_codes
        return codes.cpu().numpy().astype(np.int64)

    @torch.no_grad()
    def decode(self, codes: Int[np.ndarray, "b k t"]) -> list[Audio]:
        check_codebooks(codes, self.codebooks)
        samples = self.model.decode(audio_codes=torch.from_numpy(codes).to(self.model.device)).audio_values
        # odd strides (24 kHz) give back a few samples less than went in
        missing = max(0, self.policy.samples - samples.shape[-1])
        samples = F.pad(samples, (0, missing))[:, None, : self.policy.samples]
        return [Audio(clip, self.policy.sample_rate_hz) for clip in samples.cpu().numpy()]
