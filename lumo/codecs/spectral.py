"""A small audio codec for the miniature: the level and the shape of spectra, phases found again when decoding.

Each hop the magnitudes of a windowed spectrum are described by K codes: the first is the frame's level in steps of some dB, the
others are a residual vector quantisation of its shape, compressed by a square root (gain-shape quantisation, Gray 1984). The
same note has the same shape code loud and soft, so a language model can learn the two apart. Decoding looks for the wave
whose spectra come closest (Griffin and Lim 1984, with the momentum of Perraudin et al. 2013). The phase costs no tokens, and a
steady tone gives a steady line of codes.

Axes: b clip · samples · f frequency bin · t frame · k codebook · v code.
"""

from __future__ import annotations

import json
import math
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

from lumo.codecs import CodecError, audio_card, check_codebooks
from lumo.codecs.tensors import samples_of
from lumo.codecs.vectors import nearest
from lumo.media import Audio, ClipPolicy, read_audio
from lumo.params import Count, Negative, Positive, Section
from lumo.wording import in_short


class SpectralConfig(Section):
    """window, hop: samples; rounds: steps of the search for phases.

    codebooks: the level's and the shapes'; cardinality: of each of the shapes'
    level_floor_db: level, against a full-scale sine's, below which a frame is silence: level code 0, shape codes 0
    """

    sample_rate_hz: Count = 16_000
    window: Count = 1600
    hop: Count = 640
    codebooks: Count = 3
    cardinality: Count = 512
    rounds: Count = 64
    level_floor_db: Negative = -62.0
    level_step_db: Positive = 2.0

    @property
    def bins(self) -> int:
        return self.window // 2 + 1

    @property
    def top_level(self) -> int:
        """The level code of a full-scale sine."""
        return round(-self.level_floor_db / self.level_step_db)

    def kbps(self, codebooks: int) -> float:
        """Bandwidth of the first few codebooks."""
        bits = math.log2(self.top_level + 1) + (codebooks - 1) * math.log2(self.cardinality)
        return round(self.sample_rate_hz / self.hop * bits / 1000, 3)


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


def level_codes(magnitude: Float[Tensor, "b f t"], config: SpectralConfig) -> Int[Tensor, "b t"]:
    """Each frame's level as a code: 0 is silence, then one code for each step above the floor, up to full scale."""
    level_db = 20 * torch.log10(magnitude.norm(dim=1).clamp(min=1e-9) / _full_scale(config))
    codes = torch.round((level_db - config.level_floor_db) / config.level_step_db).long()
    return codes.clamp(0, config.top_level)


def levels(codes: Int[Tensor, "b t"], config: SpectralConfig) -> Float[Tensor, "b t"]:
    """The inverse of `level_codes`: norms of magnitudes."""
    level_db = config.level_floor_db + config.level_step_db * codes
    return torch.where(codes > 0, _full_scale(config) * 10 ** (level_db / 20), 0.0)


def shapes(magnitude: Float[Tensor, "b f t"]) -> Float[Tensor, "b t f"]:
    """Square roots of magnitudes of norm 1: loud partials don't drown soft ones."""
    return (magnitude / magnitude.norm(dim=1, keepdim=True).clamp(min=1e-9)).sqrt().transpose(1, 2)


def _full_scale(config: SpectralConfig) -> float:
    """Norm of the magnitudes of a sine of amplitude 1 under a Hann window."""
    return config.window * math.sqrt(3 / 32)


class SpectralCodec:
    """The adapter: clips of one length, at one bandwidth.

    folder: config.json and model.safetensors (`shapes` [k-1 v f])
    bandwidth_kbps: chooses how many of the codebooks are used, two at the least
    Raises CodecError when the files can't be read or the bandwidth isn't a whole number of codebooks.
    """

    name = "spectral"
    cannot_decode = None

    def __init__(self, folder: Path, bandwidth_kbps: float, clip_s: float):
        try:
            self.config = SpectralConfig(**json.loads((folder / "config.json").read_text()))
            self.books = load_file(folder / "model.safetensors")["shapes"].float()
        except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
            reason = in_short(error)
            raise CodecError(f"{folder}: no spectral codec that can be read ({reason}); make it again") from error
        wanted = (self.config.codebooks - 1, self.config.cardinality, self.config.bins)
        if self.books.shape != wanted:
            raise CodecError(
                f"{folder}: codebooks are {tuple(self.books.shape)}, config.json says {wanted}; make it again"
            )
        offered = [self.config.kbps(k) for k in range(2, self.config.codebooks + 1)]
        if bandwidth_kbps not in offered:
            raise CodecError(f"{folder}: no bandwidth of {bandwidth_kbps:g} kbit/s, expected one of {offered}")
        self.weights = folder / "model.safetensors"
        self.bandwidth_kbps = float(bandwidth_kbps)  # 1 and 1.0 must give one card, and one hash
        self.codebooks = offered.index(bandwidth_kbps) + 2
        self.cardinalities = (self.config.top_level + 1, *[self.config.cardinality] * (self.codebooks - 1))
        self.policy = ClipPolicy(self.config.sample_rate_hz, 1, float(clip_s))
        self.frames = self.policy.samples // self.config.hop
        if self.frames * self.config.hop != self.policy.samples:
            raise CodecError(
                f"{folder}: clips of {clip_s:g} s aren't a whole number of {self.config.hop}-sample frames; change clip_s"
            )

    @property
    def card(self) -> dict[str, Any]:
        order = "flatten by time: cb0[t] cb1[t] ... cbK-1[t]; cb0 is the level"
        rate = self.config.sample_rate_hz / self.config.hop
        return audio_card(self, rate, bandwidth_kbps=self.bandwidth_kbps, order=order)

    def read(self, path: Path) -> Audio:
        return read_audio(path, self.policy)

    @torch.no_grad()
    def encode(self, media: Sequence[Audio]) -> Int[np.ndarray, "b k t"]:
        wave = samples_of(media, self.policy)[:, 0]
        magnitude = spectra(wave, self.config).abs()
        loudness, residual = level_codes(magnitude, self.config), shapes(magnitude)
        codes = [loudness]
        for book in self.books[: self.codebooks - 1]:
            chosen = nearest(residual.flatten(0, 1), book).unflatten(0, residual.shape[:2])
            codes.append(chosen * (loudness > 0))  # the shape of silence is noise
            residual = residual - book[chosen]
        return torch.stack(codes, 1).numpy()

    @torch.no_grad()
    def decode(self, codes: Int[np.ndarray, "b k t"]) -> list[Audio]:
        check_codebooks(codes, self.codebooks)
        loudness, *lines = torch.from_numpy(codes).unbind(1)
        shape = sum(book[line] for book, line in zip(self.books, lines, strict=False)).clamp(min=0).square()
        shape = shape / shape.norm(dim=2, keepdim=True).clamp(min=1e-9)
        magnitude = (shape * levels(loudness, self.config)[..., None]).transpose(1, 2)
        wave = find_phases(magnitude, self.config)
        return [Audio(clip, self.policy.sample_rate_hz) for clip in wave[:, None].numpy()]

    @staticmethod
    def save(folder: Path, config: SpectralConfig, books: Float[Tensor, "k-1 v f"]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config.model_dump(), indent=2) + "\n")
        save_file({"shapes": books.half().contiguous()}, folder / "model.safetensors")


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
