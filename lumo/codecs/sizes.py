"""What a codec's codes look like, as far as it can be known before its weights are fetched: all that a plan needs of a codec.

Axes: k codebook · t frame (audio) or token (image).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lumo.codecs import CodecError, CodecSet, load_audio_codec, load_image_codec
from lumo.codecs.dac import DacCodec
from lumo.codecs.encodec import EncodecCodec
from lumo.codecs.seed2_network import Seed2Config
from lumo.codecs.taming import read_config
from lumo.params import AudioCodec, Codecs, ImageCodec, has_weights, weights_folder


@dataclass(frozen=True)
class CodecSizes:
    """A codec's sizes, under the names of `Codec`. cardinalities: codes in each book; frames: T of one clip or picture."""

    name: str
    cardinalities: tuple[int, ...]
    frames: int

    @property
    def codebooks(self) -> int:
        return len(self.cardinalities)

    @property
    def card(self) -> dict[str, Any]:
        """Only what the blocks of a token space follow from: its hash is no run's."""
        return {"name": self.name, "codebooks": self.codebooks, "cardinality": list(self.cardinalities)}


def known_codecs(params: Codecs) -> CodecSet:
    """Each codec of a profile, one's own among them; of one whose weights aren't there its sizes. Raises CodecError or ParamsError."""
    image, audio = params.image, params.audio
    return CodecSet(
        load_image_codec(image) if image.name == "own" or has_weights(image.path) else image_sizes(image),
        load_audio_codec(audio) if audio.name == "own" or has_weights(audio.path) else audio_sizes(audio),
    )


def image_sizes(params: ImageCodec) -> CodecSizes:
    """SEED-2's as published, VQGAN's from model.yaml. Raises ParamsError or CodecError where that isn't there, can't be
    read, or doesn't say them."""
    if params.name == "seed2":
        published = Seed2Config()
        return CodecSizes("seed2", (published.codes,), published.queries)
    if params.name == "twotone":
        raise CodecError(
            f"codecs.image: {params.path} holds no weights, which alone say the sizes of {params.name}; make them first"
        )
    config = read_config(weights_folder(params.path, "image_codec", ("model.yaml",)) / "model.yaml")
    return CodecSizes("vqgan", (config.n_embed,), config.ddconfig.heights[-1] ** 2)


def audio_sizes(params: AudioCodec) -> CodecSizes:
    """From config.json. Raises ParamsError where there is none, CodecError for one that doesn't suit, and as `image_sizes`."""
    codec = bare_audio(params)
    return CodecSizes(codec.name, codec.cardinalities, codec.frames)


def bare_audio(params: AudioCodec) -> EncodecCodec | DacCodec:
    """The codec with shapes and no values, but for EnCodec in Meta's own format, which is one file. Raises as `audio_sizes` does."""
    folder = weights_folder(params.path, "audio_codec")
    if params.name == "encodec":
        return EncodecCodec(folder, params.bandwidth_kbps, params.clip_s, params.scale, bare=True)
    if params.name == "dac":
        return DacCodec(folder, params.codebooks, params.clip_s, bare=True)
    raise CodecError(
        f"codecs.audio: {folder} holds no weights, which alone say the sizes of {params.name}; make them first"
    )
