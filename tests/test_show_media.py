"""Sounds, pictures and figures on a page: what plays and what is seen is what was made."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile
from pages import RATE, noise_image, payload, read, tone
from PIL import Image as PILImage

from lumo.media import Audio
from lumo.show import grid, picture, player, spectrogram
from lumo.show.sounds import SPECTRUM_DB, spectrum_db

# --- sounds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "audio",
    [tone(peak=0.5), tone(peak=0.001), tone(peak=0.3, channels=2), Audio(np.zeros((1, 800), np.float32), RATE)],
    ids=["ordinary", "quiet", "stereo", "silent"],
)
def test_what_plays_is_what_was_made(audio):
    reader = read(player(audio, "clip"))
    (source,) = reader.sources("audio")
    assert source.startswith("data:audio/wav;base64,")
    samples, rate = soundfile.read(io.BytesIO(payload(source)), dtype="float32", always_2d=True)
    assert rate == RATE
    np.testing.assert_allclose(samples.T, audio.samples, atol=1.6 / 32768)  # half a step, and 32767 against 32768


def test_loudness_is_never_normalised():
    peaks = []
    for peak in (0.9, 0.01):
        (source,) = read(player(tone(peak=peak))).sources("audio")
        peaks.append(np.abs(soundfile.read(io.BytesIO(payload(source)))[0]).max())
    assert peaks == pytest.approx([0.9, 0.01], rel=0.01)


def test_a_player_has_its_controls_and_nothing_loads_by_itself():
    ((_, attributes),) = [element for element in read(player(tone())).elements if element[0] == "audio"]
    assert "controls" in attributes and attributes["preload"] == "none" and "autoplay" not in attributes


def test_a_player_in_words():
    assert player(tone(peak=0.5), "clip").text == "♪ clip: 1.00 s, 16000 Hz, peak 0.50, RMS -9.0 dBFS"
    assert player(tone(peak=0.001), "clip").text == "♪ clip: 1.00 s, 16000 Hz, peak 1.0e-03, RMS -63.0 dBFS"
    silence = player(Audio(np.zeros((1, 800), np.float32), RATE), "clip")
    assert silence.text == "♪ clip: 0.05 s, 16000 Hz, peak 0.00, silent"
    loud = Audio(np.array([[1.5, -2.0, 0.5, 0.0]], np.float32), RATE)
    assert "peak 2.00" in player(loud).text and "2 samples clipped at ±1" in player(loud).text
    assert "2 samples clipped" in read(player(loud)).words
    (source,) = read(player(loud)).sources("audio")
    heard = soundfile.read(io.BytesIO(payload(source)))[0]
    np.testing.assert_allclose(heard, [1, -1, 0.5, 0], atol=1e-4)  # clipped, not wrapped round


def test_a_broken_clip_says_so_and_a_report_goes_on():
    samples = np.zeros((1, 9), np.float32)
    samples[0, 3] = np.inf
    page = player(Audio(samples, RATE), "clip")
    assert read(page).sources("audio") == []
    assert page.text == "✗ clip: 1 of 9 samples are not finite numbers, nothing to play"
    read(spectrogram(Audio(samples, RATE)))


def test_an_empty_clip_has_a_page():
    empty = Audio(np.zeros((1, 0), np.float32), RATE)
    read(player(empty)), read(spectrogram(empty))


# --- spectrograms -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hertz", [500.0, 2000.0, 6000.0])
def test_a_tone_stands_at_its_frequency_and_its_level(hertz):
    levels = spectrum_db(tone(hertz, peak=0.1))
    middle = levels[:, levels.shape[1] // 2]
    at = np.argmax(middle) * (RATE / 2) / (len(middle) - 1)
    assert at == pytest.approx(hertz, abs=RATE / 512)
    assert middle.max() == pytest.approx(-20, abs=0.1)


def test_the_scale_of_a_spectrogram_never_moves():
    def brightness(audio):
        (source,) = read(spectrogram(audio)).sources("img")
        assert source.startswith("data:image/webp")
        assert len(source) < 30_000, "a report holds hundreds of these"
        return np.asarray(PILImage.open(io.BytesIO(payload(source))).convert("RGB"), dtype=float).mean()

    noise = np.random.default_rng(0).normal(size=(1, RATE)).astype(np.float32)
    loud, quiet = (brightness(Audio(noise * level, RATE)) for level in (0.2, 0.002))
    assert loud > quiet + 20
    assert spectrum_db(tone(peak=0.0)).max() == SPECTRUM_DB[0]


def test_opposite_channels_do_not_cancel_in_the_picture():
    left = tone().samples
    assert spectrum_db(Audio(np.concatenate([left, -left]), RATE)).max() == pytest.approx(-6, abs=0.2)


def test_a_long_clip_keeps_its_click_and_a_small_picture():
    samples = np.zeros((1, RATE * 60), np.float32)
    samples[0, 123_457] = 1.0
    levels = spectrum_db(Audio(samples, RATE))
    assert levels.shape[1] == 600
    loudest = levels.max(axis=0)
    assert loudest[round(600 * 123_457 / samples.shape[1]) - 1 :][:3].max() > -60
    assert (loudest > SPECTRUM_DB[0]).sum() <= 2


def test_a_tone_that_is_cut_off_draws_no_click_at_the_ends():
    levels = spectrum_db(tone(1000.3, samples=RATE + 77))
    assert levels[64:].max() < -60, "energy from 2 kHz up, where there is none"  # rows are 31.25 Hz apart


def test_a_click_in_the_last_sample_but_a_few_is_seen():
    samples = np.zeros((1, RATE + 77), np.float32)
    samples[0, -60] = 1.0
    assert spectrum_db(Audio(samples, RATE))[:, -1].min() > SPECTRUM_DB[0]


# --- pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zoom", [1, 3])
def test_a_picture_holds_its_very_pixels(zoom):
    image = noise_image()
    page = picture(image, "case 3", zoom)
    (source,) = read(page).sources("img")
    np.testing.assert_array_equal(np.asarray(PILImage.open(io.BytesIO(payload(source)))), image.pixels)
    ((_, attributes),) = [element for element in read(page).elements if element[0] == "img"]
    assert (attributes["width"], attributes["height"]) == (str(9 * zoom), str(6 * zoom))
    assert "image-rendering:pixelated" in attributes["style"] and attributes["alt"] == "case 3"
    assert page.text == "▣ case 3: 9x6 pixels"


@pytest.mark.parametrize("zoom", [0, -1, 1.5])
def test_pixels_stay_square(zoom):
    with pytest.raises(ValueError, match="expected a whole number from 1"):
        picture(noise_image(), zoom=zoom)


def test_a_grid_is_one_table_in_order():
    images = [noise_image(seed=seed) for seed in range(5)]
    page = grid([(image, f"case {number}") for number, image in enumerate(images)], columns=2)
    reader = read(page)
    names = [tag for tag, _ in reader.elements]
    assert (names.count("table"), names.count("tr"), names.count("td")) == (1, 3, 5)
    for source, image in zip(reader.sources("img"), images, strict=True):
        np.testing.assert_array_equal(np.asarray(PILImage.open(io.BytesIO(payload(source)))), image.pixels)
    assert all(attributes["loading"] == "lazy" for tag, attributes in reader.elements if tag == "img")
    assert page.text.splitlines()[4] == "▣ case 4: 9x6 pixels"
    assert "no pictures" in read(grid([])).words
    with pytest.raises(ValueError, match="at least 1"):
        grid([(images[0], "")], columns=0)
