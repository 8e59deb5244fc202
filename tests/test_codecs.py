"""Codecs: a batch is its clips one by one, cards say what codes mean, and weights that aren't whole are refused."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ENCODEC
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refusals import refused
from safetensors.torch import load_file, save_file
from torch.utils._pytree import tree_map_only
from transformers import DacConfig, DacModel, EncodecConfig, EncodecModel

from lumo.codecs import CodecError, load_codecs
from lumo.codecs.dac import DacCodec
from lumo.codecs.encodec import EncodecCodec
from lumo.codecs.spectral import SpectralCodec, SpectralConfig, level_codes, levels, shapes, spectra
from lumo.codecs.twotone import TwoToneCodec, TwoToneConfig, cut, split
from lumo.datasets import world
from lumo.files import sha256_of
from lumo.media import Audio, Image, MediaError, png_bytes, wav_bytes
from lumo.params import MINIATURE, ParamsError, load_profile

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
    with refused(CodecError, "codec 'image' decodes (codebooks, patches) (2, 16), got (2, 15)"):
        codecs.image.decode(np.zeros((1, 2, 15), np.int64))
    with refused(CodecError, "codec 'image'", "got (1, 16)"):
        codecs.image.decode(np.zeros((1, 1, 16), np.int64))
    for part, books in (("encodec", 2), ("segments", 2), ("dac", 3), ("audio_codec", 3)):
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
    assert audio["weights_sha256"] == sha256_of(toy_folder / "encodec" / "model.safetensors")


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


def test_a_model_that_scales_its_segments_wants_a_scale(weights):
    """Its scales are no tokens: without a policy for them the codes don't decode."""
    with refused(CodecError, f"{weights / 'segments'}: this EnCodec scales each segment", "give codecs.audio.scale"):
        EncodecCodec(weights / "segments", 0.4, 1.0)
    with refused(
        CodecError, f"{weights / 'encodec'}: this EnCodec has no scale, got codecs.audio.scale 0.1; remove it"
    ):
        EncodecCodec(weights / "encodec", 0.4, 1.0, scale=0.1)


def test_the_scale_is_a_field_of_the_token_space(weights, clips):
    soft, loud = (EncodecCodec(weights / "segments", 0.4, 1.0, scale=scale) for scale in (0.05, 0.1))
    assert (soft.card["scale"], loud.card["scale"]) == (0.05, 0.1)
    codes = loud.encode(clips)
    assert np.array_equal(codes, soft.encode(clips))
    for one, other in zip(loud.decode(codes), soft.decode(codes), strict=True):
        assert np.allclose(one.samples, 2 * other.samples, atol=1e-6)


def test_segments_are_those_of_transformers(weights, clips):
    """Slow against fast: its own chain of encode and decode, with the scales that it measured replaced by ours."""
    codec = EncodecCodec(weights / "segments", 0.4, 1.0, scale=0.1)
    assert codec.segments == [20, 20, 11]  # 6,400 samples from each multiple of 6,336 on, in frames of 320
    for clip, codes in zip(clips[:3], codec.encode(clips[:3]), strict=True):
        true = codec.model.encode(torch.from_numpy(clip.samples)[None], bandwidth=0.4)
        pad = true.last_frame_pad_length
        assert np.array_equal(codes, np.concatenate(true.audio_codes[:, 0].numpy(), -1)[:, : 60 - pad])
        scales = [torch.full((1, 1), 0.1)] * 3
        expected = codec.model.decode(true.audio_codes, scales, last_frame_pad_length=pad).audio_values[0, :, :16_000]
        assert np.allclose(codec.decode(codes[None])[0].samples, expected.detach().numpy(), atol=1e-6)


@pytest.mark.parametrize("clip_s", [0.395, 0.4, 0.405, 0.795, 0.8, 0.99, 1.185, 1.19, 2.0])
def test_segments_of_any_clip_length_decode(weights, clip_s, rng):
    codec = EncodecCodec(weights / "segments", 0.4, clip_s, scale=0.1)
    noise = 0.1 * rng.standard_normal((1, codec.policy.samples)).astype(np.float32)
    (made,) = codec.decode(codec.encode([Audio(noise, 16_000)]))
    assert made.samples.shape == noise.shape


@pytest.mark.parametrize("part", ["encodec", "dac"])
@pytest.mark.parametrize(
    "wrong", [{"sampling_rate": "x"}, {"sampling_rate": -1}, {"sampling_rate": 0}, {"codebook_size": []},
              {"upsampling_ratios": 3, "downsampling_ratios": 3}],
)  # fmt: skip
def test_a_config_of_wrong_values_is_refused(weights, tmp_path, part, wrong):
    folder = copied(weights, tmp_path, part)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | wrong))
    with refused(CodecError, f"{folder}: no ", "make it again"):
        LOADERS[part](folder)


@pytest.mark.parametrize(
    ("part", "wrong"),
    [("twotone", {"resolution": "x"}), ("twotone", {"patch": 0}), ("twotone", {"flat": []}), ("twotone", {"depth": 3}),
     ("spectral", {"hop": 0}), ("spectral", {"window": "x"}), ("spectral", {"level_step_db": 0}), ("spectral", {"codebooks": -1})],
)  # fmt: skip
def test_a_miniature_config_of_wrong_values_is_refused(tmp_path, part, wrong):
    codec, folder = {"twotone": (TwoToneCodec, "image_codec"), "spectral": (SpectralCodec, "audio_codec")}[part]
    shutil.copytree(MINIATURE / folder, tmp_path / part)
    config = json.loads((tmp_path / part / "config.json").read_text())
    (tmp_path / part / "config.json").write_text(json.dumps(config | wrong))
    with refused(CodecError, f"{tmp_path / part}: no ", *wrong, "make it again"):
        codec(tmp_path / part, *([1.0, 2.0] if part == "spectral" else []))


@pytest.mark.parametrize("codebooks", [0, 5])
def test_an_unknown_number_of_codebooks_is_refused(weights, codebooks):
    with refused(CodecError, f"{weights / 'dac'}: no {codebooks} codebooks, expected 1 to 4"):
        DacCodec(weights / "dac", codebooks, 1.0)


def test_fewer_codebooks_are_the_first_of_more(weights, clips):
    few, many = (DacCodec(weights / "dac", codebooks, 1.0) for codebooks in (1, 4))
    assert np.array_equal(few.encode(clips), many.encode(clips)[:, :1])


@pytest.mark.parametrize(("part", "other"), [("encodec", "dac"), ("dac", "encodec")])
def test_weights_of_another_model_are_refused(weights, part, other):
    with refused(CodecError, f"config.json says model_type {other}, expected {part}"):
        LOADERS[part](weights / other)


@pytest.mark.parametrize("part", ["encodec", "segments", "dac"])
def test_weights_with_something_more_are_refused(weights, tmp_path, part):
    folder = copied(weights, tmp_path, part)
    tensors = load_file(folder / "model.safetensors") | {"and_one_more": torch.zeros(1)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with refused(CodecError, "model.safetensors has and_one_more, which the model hasn't"):
        LOADERS[part](folder)


# the published layouts, random weights: sizes, hops and frame counts
PUBLISHED = {
    "encodec 24 kHz": (EncodecConfig(), lambda f: EncodecCodec(f, 6.0, 0.1), 8, 8, 75.0),
    "encodec 32 kHz": (
        EncodecConfig(sampling_rate=32_000, target_bandwidths=[2.2], upsampling_ratios=[8, 5, 4, 4], codebook_size=2048,
                      num_filters=64, use_causal_conv=False, use_conv_shortcut=False),
        lambda f: EncodecCodec(f, 2.2, 0.1), 4, 5, 50.0,
    ),
    "encodec 48 kHz": (
        EncodecConfig(sampling_rate=48_000, audio_channels=2, normalize=True, target_bandwidths=[3.0, 6.0, 12.0, 24.0],
                      chunk_length_s=1.0, overlap=0.01, norm_type="time_group_norm", use_causal_conv=False),
        lambda f: EncodecCodec(f, 6.0, 1.5, scale=0.1), 4, 150 + 77, 150.0,
    ),
    "dac 16 kHz": (DacConfig(n_codebooks=12, downsampling_ratios=[2, 4, 5, 8]), lambda f: DacCodec(f, 12, 0.1), 12, 5, 50.0),
    "dac 24 kHz": (
        DacConfig(sampling_rate=24_000, n_codebooks=32, downsampling_ratios=[2, 4, 5, 8]),
        lambda f: DacCodec(f, 8, 0.1), 8, 8, 75.0,
    ),
    "dac 44.1 kHz": (
        DacConfig(sampling_rate=44_100, n_codebooks=9, downsampling_ratios=[2, 4, 8, 8]),
        lambda f: DacCodec(f, 9, 0.1), 9, 9, 44_100 / 512,
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("clip_s", "frames"), [(0.5, 75), (0.995, 150), (1.0, 150), (1.01, 150 + 3), (1.985, 300), (2.0, 300 + 3)]
)
def test_encodec_48_khz_decodes_clips_of_any_length(tmp_path_factory, clip_s, frames, rng):
    folder = tmp_path_factory.getbasetemp() / "encodec48"
    if not folder.exists():
        small = {"num_filters": 2, "hidden_size": 8, "codebook_dim": 8, "num_lstm_layers": 1}
        EncodecModel(EncodecConfig(**PUBLISHED["encodec 48 kHz"][0].to_dict() | small)).save_pretrained(folder)
    codec = EncodecCodec(folder, 6.0, clip_s, scale=0.1)
    noise = 0.1 * rng.standard_normal((2, codec.policy.samples)).astype(np.float32)
    codes = codec.encode([Audio(noise, 48_000)])
    assert codes.shape[2] == codec.frames == frames
    assert codec.decode(codes)[0].samples.shape == noise.shape


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_layouts(tmp_path, name, rng):
    config, load, codebooks, frames, rate = PUBLISHED[name]
    torch.manual_seed(0)
    kind = DacModel if name.startswith("dac") else EncodecModel
    kind(config).save_pretrained(tmp_path)
    codec = load(tmp_path)
    card = codec.card
    assert (codec.codebooks, codec.frames, card["frame_rate_hz"]) == (codebooks, frames, rate)
    assert (card["sample_rate_hz"], card["cardinality"]) == (config.sampling_rate, config.codebook_size)
    noise = 0.1 * rng.standard_normal((codec.policy.channels, codec.policy.samples)).astype(np.float32)
    clips = [Audio(noise, codec.policy.sample_rate_hz), Audio(0.5 * noise, codec.policy.sample_rate_hz)]
    codes = codec.encode(clips)
    assert codes.shape == (2, codebooks, frames)
    (made, _) = codec.decode(codes)
    assert made.samples.shape == noise.shape and np.isfinite(made.samples).all()


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
