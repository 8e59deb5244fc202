"""EnCodec through transformers' `EncodecModel`: 24, 32 and 48 kHz.

Source: Défossez et al. 2022, "High fidelity neural audio compression".

Axes: b clip · c channel · samples · k codebook · t frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch.nn import functional as F
from transformers import EncodecConfig, EncodecModel

from lumo.codecs import CodecError, audio_card, check_codebooks
from lumo.codecs.meta import read_meta
from lumo.codecs.pretrained import load_pretrained
from lumo.codecs.tensors import samples_of
from lumo.media import Audio, ClipPolicy, read_audio


class EncodecCodec:
    """Clips of one length, at one bandwidth.

    weights: a folder with config.json and model.safetensors, or one file in the format of Meta's own package (`.th`)
    bandwidth_kbps: chooses the number of codebooks; must be one of the model's
    clip_s: seconds of every clip
    scale: for models that divide each segment by its loudness (48 kHz) before they code it. That number is no token, so what is
        decoded has to be given one: the root mean square of every decoded segment, full scale being 1. None for all others.
    device: where the model computes; codes and clips are on the CPU
    bare: sizes without weights, see `load_pretrained`; it codes nothing
    Raises CodecError for another bandwidth, for a scale that is missing or has no use, and for segments that never advance.
    """

    name = "encodec"
    cannot_decode = None

    def __init__(
        self,
        weights: Path,
        bandwidth_kbps: float,
        clip_s: float,
        scale: float | None = None,
        device: str = "cpu",
        bare: bool = False,
    ):
        is_folder = weights.is_dir()
        model = load_pretrained(EncodecModel, weights, "EnCodec", bare) if is_folder else read_meta(weights)
        self.model, config = model if bare else model.to(device), model.config
        if bandwidth_kbps not in config.target_bandwidths:
            raise CodecError(
                f"{weights}: no bandwidth of {bandwidth_kbps:g} kbit/s, expected one of {config.target_bandwidths}"
            )
        if config.normalize and scale is None:
            raise CodecError(
                f"{weights}: this EnCodec scales each segment by a number that is no token, so its codes alone don't decode; "
                "give codecs.audio.scale, the loudness that all decoded segments get (0.1 is -20 dB), or use a model with normalize=false"
            )
        if scale is not None and not config.normalize:
            raise CodecError(f"{weights}: this EnCodec has no scale, got codecs.audio.scale {scale:g}; remove it")
        self.weights, self.scale = weights / "model.safetensors" if is_folder else weights, scale
        self.bandwidth_kbps = float(bandwidth_kbps)  # 6 and 6.0 must give one card, and one hash
        self.policy = ClipPolicy(config.sampling_rate, config.audio_channels, float(clip_s))
        _check_segments(weights, config)
        self.codebooks = self.model.quantizer.get_num_quantizers_for_bandwidth(bandwidth_kbps)
        self.cardinalities = (config.codebook_size,) * self.codebooks
        whole = self.policy.samples
        segment, stride = config.chunk_length or whole, config.chunk_stride or whole
        # frames of each segment; the last one may be short. One that lies within the overlap with the one before says nothing new, and
        # is left out: transformers would code it, and for some lengths not decode it
        starts = [start for start in range(0, whole, stride) if start == 0 or whole - start > segment - stride]
        self.segments = [-(-min(segment, whole - start) // config.hop_length) for start in starts]
        self.frames = sum(self.segments)

    @property
    def card(self) -> dict[str, Any]:
        rate = self.model.config.sampling_rate / self.model.config.hop_length
        more = {} if self.scale is None else {"scale": float(self.scale)}
        return audio_card(self, rate, bandwidth_kbps=self.bandwidth_kbps, **more)

    def read(self, path: Path) -> Audio:
        return read_audio(path, self.policy)

    @torch.no_grad()
    def encode(self, media: Sequence[Audio]) -> Int[np.ndarray, "b k t"]:
        samples = samples_of(media, self.policy).to(self.model.device)
        # [segment b k t], padded to the longest
        codes = self.model.encode(samples, bandwidth=self.bandwidth_kbps).audio_codes
        kept = [segment[..., :frames] for segment, frames in zip(codes, self.segments, strict=False)]
        return torch.cat(kept, dim=-1).cpu().numpy().astype(np.int64)

    @torch.no_grad()
    def decode(self, codes: Int[np.ndarray, "b k t"]) -> list[Audio]:
        check_codebooks(codes, self.codebooks)
        parts = torch.from_numpy(codes).to(self.model.device).split(self.segments, dim=-1)
        missing = self.segments[0] - self.segments[-1]
        stacked = torch.stack([F.pad(part, (0, self.segments[0] - part.shape[-1])) for part in parts])
        scale = None if self.scale is None else torch.full((len(codes), 1), float(self.scale), device=self.model.device)
        made = self.model.decode(stacked, [scale] * len(parts), last_frame_pad_length=missing)
        return [
            Audio(clip, self.policy.sample_rate_hz)
            for clip in made.audio_values[..., : self.policy.samples].cpu().numpy()
        ]


def _check_segments(weights: Path, config: EncodecConfig) -> None:
    """Raises CodecError for a model that codes by segments that never advance."""
    length_s, overlap = config.chunk_length_s, config.overlap
    if length_s is None:
        return
    if overlap is None or not 0 <= overlap < 1 or not config.hop_length <= config.chunk_stride <= config.chunk_length:
        raise CodecError(
            f"{weights}: config.json says segments of {length_s} s with an overlap of {overlap}, "
            f"expected each to begin a frame of {config.hop_length} samples or more after the one before; fetch or make it again"
        )
