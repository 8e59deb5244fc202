"""One small codec of each kind, with random weights, and media for them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ENCODEC
from transformers import DacConfig, DacModel, EncodecConfig, EncodecModel

from lumo.codecs.dac import DacCodec
from lumo.codecs.encodec import EncodecCodec
from lumo.codecs.spectral import SpectralCodec, SpectralConfig, shapes, spectra
from lumo.codecs.twotone import TwoToneCodec
from lumo.datasets import world

LOADERS = {
    "image_codec": TwoToneCodec,
    "encodec": lambda folder: EncodecCodec(folder, 0.4, 1.0),
    "segments": lambda folder: EncodecCodec(folder, 0.4, 1.0, scale=0.1),
    "dac": lambda folder: DacCodec(folder, 3, 1.0),
    "audio_codec": lambda folder: SpectralCodec(folder, 0.65, 1.0),
}
AUDIO = [part for part in LOADERS if part != "image_codec"]
# as the 48 kHz model: segments of their own loudness that overlap by a hundredth, the last one short
SEGMENTS = ENCODEC | {
    "normalize": True,
    "chunk_length_s": 0.4,
    "overlap": 0.01,
    "use_causal_conv": False,
    "norm_type": "time_group_norm",
}
DAC = {"encoder_hidden_size": 4, "decoder_hidden_size": 32, "downsampling_ratios": [2, 4, 8, 5], "n_codebooks": 4,
       "codebook_size": 16, "codebook_dim": 4, "sampling_rate": 16_000}  # fmt: skip
SPECTRAL = SpectralConfig(window=1024, hop=320, codebooks=3, cardinality=16, rounds=4)


@pytest.fixture(name="pictures", scope="module")
def fixture_pictures():
    return [world.draw(scene, np.random.default_rng(n)) for n, scene in enumerate(world.scenes("image")[::160])]


@pytest.fixture(name="clips", scope="module")
def fixture_clips():
    scenes = world.scenes("music")[::24] + world.scenes("sfx")[::12]
    return [world.play(scene, np.random.default_rng(n)) for n, scene in enumerate(scenes)]


@pytest.fixture(name="media")
def fixture_media(pictures, clips):
    return {"image": pictures, "audio": clips}


@pytest.fixture(name="weights", scope="module")
def fixture_weights(toy_folder, clips, tmp_path_factory):
    """The toys, and a spectral codec whose codebooks are frames of the clips."""
    folder = shutil.copytree(toy_folder, tmp_path_factory.mktemp("weights"), dirs_exist_ok=True)
    wave = torch.from_numpy(np.concatenate([clip.samples for clip in clips]))
    frames = shapes(spectra(wave, SPECTRAL).abs()).flatten(0, 1)
    chosen = torch.randperm(len(frames), generator=torch.Generator().manual_seed(0))[:32]
    books = frames[chosen].unflatten(0, (2, 16)) * torch.tensor([1.0, 0.2])[:, None, None]
    SpectralCodec.save(folder / "audio_codec", SPECTRAL, books)
    torch.manual_seed(2)
    segments, dac = EncodecModel(EncodecConfig(**SEGMENTS)), DacModel(DacConfig(**DAC))
    samples = torch.from_numpy(np.stack([clip.samples for clip in clips]))
    with torch.no_grad():
        spread = segments.encoder(samples[..., :6400] / 0.1).std()
        for layer in segments.quantizer.layers:
            layer.codebook.embed.normal_(0, spread)
        for name, value in dac.named_parameters():  # as they start, every clip has one and the same code
            if name.endswith("weight") and "quantizer" not in name:
                value.normal_(0, value[0].numel() ** -0.5)
    segments.save_pretrained(folder / "segments")
    dac.save_pretrained(folder / "dac")
    return folder


@pytest.fixture(name="every_codec", scope="module")
def fixture_every_codec(weights):
    return {part: load(weights / part) for part, load in LOADERS.items()}


def of(part: str, media: dict) -> list:
    return media["image" if part == "image_codec" else "audio"]


def copied(weights: Path, tmp_path: Path, part: str) -> Path:
    return shutil.copytree(weights / part, tmp_path / part, dirs_exist_ok=True)
