"""Codecs: media to codes and back. One small file an adapter; `load_codecs` is the list of them, `own` the way to add one from outside.

A codec is used on batches of equal size, never inside the training loop. Its card says what its codes mean and goes into
the token space, weights hash included.

Axes: b clip or picture · k codebook · t frame (audio) or cell (image).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Int

from lumo.files import sha256_of
from lumo.media import Audio, ClipPolicy, Image
from lumo.params import AudioCodec, ImageCodec, weights_folder
from lumo.params import Codecs as CodecParams


class CodecError(ValueError):
    """A codec that can't be loaded or used as asked; the message is one line."""


class Codec(Protocol):
    """name: the adapter's; codebooks: K; cardinalities: codes in each book; frames: T of one clip or picture.

    cannot_decode: why it only reads, None where its codes become media again
    A codec takes media of one size and refuses all others, by the file's name; `lumo adopt` makes them. A codec of pictures has
    `fit`, how one of other proportions becomes a square there, see `Adoption`; one of sounds has `policy`, a `ClipPolicy`.
    """

    name: str
    codebooks: int
    cardinalities: tuple[int, ...]
    frames: int
    cannot_decode: str | None

    @property
    def card(self) -> dict[str, Any]:
        """What the codes mean, as it stands in `token_space.json`."""

    def read(self, path: Path) -> Image | Audio:
        """Read a file as this codec wants it. Raises MediaError when it is another size or rate."""

    def encode(self, media: Sequence[Image | Audio]) -> Int[np.ndarray, "b k t"]:
        """The codes of a batch."""

    def decode(self, codes: Int[np.ndarray, "b k t"]) -> list[Image | Audio]:
        """The inverse, as far as the codec keeps it."""


@dataclass(frozen=True)
class CodecSet:
    image: Codec
    audio: Codec

    def __getitem__(self, modality: str) -> Codec:
        return {"image": self.image, "audio": self.audio}[modality]


class StoredCodec(Codec, Protocol):
    """One of lumo's own. weights: the file that holds them"""

    weights: Path


class StoredAudioCodec(StoredCodec, Protocol):
    policy: ClipPolicy


def audio_card(codec: StoredAudioCodec, frame_rate_hz: float, **more: Any) -> dict[str, Any]:
    """What an audio codec's codes mean. more: what only this one has"""
    return _card(codec) | {
        "sample_rate_hz": codec.policy.sample_rate_hz,
        "channels": codec.policy.channels,
        "frame_rate_hz": frame_rate_hz,
        "clip_s": codec.policy.duration_s,
        "order": "flatten by time: cb0[t] cb1[t] ... cbK-1[t]",
    } | more  # fmt: skip


def image_card(codec: StoredCodec, resolution: int, order: str) -> dict[str, Any]:
    """What an image codec's codes mean. resolution: height and width in pixels"""
    return _card(codec) | {"resolution": resolution, "channels": 3, "order": order}


def _card(codec: StoredCodec) -> dict[str, Any]:
    books = codec.cardinalities
    return {
        "name": codec.name,
        "weights_sha256": sha256_of(codec.weights),
        "codebooks": codec.codebooks,
        "cardinality": books[0] if len(set(books)) == 1 else list(books),
        "frames": codec.frames,
    }


def check_cells(codes: Int[np.ndarray, "b k t"], codec: Codec) -> None:
    """Raises CodecError for pictures of another number of codebooks or cells, or with codes that a codebook hasn't."""
    expected, below = (codec.codebooks, codec.frames), codec.cardinalities
    if codes.shape[1:] != expected or not ((codes >= 0) & (codes < np.array(below)[:, None])).all():
        raise CodecError(
            f"codec 'image' decodes (codebooks, cells) {expected} of codes below {max(below)}, "
            f"got {codes.shape[1:]} of {codes.min(initial=0)} to {codes.max(initial=0)}; is this another codec's picture?"
        )


def check_codebooks(codes: Int[np.ndarray, "b k t"], codebooks: int) -> None:
    """Raises CodecError for clips of another number of codebooks."""
    if codes.shape[1] != codebooks:
        raise CodecError(f"codec 'audio' has {codebooks} codebooks, got {codes.shape[1]}")


def check_clips(media: Sequence[Audio], policy: ClipPolicy) -> None:
    """Raises CodecError for a clip that isn't what the policy says."""
    for audio in media:
        got, expected = (
            (audio.sample_rate_hz, *audio.samples.shape),
            (policy.sample_rate_hz, policy.channels, policy.samples),
        )
        if got != expected:
            raise CodecError(
                f"codec 'audio' reads (Hz, channels, samples) {expected}, got {got}; resample or cut it first"
            )


def check_pictures(media: Sequence[Image], side: int) -> None:
    """Raises CodecError for a picture that isn't `side` pixels high and wide."""
    for image in media:
        if image.resolution != (side, side):
            raise CodecError(
                f"codec 'image' reads {side}x{side} pixels, got {image.resolution[1]}x{image.resolution[0]}; resize it first"
            )


def load_codecs(params: CodecParams, device: str = "cpu") -> CodecSet:
    """The codecs that a profile names, from their folders or from the miniature. Raises CodecError.

    device: where their networks compute; the miniature's own are tables and stay on the CPU
    """
    return CodecSet(load_image_codec(params.image, device), load_audio_codec(params.audio, device))


def load_image_codec(params: ImageCodec, device: str = "cpu") -> Codec:
    # imported here: the protocol alone needs no torch
    from lumo.codecs.own import load_own
    from lumo.codecs.seed2 import STEPS, Seed2Codec
    from lumo.codecs.twotone import TwoToneCodec
    from lumo.codecs.vqgan import VqganCodec

    def folder(*files: str) -> Path:
        return weights_folder(params.path, "image_codec", files)

    adapters = {
        "seed2": lambda: Seed2Codec(folder("seed_quantizer.pt"), params.steps or STEPS, device=device),
        "own": lambda: load_own(params, device),
        "twotone": lambda: TwoToneCodec(folder("config.json")),
        "vqgan": lambda: VqganCodec(folder("model.yaml", "last.ckpt"), device),
    }
    return adapters[params.name]()


def load_audio_codec(params: AudioCodec, device: str = "cpu") -> Codec:
    from lumo.codecs.dac import DacCodec
    from lumo.codecs.encodec import EncodecCodec
    from lumo.codecs.own import load_own
    from lumo.codecs.spectral import SpectralCodec

    if params.name == "own":
        return load_own(params, device)
    folder = weights_folder(params.path, "audio_codec")
    adapters = {
        "dac": lambda: DacCodec(folder, params.codebooks, params.clip_s, device),
        "encodec": lambda: EncodecCodec(folder, params.bandwidth_kbps, params.clip_s, params.scale, device),
        "spectral": lambda: SpectralCodec(folder, params.bandwidth_kbps, params.clip_s),
    }
    return adapters[params.name]()
