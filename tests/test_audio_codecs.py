"""What sets the codecs of sound apart: bandwidths and codebooks, levels, segments and their scale, the published layouts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from codec_toys import fixture_clips, fixture_weights  # noqa: F401 - fixtures
from refusals import refused
from transformers import DacConfig, DacModel, EncodecConfig, EncodecModel

from lumo.codecs import CodecError
from lumo.codecs.dac import DacCodec
from lumo.codecs.encodec import EncodecCodec
from lumo.codecs.spectral import SpectralCodec, SpectralConfig, level_codes, levels, spectra
from lumo.media import Audio

# --- bandwidths and codebooks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "codec", "widths", "books"),
    [("encodec", EncodecCodec, (0.2, 0.4), (1, 2)), ("audio_codec", SpectralCodec, (0.45, 0.65), (2, 3))],
)
def test_the_bandwidth_chooses_the_codebooks(weights, clips, part, codec, widths, books):
    narrow, wide = (codec(weights / part, kbps, 1.0) for kbps in widths)
    assert (narrow.codebooks, wide.codebooks) == books
    assert np.array_equal(narrow.encode(clips), wide.encode(clips)[:, : books[0]])
    assert narrow.card != wide.card


@pytest.mark.parametrize("kbps", [0.3, 6.0])
@pytest.mark.parametrize(
    ("part", "codec", "offered"),
    [("encodec", EncodecCodec, "[0.2, 0.4]"), ("audio_codec", SpectralCodec, "[0.45, 0.65]")],
)
def test_an_unknown_bandwidth_is_refused(weights, part, codec, kbps, offered):
    with refused(CodecError, f"no bandwidth of {kbps:g} kbit/s, expected one of {offered}"):
        codec(weights / part, kbps, 1.0)


def test_fewer_codebooks_are_the_first_of_more(weights, clips):
    few, many = (DacCodec(weights / "dac", codebooks, 1.0) for codebooks in (1, 4))
    assert np.array_equal(few.encode(clips), many.encode(clips)[:, :1])


@pytest.mark.parametrize("codebooks", [0, 5])
def test_an_unknown_number_of_codebooks_is_refused(weights, codebooks):
    with refused(CodecError, f"{weights / 'dac'}: no {codebooks} codebooks, expected 1 to 4"):
        DacCodec(weights / "dac", codebooks, 1.0)


# --- levels and shapes ------------------------------------------------------------------------------------------------


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


def test_a_clip_that_is_no_whole_number_of_frames_is_refused(weights):
    with refused(CodecError, "clips of 0.99 s aren't a whole number of 320-sample frames; change clip_s"):
        SpectralCodec(weights / "audio_codec", 0.65, 0.99)


# --- segments ---------------------------------------------------------------------------------------------------------


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


# --- the published layouts --------------------------------------------------------------------------------------------


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
