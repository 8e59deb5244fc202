"""Media made as codecs want them: pitch, level and pixels stay what they were, whatever the size and the rate."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused
from toys import tone

from lumo.datasets import world
from lumo.datasets.fitting import Adoption, clips_of, fitted, for_codecs
from lumo.datasets.manifest import ManifestError
from lumo.media import Audio, ClipPolicy, Image

HOW = Adoption((64, 64), ClipPolicy(16_000, 1, 1.0), golden=2)


@settings(deadline=None, max_examples=25)
@given(
    st.sampled_from([8000, 11_025, 22_050, 32_000, 44_100, 48_000]), st.sampled_from([1, 2]), st.floats(0.2, 2.7),
    st.sampled_from([1, 2]), st.floats(150, 3000),
)  # fmt: skip
def test_a_tone_keeps_its_pitch_and_its_level(rate, channels, seconds, wanted, hz):
    how = Adoption((64, 64), ClipPolicy(16_000, wanted, 1.0))
    (clip,) = clips_of(Audio(tone(hz, seconds, rate, channels).T.astype(np.float32), rate), how, Counter())
    assert clip.samples.shape == (wanted, 16_000)
    length = min(16_000, int(seconds * 16_000))
    middle = clip.samples[0, length // 4 : 3 * length // 4]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle)), 2**16))
    assert abs(np.argmax(spectrum) * 16_000 / 2**16 - hz) < 3
    assert np.isclose(np.sqrt(2 * np.mean(middle**2)), 0.3, rtol=0.1)
    assert np.abs(clip.samples[:, length + 100 :]).max(initial=0) == 0


@pytest.mark.parametrize(("seconds", "parts"), [(0.4, 1), (1.4, 1), (1.6, 2), (3.0, 3), (3.4, 3), (3.6, 4)])
def test_a_long_sound_is_split_into_all_its_parts(seconds, parts):
    how = Adoption((64, 64), ClipPolicy(16_000, 1, 1.0), long="split")
    audio = Audio(np.random.default_rng(0).uniform(-0.5, 0.5, (1, round(seconds * 16_000))).astype(np.float32), 16_000)
    clips = clips_of(audio, how, Counter())
    assert len(clips) == parts
    joined = np.concatenate([clip.samples for clip in clips], axis=1)
    kept = min(joined.shape[1], audio.samples.shape[1])
    assert np.array_equal(joined[:, :kept], audio.samples[:, :kept]) and not joined[:, kept:].any()


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 200), st.integers(1, 200), st.sampled_from(["crop", "stretch"]))
def test_any_picture_fits(height, width, fit):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    assert fitted(Image(pixels), Adoption((32, 48), HOW.clips, fit=fit), Counter()).resolution == (32, 48)


def test_cropping_keeps_the_middle_and_stretching_keeps_all():
    pixels = np.zeros((64, 192, 3), np.uint8)
    pixels[:, :64, 0], pixels[:, 64:128, 1], pixels[:, 128:, 2] = 255, 255, 255
    cropped = fitted(Image(pixels), HOW, Counter()).pixels
    assert (cropped == (0, 255, 0)).all()
    stretched = fitted(Image(pixels), Adoption((64, 64), HOW.clips, fit="stretch"), Counter()).pixels
    assert [stretched[32, column].argmax() for column in (5, 32, 58)] == [0, 1, 2]


@pytest.mark.parametrize("policy", [ClipPolicy(24_000, 1, 0.8), ClipPolicy(48_000, 2, 1.5), ClipPolicy(16_000, 1, 1.0)])
def test_the_miniatures_media_become_any_codecs(policy):
    """01_token_space shows them whatever the codecs are."""
    how = Adoption((96, 96), policy)
    rng = np.random.default_rng(0)
    clip = for_codecs(world.play(world.scenes("music")[0], rng), how)
    assert (clip.sample_rate_hz, clip.samples.shape) == (policy.sample_rate_hz, (policy.channels, policy.samples))
    assert for_codecs(world.draw(world.scenes("image")[0], rng), how).resolution == (96, 96)
    silent = for_codecs(Audio(np.zeros((1, 16_000), np.float32), 16_000), how)
    assert silent.samples.shape == (policy.channels, policy.samples) and not silent.samples.any()


def test_media_that_fit_already_are_left_as_they_are():
    rng = np.random.default_rng(0)
    clip, picture = world.play(world.scenes("sfx")[0], rng), world.draw(world.scenes("image")[0], rng)
    assert np.array_equal(for_codecs(clip, HOW).samples, clip.samples)
    assert for_codecs(picture, HOW) is picture


@pytest.mark.parametrize("faulty", [{"golden": 0}, {"golden": -1}, {"source": "a/b"}, {"source": ""}, {"source": ".."}])
def test_settings_that_cant_be_are_refused_before_any_work(faulty):
    with refused(ManifestError, f"adopt: {next(iter(faulty))} is"):
        Adoption((64, 64), HOW.clips, **faulty)
