"""Fidelity: closed forms, and what must hold for any picture and any clip."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lumo.fidelity import MEL_BANDS, magnitudes, mel_distance, mel_filters, psnr_db, si_sdr_db, spread, ssim
from lumo.media import Audio, Image

RATE = 16_000


def picture(rng: np.random.Generator, height: int = 24, width: int = 37) -> Image:
    return Image(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def flat(value: int) -> Image:
    return Image(np.full((16, 16, 3), value, np.uint8))


def clip(rng: np.random.Generator, channels: int = 1) -> Audio:
    return Audio(rng.normal(0, 0.1, (channels, 4000)).astype(np.float32), RATE)


def with_noise(audio: Audio, snr_db: float, rng: np.random.Generator) -> Audio:
    """Noise of a given level that is orthogonal to the clip and has no mean."""
    s = audio.samples.astype(np.float64)
    noise = rng.normal(size=s.shape)
    for direction in (np.ones_like(s), s - s.mean()):
        noise -= np.sum(noise * direction) / np.sum(direction**2) * direction
    level = np.linalg.norm(s - s.mean()) / np.linalg.norm(noise) * 10 ** (-snr_db / 20)
    return Audio((s + level * noise).astype(np.float32), audio.sample_rate_hz)


# --- pictures ---------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 255), st.integers(0, 255))
def test_flat_pictures_have_closed_forms(a, b):
    """Without variance SSIM is its luminance term, and every pixel's error is the same."""
    c1 = (0.01 * 255) ** 2
    assert ssim(flat(a), flat(b)) == pytest.approx((2 * a * b + c1) / (a * a + b * b + c1))
    assert psnr_db(flat(a), flat(b)) == (math.inf if a == b else pytest.approx(20 * math.log10(255 / abs(a - b))))


def test_one_pixel_apart_by_hand(rng):
    true = picture(rng)
    pixels = true.pixels.copy()
    pixels[3, 5, 1] ^= 16
    assert psnr_db(true, Image(pixels)) == pytest.approx(10 * math.log10(255**2 * pixels.size / 16**2))


def test_ssim_of_one_window_by_hand(rng):
    """11 x 11 pixels hold one window: the weighted moments, one pixel after the other."""
    x, y = picture(rng, 11, 11), picture(rng, 11, 11)
    g = np.exp(-(np.hypot(*np.mgrid[-5:6, -5:6]) ** 2) / (2 * 1.5**2))
    g, c1, c2, channels = g / g.sum(), 2.55**2, 7.65**2, []
    for a, b in zip(x.pixels.transpose(2, 0, 1), y.pixels.transpose(2, 0, 1), strict=True):
        ma, mb = (g * a).sum(), (g * b).sum()
        va, vb, cov = (g * (a - ma) ** 2).sum(), (g * (b - mb) ** 2).sum(), (g * (a - ma) * (b - mb)).sum()
        channels.append((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    assert ssim(x, y) == pytest.approx(np.mean(channels))


def test_pictures_are_told_apart_both_ways(rng):
    true, other = picture(rng), picture(rng)
    assert ssim(true, true) == pytest.approx(1) and ssim(true, other) < 0.2
    assert ssim(true, other) == pytest.approx(ssim(other, true)) and psnr_db(true, other) == psnr_db(other, true)
    assert ssim(true, Image(255 - true.pixels)) < -0.5


# --- clips ------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(st.floats(-20, 60), st.sampled_from([-2.0, 0.25, 1.0]), st.integers(0, 2**32))
def test_si_sdr_is_the_level_of_noise_at_any_scale(snr_db, scale, seed):
    rng = np.random.default_rng(seed)
    true = clip(rng)
    noisy = with_noise(true, snr_db, rng)
    assert si_sdr_db(true, noisy) == pytest.approx(snr_db, abs=0.05)
    assert si_sdr_db(true, Audio(scale * noisy.samples + 0.125, RATE)) == pytest.approx(snr_db, abs=0.05)


def test_one_scale_serves_both_channels(rng):
    """A codec that makes one channel softer than the other has changed the clip."""
    true = clip(rng, 2)
    softer = Audio(true.samples * np.array([[1.0], [0.5]], np.float32), RATE)
    assert si_sdr_db(true, Audio(0.5 * true.samples, RATE)) > 100
    assert 5 < si_sdr_db(true, softer) < 15


def test_silence_has_no_scale(rng):
    silence, true = Audio(np.zeros((1, 4000), np.float32), RATE), clip(rng)
    assert si_sdr_db(silence, true) is None
    assert si_sdr_db(true, silence) == -math.inf
    assert si_sdr_db(true, true) == math.inf
    assert mel_distance(silence, silence) == 0


@pytest.mark.parametrize("channels", [1, 2])
def test_more_noise_is_a_larger_mel_distance(rng, channels):
    true = clip(rng, channels)
    distances = [mel_distance(true, with_noise(true, snr_db, rng)) for snr_db in (60, 40, 20, 0)]
    assert mel_distance(true, true) == 0 < distances[0]
    assert distances == sorted(distances)


def test_a_gain_moves_every_scale_by_its_decibels(rng):
    """log10 of magnitudes: a factor of ten is 1 in each of the seven windows, as long as nothing lies below the floor."""
    loud = Audio(clip(rng).samples * 10, RATE)
    assert mel_distance(loud, Audio(loud.samples / 10, RATE)) == pytest.approx(len(MEL_BANDS), abs=1e-3)


def test_magnitudes_of_a_tone_by_hand():
    """A sine in the middle of a bin has half of the window's sum there, and a quarter beside it."""
    tone = np.sin(2 * np.pi * 8 * np.arange(512) / 64)[None]
    middle = magnitudes(tone, 64)[0, 16]
    assert magnitudes(tone, 64).shape == (1, 33, 33)
    assert middle[6:11] == pytest.approx([0, 8, 16, 8, 0], abs=1e-6)


@pytest.mark.parametrize("rate", [16_000, 24_000, 44_100, 48_000])
def test_mel_bands_are_slaneys(rate):
    """Points one and two of 64 mels up to 8 kHz, from his formula: 200/3 Hz a mel below 1 kHz; each triangle has area 1."""
    filters = mel_filters(rate, 2048, 40)
    bins = np.fft.rfftfreq(2048, 1 / rate)
    step = (15 + 27 * math.log(rate / 2000, 6.4)) / 41 * 200 / 3
    assert (filters[0] > 0).tolist() == ((bins > 0) & (bins < 2 * step)).tolist()
    assert filters.max(1)[:3] == pytest.approx(1 / step, rel=bins[1] / step)
    assert filters.sum(1) * bins[1] == pytest.approx(1, rel=0.1)
    assert (np.diff(filters.argmax(1)) > 0).all()


def test_the_worst_is_the_end_that_was_asked_for():
    assert spread([3.0, 1.0, math.inf], np.max) == {"median": 3.0, "worst": math.inf, "over": 3}
    assert math.isnan(spread([1.0, math.nan])["worst"])  # what a broken codec gives is not left out
    assert spread([None]) == {"median": None, "worst": None, "over": 0}
