"""A small audio codec for the miniature: residual vector quantisation of spectra, phases found again when decoding.

Each 20 ms the magnitudes of a windowed spectrum, compressed by a square root, are described by one code from each of K
codebooks, each on the residual of those before. Decoding adds the code vectors up and looks for the wave whose spectra come
closest (Griffin and Lim 1984, with the momentum of Perraudin et al. 2013). The phase costs no tokens, and a steady tone gives
a steady line of codes.

Axes: b clip · samples · f frequency bin · t frame · k codebook · v code.
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
from torch import Tensor
from torch.nn import functional as F

from lumo.codecs import CodecError, check_clips, weights_sha256
from lumo.media import Audio, ClipPolicy, read_audio


@dataclass(frozen=True)
class SpectralConfig:
    """window, hop: samples; rounds: steps of the search for phases."""

    sample_rate_hz: int = 16_000
    window: int = 1024
    hop: int = 320
    codebooks: int = 4
    cardinality: int = 256
    rounds: int = 32

    @property
    def bins(self) -> int:
        return self.window // 2 + 1

    @property
    def kbps_per_codebook(self) -> float:
        return self.sample_rate_hz / self.hop * math.log2(self.cardinality) / 1000


def spectra(wave: Float[Tensor, "b samples"], config: SpectralConfig) -> Tensor:
    """Complex [b f t]; frame t is centred on hop t, so a clip of n hops has n frames."""
    edge = (config.window - config.hop) // 2
    hann = torch.hann_window(config.window)
    return torch.stft(
        F.pad(wave, (edge, edge)), config.window, config.hop, window=hann, center=False, return_complex=True
    )


def wave_of(spectrum: Tensor, config: SpectralConfig) -> Float[Tensor, "b samples"]:
    """The wave whose spectra come closest to [b f t]: windowed frames, overlapped and added."""
    window = torch.hann_window(config.window)
    frames = torch.fft.irfft(spectrum, n=config.window, dim=1) * window[:, None]
    length = (frames.shape[2] - 1) * config.hop + config.window

    def overlap(pieces: Tensor) -> Tensor:
        return F.fold(pieces, (1, length), (1, config.window), stride=(1, config.hop)).flatten(1)

    weight = overlap((window**2)[None, :, None].expand(1, -1, frames.shape[2]))
    edge = (config.window - config.hop) // 2
    return (overlap(frames) / weight.clamp(min=1e-3))[:, edge : length - edge]


def compressed(wave: Float[Tensor, "b samples"], config: SpectralConfig) -> Float[Tensor, "b f t"]:
    """Square roots of magnitudes: loud partials don't drown soft ones, and silence stays near zero."""
    return (spectra(wave, config).abs() / config.window**0.5).sqrt()


class SpectralCodec:
    """The adapter: clips of one length, at one bandwidth.

    folder: config.json and model.safetensors (`codebooks` [k v f])
    bandwidth_kbps: chooses how many of the codebooks are used
    Raises CodecError when the files can't be read or the bandwidth isn't a whole number of codebooks.
    """

    name = "spectral"

    def __init__(self, folder: Path, bandwidth_kbps: float, clip_s: float):
        try:
            self.config = SpectralConfig(**json.loads((folder / "config.json").read_text()))
            self.books = load_file(folder / "model.safetensors")["codebooks"].float()
        except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CodecError(f"{folder}: no spectral codec that can be read ({reason}); make it again") from error
        wanted = (self.config.codebooks, self.config.cardinality, self.config.bins)
        if self.books.shape != wanted:
            raise CodecError(
                f"{folder}: codebooks are {tuple(self.books.shape)}, config.json says {wanted}; make it again"
            )
        each = self.config.kbps_per_codebook
        offered = [round(each * (k + 1), 6) for k in range(self.config.codebooks)]
        if round(bandwidth_kbps, 6) not in offered:
            raise CodecError(f"{folder}: no bandwidth of {bandwidth_kbps:g} kbit/s, expected one of {offered}")
        self.folder = folder
        self.bandwidth_kbps = float(bandwidth_kbps)  # 1 and 1.0 must give one card, and one hash
        self.codebooks = offered.index(round(bandwidth_kbps, 6)) + 1
        self.cardinality = self.config.cardinality
        self.policy = ClipPolicy(self.config.sample_rate_hz, 1, float(clip_s))
        self.frames = self.policy.samples // self.config.hop
        if self.frames * self.config.hop != self.policy.samples:
            raise CodecError(
                f"{folder}: clips of {clip_s:g} s aren't a whole number of {self.config.hop}-sample frames; change clip_s"
            )

    @property
    def card(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "weights_sha256": weights_sha256(self.folder / "model.safetensors"),
            "sample_rate_hz": self.policy.sample_rate_hz,
            "channels": 1,
            "frame_rate_hz": self.config.sample_rate_hz / self.config.hop,
            "codebooks": self.codebooks,
            "cardinality": self.cardinality,
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
        wave = torch.from_numpy(np.concatenate([audio.samples for audio in media]))
        residual = compressed(wave, self.config).transpose(1, 2)
        codes = []
        for book in self.books[: self.codebooks]:
            chosen = nearest(residual.flatten(0, 1), book).unflatten(0, residual.shape[:2])
            codes.append(chosen)
            residual = residual - book[chosen]
        return torch.stack(codes, 1).numpy()

    @torch.no_grad()
    def decode(self, codes: Int[np.ndarray, "b k t"]) -> list[Audio]:
        if codes.shape[1] != self.codebooks:
            raise CodecError(f"codec 'audio' has {self.codebooks} codebooks, got {codes.shape[1]}")
        roots = sum(book[torch.from_numpy(line)] for book, line in zip(self.books, codes.swapaxes(0, 1), strict=False))
        magnitude = roots.clamp(min=0).square().transpose(1, 2) * self.config.window**0.5
        wave = find_phases(magnitude, self.config)
        return [Audio(clip, self.policy.sample_rate_hz) for clip in wave[:, None].numpy()]

    @staticmethod
    def save(folder: Path, config: SpectralConfig, books: Float[Tensor, "k v f"]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(asdict(config), indent=2) + "\n")
        save_file({"codebooks": books.half().contiguous()}, folder / "model.safetensors")


def nearest(vectors: Float[Tensor, "n f"], book: Float[Tensor, "v f"]) -> Int[Tensor, "n"]:
    """The code of the closest vector, the first of equals."""
    return (book.square().sum(1) - 2 * vectors @ book.T).argmin(1)


def find_phases(
    magnitude: Float[Tensor, "b f t"], config: SpectralConfig, momentum: float = 0.99
) -> Float[Tensor, "b samples"]:
    """A wave with these magnitudes. It starts from phases that advance as each bin's centre frequency would, so it is deterministic."""
    bins, frames = torch.arange(config.bins)[:, None], torch.arange(magnitude.shape[2])
    start = 2 * torch.pi * bins * config.hop * frames / config.window
    spectrum = torch.polar(magnitude, start.expand_as(magnitude).contiguous())
    before = torch.zeros_like(spectrum)
    for _ in range(config.rounds):
        rebuilt = spectra(wave_of(spectrum, config), config)
        guess = rebuilt + momentum * (rebuilt - before)
        before = rebuilt
        spectrum = magnitude * guess / guess.abs().clamp(min=1e-8)
    return wave_of(spectrum, config)
