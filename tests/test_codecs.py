"""Codecs: a batch is its members one by one, cards say what codes mean, and a device changes neither."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from codec_toys import (  # noqa: F401 - fixtures
    AUDIO,
    LOADERS,
    fixture_clips,
    fixture_every_codec,
    fixture_media,
    fixture_pictures,
    fixture_weights,
    of,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused
from torch.utils._pytree import tree_map_only

from lumo.codecs import CodecError, load_codecs
from lumo.codecs.dac import DacCodec
from lumo.codecs.encodec import EncodecCodec
from lumo.codecs.spectral import SpectralCodec
from lumo.codecs.twotone import TwoToneConfig, cut, split
from lumo.files import sha256_of
from lumo.media import Audio, Image, MediaError, png_bytes, wav_bytes
from lumo.params import ParamsError, load_profile

# --- codes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", LOADERS)
def test_a_batch_is_its_members_one_by_one(every_codec, media, part):
    codec, items = every_codec[part], of(part, media)
    batch = codec.encode(items)
    assert batch.shape == (len(items), codec.codebooks, codec.frames) and batch.dtype == np.int64
    assert batch.min() >= 0 and (batch.max((0, 2)) < codec.cardinalities).all()
    assert np.array_equal(batch, np.concatenate([codec.encode([item]) for item in items]))
    assert np.array_equal(batch[::-1], codec.encode(items[::-1]))
    assert len({clip.tobytes() for clip in batch}) == len(batch)


@pytest.mark.parametrize("part", LOADERS)
def test_decoding_a_batch_is_decoding_its_members(every_codec, media, part):
    codec, items = every_codec[part], of(part, media)
    codes = codec.encode(items)
    field, near = ("pixels", 1.0) if part == "image_codec" else ("samples", 1e-4)
    for true, got, clip in zip(items, codec.decode(codes), codes, strict=True):
        whole, alone = getattr(got, field), getattr(codec.decode(clip[None])[0], field)
        assert (whole.shape, whole.dtype) == (getattr(true, field).shape, getattr(true, field).dtype)
        assert np.allclose(whole.astype(float), alone.astype(float), atol=near)


@pytest.mark.parametrize("part", LOADERS)
def test_any_codes_decode_to_a_whole_clip(every_codec, rng, part):
    codec = every_codec[part]
    sizes = np.array(codec.cardinalities)[None, :, None]
    for codes in (np.zeros_like(sizes), sizes - 1):
        codec.decode(np.repeat(codes, codec.frames, 2))
    media = codec.decode(rng.integers(0, sizes, (3, codec.codebooks, codec.frames)))
    values = [item.pixels if isinstance(item, Image) else item.samples for item in media]
    assert all(np.isfinite(value).all() for value in values)
    assert len({value.tobytes() for value in values}) == 3


@pytest.mark.parametrize("part", LOADERS)
def test_loading_twice_gives_the_same_codec(weights, part, every_codec, media):
    codec = LOADERS[part](weights / part)
    assert codec.card == every_codec[part].card
    assert np.array_equal(codec.encode(of(part, media)), every_codec[part].encode(of(part, media)))


# --- two tones --------------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.lists(st.integers(0, 255), min_size=6, max_size=6), st.integers(0, 2**32))
def test_a_patch_of_two_tones_is_its_tones_and_its_mask(values, seed):
    """A slow copy: pixel by pixel, what isn't dark is bright."""
    dark, bright = sorted((values[:3], values[3:]), key=lambda tone: np.dot(tone, (0.299, 0.587, 0.114)))
    where = np.random.default_rng(seed).random(256) < 0.5
    patch = torch.tensor([[[(bright if lit else dark)[c] for lit in where] for c in range(3)]], dtype=torch.float32)
    tones, mask = split(patch, TwoToneConfig())
    if sum((a - b) ** 2 for a, b in zip(dark, bright, strict=True)) < 16**2:
        assert not mask.any() and torch.allclose(tones[0, :3], tones[0, 3:])
    elif np.dot(bright, (0.299, 0.587, 0.114)) - np.dot(dark, (0.299, 0.587, 0.114)) > 0.01:
        assert torch.allclose(tones[0], torch.tensor([*dark, *bright], dtype=torch.float32), atol=1e-3)
        assert np.allclose(mask[0], where, atol=1e-3)


def test_patches_are_cut_row_by_row():
    pixels = torch.arange(3 * 64 * 64, dtype=torch.float32).reshape(1, 3, 64, 64)
    patches = cut(pixels, TwoToneConfig()).reshape(16, 3, 16, 16)
    for t in range(16):
        row, column = divmod(t, 4)
        assert torch.equal(patches[t], pixels[0, :, row * 16 : row * 16 + 16, column * 16 : column * 16 + 16])


# --- what isn't as it should be ---------------------------------------------------------------------------------------


def test_a_picture_of_another_size_is_refused(codecs, pictures, tmp_path):
    small = Image(np.zeros((32, 48, 3), np.uint8))
    with refused(CodecError, "codec 'image' reads 64x64 pixels, got 48x32; resize it first"):
        codecs.image.encode([pictures[0], small])
    (tmp_path / "a.png").write_bytes(png_bytes(small))
    with refused(MediaError, "a.png: picture is 48x32 pixels, expected 64x64; resize it first"):
        codecs.image.read(tmp_path / "a.png")


@pytest.mark.parametrize(("rate", "shape"), [(44_100, (1, 16_000)), (16_000, (2, 16_000)), (16_000, (1, 15_999))])
@pytest.mark.parametrize("part", AUDIO)
def test_a_clip_of_another_rate_channels_or_length_is_refused(every_codec, clips, tmp_path, part, rate, shape):
    other = Audio(np.zeros(shape, np.float32), rate)
    expected = f"codec 'audio' reads (Hz, channels, samples) (16000, 1, 16000), got {(rate, *shape)}"
    with refused(CodecError, expected, "resample or cut it first"):
        every_codec[part].encode([clips[0], other])
    (tmp_path / "a.wav").write_bytes(wav_bytes(other))
    with refused(MediaError, "a.wav: sound ", "expected", "first"):
        every_codec[part].read(tmp_path / "a.wav")


def test_codes_of_another_shape_are_refused(codecs, every_codec):
    with refused(CodecError, "codec 'image' decodes (codebooks, cells) (2, 16) of codes below", "got (2, 15)"):
        codecs.image.decode(np.zeros((1, 2, 15), np.int64))
    with refused(CodecError, "codec 'image'", "got (1, 16)"):
        codecs.image.decode(np.zeros((1, 1, 16), np.int64))
    tones, _ = codecs.image.cardinalities
    with refused(CodecError, f"got (2, 16) of 0 to {tones}", "another codec's"):
        codecs.image.decode(np.full((1, 2, 16), tones) * [[1], [0]])
    for part, books in (("encodec", 2), ("segments", 2), ("dac", 3), ("audio_codec", 3)):
        with refused(CodecError, f"codec 'audio' has {books} codebooks, got 4"):
            every_codec[part].decode(np.zeros((1, 4, 50), np.int64))


# --- cards and profiles -----------------------------------------------------------------------------------------------


def test_cards_say_what_the_codes_mean(toy_folder, codecs):
    image, audio = codecs.image.card, codecs.audio.card
    assert json.loads(json.dumps([image, audio])) == [image, audio]
    assert {"name", "weights_sha256", "resolution", "codebooks", "cardinality", "frames", "order"} <= set(image)
    assert {"sample_rate_hz", "channels", "frame_rate_hz", "bandwidth_kbps", "clip_s", "weights_sha256"} <= set(audio)
    assert (audio["frame_rate_hz"], audio["codebooks"], audio["cardinality"], audio["frames"]) == (50.0, 2, 16, 50)
    assert (image["codebooks"], image["cardinality"], image["frames"]) == (2, [16, 48], 16)
    assert audio["weights_sha256"] == sha256_of(toy_folder / "encodec" / "model.safetensors")


@pytest.mark.parametrize(
    ("part", "codec", "kbps"), [("encodec", EncodecCodec, 0.4), ("audio_codec", SpectralCodec, 0.65)]
)
def test_whole_numbers_give_the_same_card(weights, part, codec, kbps):
    """1 and 1.0 are written differently in JSON, and would be two token spaces."""
    one, same = (codec(weights / part, kbps, clip_s).card for clip_s in (1, 1.0))
    assert json.dumps(one) == json.dumps(same)


def test_codecs_of_a_profile(weights, tmp_path, codecs):
    def params(image, audio):
        overrides = {
            "image": {"path": str(image)},
            "audio": {"name": "encodec", "path": str(audio), "bandwidth_kbps": 0.4},
        }
        return load_profile("smoke", {"codecs": overrides}).codecs

    loaded = load_codecs(params(weights / "image_codec", weights / "encodec"))
    assert (loaded.image.card, loaded.audio.card) == (codecs.image.card, codecs.audio.card)
    with refused(ParamsError, f"{tmp_path / 'none'}: no config.json there", "expected a folder with config.json"):
        load_codecs(params(weights / "image_codec", tmp_path / "none"))
    with refused(CodecError, "no image codec that can be read"):
        load_codecs(params(weights / "encodec", weights / "encodec"))


# --- devices ----------------------------------------------------------------------------------------------------------


NETWORKS = {
    "encodec": lambda folder, device: EncodecCodec(folder, 0.4, 1.0, device=device),
    "segments": lambda folder, device: EncodecCodec(folder, 0.4, 1.0, scale=0.1, device=device),
    "dac": lambda folder, device: DacCodec(folder, 3, 1.0, device),
}


class Elsewhere:
    """A model that takes and gives tensors of the device "meta" alone, for machines with a CPU alone; it computes on zeros."""

    device = torch.device("meta")

    def __init__(self, model):
        self.model, self.config = model, model.config

    def encode(self, samples, **how):
        return self._moved(self.model.encode(self._there(samples), **how))

    def decode(self, *codes, **how):
        arguments = tree_map_only(torch.Tensor, self._there, (codes, how))
        return self._moved(self.model.decode(*arguments[0], **arguments[1]))

    def _there(self, tensor):
        assert tensor.device == self.device
        return torch.zeros(tensor.shape, dtype=tensor.dtype)

    def _moved(self, output):
        return SimpleNamespace(**tree_map_only(torch.Tensor, lambda it: it.to(self.device), dict(output)))


@pytest.mark.parametrize("part", NETWORKS)
def test_what_goes_in_follows_the_model_and_what_comes_out_is_here(weights, clips, part, monkeypatch):
    codec = NETWORKS[part](weights / part, "cpu")
    codec.model = Elsewhere(codec.model)
    monkeypatch.setattr(torch.Tensor, "cpu", lambda it: torch.zeros(it.shape, dtype=it.dtype))  # "meta" has no values
    codes = codec.encode(clips)
    assert codes.shape == (len(clips), codec.codebooks, codec.frames)
    assert [made.samples.shape for made in codec.decode(codes)] == [clip.samples.shape for clip in clips]


@pytest.mark.parametrize(
    ("part", "audio"),
    [("encodec", {"bandwidth_kbps": 0.4}), ("dac", {"bandwidth_kbps": None, "codebooks": 3})],
)
def test_a_profiles_networks_are_loaded_onto_its_device(weights, part, audio):
    overrides = {
        "image": {"path": str(weights / "image_codec")},
        "audio": {"name": part, "path": str(weights / part)} | audio,
    }
    params = load_profile("smoke", {"codecs": overrides}).codecs
    assert load_codecs(params).audio.model.device.type == "cpu"
    moved = load_codecs(params, "meta")
    assert {value.device.type for value in moved.audio.model.state_dict().values()} == {"meta"}
    assert moved.audio.card == load_codecs(params).audio.card


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("part", NETWORKS)
def test_a_gpu_gives_the_cpus_codes_but_for_rounding(weights, clips, part):
    here, there = (NETWORKS[part](weights / part, device) for device in ("cpu", "cuda"))
    codes = here.encode(clips)
    assert np.mean(there.encode(clips) == codes) > 0.9
    for one, other in zip(here.decode(codes), there.decode(codes), strict=True):
        assert np.abs(one.samples - other.samples).max() <= 0.02 * max(one.peak, 0.01)
