"""EnCodec through transformers' `EncodecModel`: Meta's published weights and the miniature's own.

Source: Défossez et al. 2022, "High fidelity neural audio compression".

Axes: b clip · c channel · samples · k codebook · t frame.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from safetensors import SafetensorError
from transformers import EncodecModel

from lumo.codecs import CodecError, check_clips, weights_sha256
from lumo.media import Audio, ClipPolicy, read_audio


class EncodecCodec:
    """Clips of one length, at one bandwidth.

    folder: config.json and model.safetensors
    bandwidth_kbps: chooses the number of codebooks; must be one of the model's
    clip_s: seconds of every clip
    Raises CodecError for another bandwidth, and for models whose decoding needs a scale beside the codes.
    """

    name = "encodec"

    def __init__(self, folder: Path, bandwidth_kbps: float, clip_s: float):
        try:
            # without a config transformers would go on with the 24 kHz model's
            json.loads((folder / "config.json").read_text())["model_type"]
            model, loaded = EncodecModel.from_pretrained(
                folder, use_safetensors=True, local_files_only=True, output_loading_info=True
            )
            if loaded["missing_keys"]:  # transformers would fill them with random numbers
                raise ValueError(f"model.safetensors lacks {min(loaded['missing_keys'])}")
        except (OSError, RuntimeError, ValueError, TypeError, KeyError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CodecError(f"{folder}: no EnCodec that can be read ({reason}); fetch or make it again") from error
        self.model = model.eval()
        config = model.config
        if bandwidth_kbps not in config.target_bandwidths:
            raise CodecError(
                f"{folder}: no bandwidth of {bandwidth_kbps:g} kbit/s, expected one of {config.target_bandwidths}"
            )
        if config.normalize:
            raise CodecError(
                f"{folder}: this EnCodec scales each clip by a number that is no token, so its codes alone don't decode; "
                "use a model with normalize=false"
            )
        self.folder = folder
        self.bandwidth_kbps = float(bandwidth_kbps)  # 6 and 6.0 must give one card, and one hash
        self.policy = ClipPolicy(config.sampling_rate, config.audio_channels, float(clip_s))
        self.codebooks = self.model.quantizer.get_num_quantizers_for_bandwidth(bandwidth_kbps)
        self.cardinalities = (config.codebook_size,) * self.codebooks
        self.frames = -(-self.policy.samples // config.hop_length)

    @property
    def card(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "weights_sha256": weights_sha256(self.folder / "model.safetensors"),
            "sample_rate_hz": self.policy.sample_rate_hz,
            "channels": self.policy.channels,
            "frame_rate_hz": self.model.config.sampling_rate / self.model.config.hop_length,
            "codebooks": self.codebooks,
            "cardinality": self.cardinalities[0],
            "bandwidth_kbps": self.bandwidth_kbps,
            "clip_s": self.policy.duration_s,
            "frames": self.frames,
            "order": "flatten by time: cb0[t] cb1[t] ... cbK-1[t]",
        }

    def read(self, path: Path) -> Audio:
        return read_audio(path, self.policy)

    @torch.no_grad()
    def encode(self, media: Sequence[Audio]) -> Int[np.ndarray, "b k t"]:
        check_clips(media, self.policy)
        samples = torch.from_numpy(np.stack([audio.samples for audio in media]))
        codes = self.model.encode(samples, bandwidth=self.bandwidth_kbps).audio_codes
        # one chunk [1 b k t]; models that cut a clip into chunks put them one after another in time
        return torch.cat(list(codes), dim=-1).numpy().astype(np.int64)

    @torch.no_grad()
    def decode(self, codes: Int[np.ndarray, "b k t"]) -> list[Audio]:
        if codes.shape[1] != self.codebooks:
            raise CodecError(f"codec 'audio' has {self.codebooks} codebooks, got {codes.shape[1]}")
        samples = self.model.decode(torch.from_numpy(codes)[None], [None]).audio_values[..., : self.policy.samples]
        return [Audio(clip, self.policy.sample_rate_hz) for clip in samples.numpy()]
