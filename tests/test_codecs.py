"""Codecs: a batch is its clips one by one, cards say what codes mean, and weights that aren't whole are refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import ENCODEC
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refusals import refused
from safetensors.torch import load_file, save_file
from transformers import EncodecConfig, EncodecModel

from lumo.codecs import CodecError, load_codecs, weights_sha256
from lumo.codecs.encodec import EncodecCodec
from lumo.codecs.spectral import SpectralCodec, SpectralConfig, level_codes, levels, shapes, spectra
from lumo.codecs.twotone import TwoToneCodec, TwoToneConfig, cut, split
from lumo.datasets import world
from lumo.media import Audio, Image, MediaError, png_bytes, wav_bytes
from lumo.params import ParamsError, load_profile

LOADERS = {
    "image_codec": TwoToneCodec,
    "encodec": lambda folder: EncodecCodec(folder, 0.4, 1.0),
    "audio_codec": lambda folder: SpectralCodec(folder, 0.65, 1.0),
}
SPECTRAL = SpectralConfig(window=1024, hop=320, codebooks=3, cardinality=16, rounds=4)


@pytest.fixture(scope="module")
def pictures():
    return [world.draw(scene, np.random.default_rng(n)) for n, scene in enumerate(world.scenes("image")[::160])]


@pytest.fixture(scope="module")
def clips():
    scenes = world.scenes("music")[::24] + world.scenes("sfx")[::12]
    return [world.play(scene, np.random.default_rng(n)) for n, scene in enumerate(scenes)]


@pytest.fixture
def media(pictures, clips):
    return {"image": pictures, "audio": clips}


@pytest.fixture(scope="module")
def weights(toy_folder, clips, tmp_path_factory):
    """The toys, and a spectral codec whose codebooks are frames of the clips."""
    folder = shutil.copytree(toy_folder, tmp_path_factory.mktemp("weights"), dirs_exist_ok=True)
    wave = torch.from_numpy(np.concatenate([clip.samples for clip in clips]))
    frames = shapes(spectra(wave, SPECTRAL).abs()).flatten(0, 1)
    chosen = torch.randperm(len(frames), generator=torch.Generator().manual_seed(0))[:32]
    books = frames[chosen].unflatten(0, (2, 16)) * torch.tensor([1.0, 0.2])[:, None, None]
    SpectralCodec.save(folder / "audio_codec", SPECTRAL, books)
    return folder


@pytest.fixture(scope="module")
def every_codec(weights):
    return {part: load(weights / part) for part, load in LOADERS.items()}


def of(part: str, media: dict) -> list:
    return media["image" if part == "image_codec" else "audio"]


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


@settings(deadline=None, max_examples=30)
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


@pytest.mark.parametrize("level_db", [-90.0, -59.5, -30.0, -12.0, 0.0, 6.0])
def test_the_level_of_a_tone_is_kept_to_a_step(level_db):
    """-62 dB and below is silence, full scale the most there is."""
    wave = 10 ** (level_db / 20) * torch.sin(2 * torch.pi * 440 * torch.arange(16_000) / 16_000)[None]
    config = SpectralConfig()
    magnitude = spectra(wave, config).abs()[..., 5:-5]
    codes = level_codes(magnitude, config)
    assert codes.unique().numel() == 1
    full = 20 * torch.log10(levels(codes, config) / levels(torch.tensor(config.top_level), config))
    if level_db < -62:
        assert codes[0, 0] == 0
    else:
        assert abs(float(full[0, 0]) - min(level_db, 0)) <= config.level_step_db / 2 + 0.1


def test_loud_and_soft_have_one_shape(weights, clips):
    codec = SpectralCodec(weights / "audio_codec", 0.65, 1.0)
    soft = [Audio(clip.samples / 8, clip.sample_rate_hz) for clip in clips]
    loud_codes, soft_codes = codec.encode(clips), codec.encode(soft)
    both = (loud_codes[:, 0] > 0) & (soft_codes[:, 0] > 0)
    same = (loud_codes[:, 1:] == soft_codes[:, 1:]).all(1)
    assert both.mean() > 0.5 and same[both].mean() > 0.99  # rounding may tip a frame that lies between two shapes
    assert np.abs((loud_codes - soft_codes)[:, 0][both] - 20 * np.log10(8) / 2).max() <= 1


# --- what isn't as it should be ---------------------------------------------------------------------------------------


def test_a_picture_of_another_size_is_refused(codecs, pictures, tmp_path):
    small = Image(np.zeros((32, 48, 3), np.uint8))
    with refused(CodecError, "codec 'image' reads 64x64 pixels, got 48x32; resize it first"):
        codecs.image.encode([pictures[0], small])
    (tmp_path / "a.png").write_bytes(png_bytes(small))
    with refused(MediaError, "a.png: picture is 48x32 pixels, expected 64x64; resize it first"):
        codecs.image.read(tmp_path / "a.png")


@pytest.mark.parametrize(("rate", "shape"), [(44_100, (1, 16_000)), (16_000, (2, 16_000)), (16_000, (1, 15_999))])
@pytest.mark.parametrize("part", ["encodec", "audio_codec"])
def test_a_clip_of_another_rate_channels_or_length_is_refused(every_codec, clips, tmp_path, part, rate, shape):
    other = Audio(np.zeros(shape, np.float32), rate)
    expected = f"codec 'audio' reads (Hz, channels, samples) (16000, 1, 16000), got {(rate, *shape)}"
    with refused(CodecError, expected, "resample or cut it first"):
        every_codec[part].encode([clips[0], other])
    (tmp_path / "a.wav").write_bytes(wav_bytes(other))
    with refused(MediaError, "a.wav: sound ", "expected", "first"):
        every_codec[part].read(tmp_path / "a.wav")


def test_codes_of_another_shape_are_refused(codecs, every_codec):
    with refused(CodecError, "codec 'image' decodes (codebooks, patches) (2, 16), got (2, 15)"):
        codecs.image.decode(np.zeros((1, 2, 15), np.int64))
    with refused(CodecError, "codec 'image'", "got (1, 16)"):
        codecs.image.decode(np.zeros((1, 1, 16), np.int64))
    for part, books in (("encodec", 2), ("audio_codec", 3)):
        with refused(CodecError, f"codec 'audio' has {books} codebooks, got 4"):
            every_codec[part].decode(np.zeros((1, 4, 50), np.int64))


# --- cards ------------------------------------------------------------------------------------------------------------


def test_cards_say_what_the_codes_mean(toy_folder, codecs):
    image, audio = codecs.image.card, codecs.audio.card
    assert json.loads(json.dumps([image, audio])) == [image, audio]
    assert {"name", "weights_sha256", "resolution", "codebooks", "cardinality", "frames", "order"} <= set(image)
    assert {"sample_rate_hz", "channels", "frame_rate_hz", "bandwidth_kbps", "clip_s", "weights_sha256"} <= set(audio)
    assert (audio["frame_rate_hz"], audio["codebooks"], audio["cardinality"], audio["frames"]) == (50.0, 2, 16, 50)
    assert (image["codebooks"], image["cardinality"], image["frames"]) == (2, [16, 48], 16)
    assert audio["weights_sha256"] == weights_sha256(toy_folder / "encodec" / "model.safetensors")


@pytest.mark.parametrize(
    ("part", "codec", "widths", "books"),
    [("encodec", EncodecCodec, (0.2, 0.4), (1, 2)), ("audio_codec", SpectralCodec, (0.45, 0.65), (2, 3))],
)
def test_the_bandwidth_chooses_the_codebooks(weights, clips, part, codec, widths, books):
    narrow, wide = (codec(weights / part, kbps, 1.0) for kbps in widths)
    assert (narrow.codebooks, wide.codebooks) == books
    assert np.array_equal(narrow.encode(clips), wide.encode(clips)[:, : books[0]])
    assert narrow.card != wide.card


@pytest.mark.parametrize(
    ("part", "codec", "kbps"), [("encodec", EncodecCodec, 0.4), ("audio_codec", SpectralCodec, 0.65)]
)
def test_whole_numbers_give_the_same_card(weights, part, codec, kbps):
    """1 and 1.0 are written differently in JSON, and would be two token spaces."""
    one, same = (codec(weights / part, kbps, clip_s).card for clip_s in (1, 1.0))
    assert json.dumps(one) == json.dumps(same)


# --- loading ----------------------------------------------------------------------------------------------------------


def copied(weights, tmp_path, part):
    return shutil.copytree(weights / part, tmp_path / part, dirs_exist_ok=True)


@pytest.mark.parametrize("part", LOADERS)
def test_loading_twice_gives_the_same_codec(weights, part, every_codec, media):
    codec = LOADERS[part](weights / part)
    assert codec.card == every_codec[part].card
    assert np.array_equal(codec.encode(of(part, media)), every_codec[part].encode(of(part, media)))


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**6))
@pytest.mark.parametrize("part", LOADERS)
def test_cut_weights_are_refused(weights, tmp_path, part, length):
    folder = copied(weights, tmp_path, part)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: length % len(whole)])
    with refused(CodecError, f"{folder}: ", "make it again"):
        LOADERS[part](folder)


@pytest.mark.parametrize("part", LOADERS)
@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_missing_file_is_refused(weights, tmp_path, part, file):
    folder = copied(weights, tmp_path, part)
    (folder / file).unlink()
    with refused(CodecError, f"{folder}: ", file, "make it again"):
        LOADERS[part](folder)


@pytest.mark.parametrize("part", LOADERS)
@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}"])
def test_a_config_that_is_none_is_refused(weights, tmp_path, part, content):
    folder = copied(weights, tmp_path, part)
    (folder / "config.json").write_text(content)
    with refused(CodecError, f"{folder}: ", "make it again"):
        LOADERS[part](folder)


@pytest.mark.parametrize("part", LOADERS)
@pytest.mark.parametrize("fault", ["missing", "other shape"])
def test_weights_that_do_not_fit_are_refused(weights, tmp_path, part, fault):
    """transformers alone would fill what is missing with random numbers, and go on."""
    folder = copied(weights, tmp_path, part)
    tensors = load_file(folder / "model.safetensors")
    name = sorted(tensors)[len(tensors) // 2]
    value = tensors.pop(name)
    if fault == "other shape":
        tensors[name] = torch.zeros(*value.shape, 2)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with refused(CodecError, f"{folder}: ", "make it again"):
        LOADERS[part](folder)


@pytest.mark.parametrize("kbps", [0.3, 6.0])
@pytest.mark.parametrize(
    ("part", "codec", "offered"),
    [("encodec", EncodecCodec, "[0.2, 0.4]"), ("audio_codec", SpectralCodec, "[0.45, 0.65]")],
)
def test_an_unknown_bandwidth_is_refused(weights, part, codec, kbps, offered):
    with refused(CodecError, f"no bandwidth of {kbps:g} kbit/s, expected one of {offered}"):
        codec(weights / part, kbps, 1.0)


def test_a_clip_that_is_no_whole_number_of_frames_is_refused(weights):
    with refused(CodecError, "clips of 0.99 s aren't a whole number of 320-sample frames; change clip_s"):
        SpectralCodec(weights / "audio_codec", 0.65, 0.99)


def test_a_model_that_scales_its_clips_is_refused(tmp_path):
    EncodecModel(EncodecConfig(**ENCODEC | {"normalize": True})).save_pretrained(tmp_path)
    with refused(CodecError, f"{tmp_path}: this EnCodec scales each clip", "use a model with normalize=false"):
        EncodecCodec(tmp_path, 0.4, 1.0)


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
