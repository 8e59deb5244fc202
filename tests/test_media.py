"""Reading is strict and writing is lossless: whatever is wrong with a file ends in one clear line, never in media."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image as PILImage
from PIL import ImageOps
from refusals import refused

from lumo.media import (
    Audio,
    ClipPolicy,
    Image,
    MediaError,
    describe,
    picture_bytes,
    png_bytes,
    read_audio,
    read_image,
    wav_bytes,
)

quick = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
pixels = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(
    lambda size: arrays(np.uint8, (*size, 3), elements=st.integers(0, 255))
)
POLICY = ClipPolicy(16_000, 1, 0.05)


@pytest.fixture
def picture(rng):
    return Image(rng.integers(0, 256, (16, 12, 3), dtype=np.uint8))


@pytest.fixture
def sound(rng):
    return Audio((rng.standard_normal((1, 800)) * 0.1).clip(-1, 1).astype(np.float32), 16_000)


def encoded(samples, rate=16_000, **how) -> bytes:
    with io.BytesIO() as buffer:
        soundfile.write(buffer, samples, rate, **how)
        return buffer.getvalue()


def saved(image: Image, how: str) -> bytes:
    with io.BytesIO() as buffer:
        PILImage.fromarray(image.pixels).save(buffer, format=how)
        return buffer.getvalue()


def cuts(length: int) -> list[int]:
    """Lengths at which to cut a file: every one near its ends, where the headers and the end marks are, and many between."""
    between = np.random.default_rng(length).integers(1, length, 100).tolist()
    return sorted({*range(1, min(90, length)), *between, *range(max(1, length - 30), length)})


# --- there and back ---------------------------------------------------------------------------------------------------


@quick
@given(pixels)
def test_a_png_is_exact(tmp_path, pixels):
    path = tmp_path / "picture.png"
    path.write_bytes(png_bytes(Image(pixels)))
    assert np.array_equal(read_image(path, pixels.shape[:2]).pixels, pixels)
    assert png_bytes(read_image(path)) == path.read_bytes()


@quick
@given(arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 90)), elements=st.floats(-1, 1, width=32)))
def test_a_wav_is_exact_to_16_bits(tmp_path, samples):
    path = tmp_path / "sound.wav"
    path.write_bytes(wav_bytes(Audio(samples, 22_050)))
    back = read_audio(path)
    assert back.sample_rate_hz == 22_050 and back.samples.shape == samples.shape
    assert np.abs(back.samples - samples).max() <= 1.5 / 32768


def test_quiet_stays_quiet_and_loud_is_clipped(tmp_path, sound):
    for level in (1e-3, 1e-2, 1.0, 4.0):
        audio = Audio(sound.samples / sound.peak * np.float32(level), 16_000)
        (tmp_path / "sound.wav").write_bytes(wav_bytes(audio))
        back = read_audio(tmp_path / "sound.wav")
        assert back.peak == pytest.approx(min(level, 1), abs=1.5 / 32768)
        if level <= 1:
            assert back.rms_dbfs == pytest.approx(audio.rms_dbfs, abs=0.1)


def test_levels_of_silence_and_of_nothing():
    assert Audio(np.zeros((1, 10), np.float32), 16_000).rms_dbfs == float("-inf")
    assert Audio(np.zeros((1, 0), np.float32), 16_000).peak == 0
    assert (
        Audio(np.ones((2, 10), np.float32), 10).rms_dbfs == 0
        and Audio(np.ones((2, 10), np.float32), 10).duration_s == 1
    )


# --- damaged files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("content", ["noise", "flat"])
def test_a_picture_cut_anywhere_is_never_read(tmp_path, picture, how, content):
    whole = saved(picture if content == "noise" else Image(np.full((16, 12, 3), 200, np.uint8)), how)
    path = tmp_path / "picture"
    path.write_bytes(whole)
    assert read_image(path).resolution == (16, 12)
    for length in cuts(len(whole)):
        path.write_bytes(whole[:length])
        with refused(MediaError, f"{path}: ", "export it again"):
            read_image(path)


@pytest.mark.parametrize(
    ("how", "subtype"),
    [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAV", "PCM_U8"), ("WAVEX", "PCM_24"), ("FLAC", "PCM_16")],
)
@pytest.mark.parametrize("policy", [None, POLICY], ids=["any", "policy"])
def test_a_sound_cut_anywhere_is_never_read(tmp_path, sound, how, subtype, policy):
    whole = encoded(sound.samples.T, format=how, subtype=subtype)
    path = tmp_path / "sound"
    path.write_bytes(whole)
    assert read_audio(path, policy).samples.shape == (1, 800)
    for length in cuts(len(whole)):
        path.write_bytes(whole[:length])
        with refused(MediaError, f"{path}: "):
            read_audio(path, policy)


def test_a_cut_wav_is_called_truncated_not_short(tmp_path, sound):
    """A user who is told to pad the clip would train on half a clip."""
    path = tmp_path / "sound.wav"
    path.write_bytes(wav_bytes(sound)[:-600])
    for policy in (None, POLICY):
        with refused(MediaError, "truncated, the header promises 1600 bytes of sound, got 1000", "export it again"):
            read_audio(path, policy)


@pytest.mark.parametrize("length", [0, 0x7FFFEFFE, 0x7FFFF000, 0x7FFFFFFF, 0xFFFFFFDB])
def test_a_wav_without_a_length_is_said_to_have_none(tmp_path, sound, length):
    """As sox streams them: neither silent nor cut, as far as one can tell. ffmpeg's 0xFFFFFFFF is read."""
    path = tmp_path / "sound.wav"
    data = bytearray(encoded(sound.samples.T.repeat(2, axis=1), format="WAV", subtype="PCM_16"))
    at = data.index(b"data") + 4
    data[at : at + 4] = struct.pack("<I", length)
    path.write_bytes(data)
    with refused(MediaError, f"{path}: no length in its header, expected that of the 3200 bytes", "sox ", "ffmpeg "):
        read_audio(path)
    data[at : at + 4] = b"\xff" * 4
    path.write_bytes(data)
    assert read_audio(path).samples.shape == (2, 800)


@quick
@given(st.binary(max_size=200), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"RIFF\x00\x01\x00\x00WAVEfmt ", b"fLaC"]))
def test_garbage_is_refused(tmp_path, tail, head):
    path = tmp_path / "file"
    path.write_bytes(head + tail)
    for read in (read_image, read_audio):
        with refused(MediaError, f"{path}: "):
            read(path)


@quick
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1, max_size=4))
def test_flipped_bytes_give_media_or_one_line(tmp_path, flips):
    """A PNG's checksum covers its pixels; a WAV has none, so only finite samples are sure."""
    pixels = np.arange(16 * 12 * 3, dtype=np.uint8).reshape(16, 12, 3)
    samples = np.linspace(-1, 1, 200, dtype=np.float32)[:, None]
    for name, whole in (("picture", png_bytes(Image(pixels))), ("sound", encoded(samples, format="WAV"))):
        data = bytearray(whole)
        for at, mask in flips:
            data[at % len(data)] ^= mask
        if data == whole:
            continue
        path = tmp_path / name
        path.write_bytes(data)
        try:
            media = read_image(path) if name == "picture" else read_audio(path)
        except MediaError as error:
            assert "\n" not in str(error)
        else:
            right = np.array_equal(media.pixels, pixels) if name == "picture" else np.isfinite(media.samples).all()
            assert right


@pytest.mark.parametrize("read", [read_image, read_audio])
def test_files_that_hold_nothing(tmp_path, read):
    (tmp_path / "empty").touch()
    with refused(MediaError, f"{tmp_path}/empty: empty file", "export it again"):
        read(tmp_path / "empty")
    with refused(MediaError, f"{tmp_path}/missing: can't be read (No such file", "check the path in the manifest"):
        read(tmp_path / "missing")
    with refused(MediaError, f"{tmp_path}: can't be read (Is a directory"):
        read(tmp_path)


# --- files that are whole but not what was asked for ------------------------------------------------------------------


def test_a_picture_of_another_size(tmp_path, picture):
    (tmp_path / "a.png").write_bytes(png_bytes(picture))
    with refused(MediaError, "a.png: picture is 12x16 pixels, expected 64x64; resize it first"):
        read_image(tmp_path / "a.png", (64, 64))


def test_grey_alpha_and_palette_pictures_become_rgb(tmp_path, picture):
    for mode in ("L", "RGBA", "P", "1"):
        PILImage.fromarray(picture.pixels).convert(mode).save(tmp_path / "a.png")
        assert read_image(tmp_path / "a.png").pixels.shape == (16, 12, 3)


@pytest.mark.parametrize(
    ("samples", "rate", "words"),
    [
        ((800, 1), 44_100, ["sound is at 44100 Hz, expected 16000 Hz; resample it first"]),
        ((800, 2), 16_000, ["sound has 2 channels, expected 1; mix it first"]),
        ((700, 1), 16_000, ["0.044 s long (700 samples), expected 0.05 s (800); cut or pad it first"]),
        ((801, 1), 16_000, ["(801 samples), expected 0.05 s (800)"]),
        ((0, 1), 16_000, ["(0 samples), expected 0.05 s (800)"]),
    ],
)
def test_a_sound_that_breaks_the_policy(tmp_path, samples, rate, words):
    path = tmp_path / "a.wav"
    path.write_bytes(encoded(np.zeros(samples), rate, format="WAV"))
    with refused(MediaError, f"{path}: ", *words):
        read_audio(path, POLICY)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite(tmp_path, sound, value):
    samples = sound.samples.T.copy()
    samples[17] = value
    (tmp_path / "a.wav").write_bytes(encoded(samples, format="WAV", subtype="FLOAT"))
    with refused(MediaError, "a.wav: holds samples that are not finite numbers", "export it again"):
        read_audio(tmp_path / "a.wav", POLICY)


@pytest.mark.parametrize("how", ["AIFF", "AU", "W64", "RF64", "CAF"])
def test_formats_that_libsndfile_shortens_in_silence_are_refused(tmp_path, sound, how):
    (tmp_path / "a").write_bytes(encoded(sound.samples.T, format=how, subtype="PCM_16"))
    with refused(MediaError, f"sound is {how}, expected WAV, FLAC, MP3 or Ogg; convert it first"):
        read_audio(tmp_path / "a")


def test_picture_formats_that_run_other_programs_are_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    with refused(MediaError, "no picture format known here", "expected PNG, JPEG or WebP"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("side", [2**31 - 1, 60_000, 10_000])
def test_a_decompression_bomb_is_refused_by_its_header(tmp_path, side):
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 10_000)) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(bomb)
    with warnings.catch_warnings(), refused(MediaError, "bomb.png: not a readable picture (Image size", "exceeds"):
        warnings.simplefilter("ignore")  # what a notebook may have done
        read_image(tmp_path / "bomb.png")


def test_a_pictures_memory_is_told_by_its_header_or_not_at_all(tmp_path):
    PILImage.new("RGB", (300, 200)).save(tmp_path / "a.png")
    pixels = read_image(tmp_path / "a.png").pixels
    assert pixels.nbytes < picture_bytes(tmp_path / "a.png") <= 3 * pixels.nbytes
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:20])
    assert picture_bytes(tmp_path / "b.png") == picture_bytes(tmp_path / "gone.png") == 0


def test_pictures_are_read_as_a_viewer_shows_them(tmp_path):
    """The right way up, transparency over white, sixteen bits as eight."""
    sheet = PILImage.fromarray(np.zeros((8, 16, 3), np.uint8))
    sheet.paste((255, 0, 0), (0, 0, 8, 8))
    exif = PILImage.Exif()
    exif[274] = 6  # turn by 90 degrees clockwise
    sheet.save(tmp_path / "turned.png", exif=exif)
    turned = read_image(tmp_path / "turned.png", (16, 8)).pixels
    assert (turned[:8] == (255, 0, 0)).all() and not turned[8:].any()
    with refused(MediaError, "picture is 8x16 pixels, expected 16x8"):
        read_image(tmp_path / "turned.png", (8, 16))

    clear = np.zeros((4, 4, 4), np.uint8)
    clear[:2, :, 3], clear[2:, :, 0] = 255, 200
    PILImage.fromarray(clear).save(tmp_path / "clear.png")
    pixels = read_image(tmp_path / "clear.png").pixels
    assert not pixels[:2].any() and (pixels[2:] == 255).all()

    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(2, 0)
    PILImage.fromarray(ramp).save(tmp_path / "deep.png")
    assert np.abs(read_image(tmp_path / "deep.png").pixels[0, :, 0].astype(int) - np.arange(256)).max() <= 1


def test_a_flac_whose_header_promises_more_than_there_can_be_is_refused(tmp_path):
    """2^36 - 1 samples, as a fuzzer wrote: room for them would be made before the first one is read."""
    soundfile.write(tmp_path / "a.flac", np.zeros(100, np.float32), 16_000)
    data = bytearray((tmp_path / "a.flac").read_bytes())
    data[21] |= 0x0F  # STREAMINFO: the last 36 bits before the MD5 are the number of samples
    data[22:26] = b"\xff" * 4
    (tmp_path / "a.flac").write_bytes(data)
    with refused(MediaError, "a.flac: the header promises 68719476735 samples", "cut it first"):
        read_audio(tmp_path / "a.flac")


@pytest.mark.parametrize("how", ["PNG", "WEBP"])
def test_an_animation_is_refused_not_cut_to_its_first_picture(tmp_path, how):
    frames = [PILImage.new("RGB", (16, 16), colour) for colour in ("red", "blue", "green")]
    frames[0].save(tmp_path / "a", how, save_all=True, append_images=frames[1:])
    with refused(MediaError, "a: an animation of 3 pictures, expected one", "save one of them"):
        read_image(tmp_path / "a")
    frames[0].save(tmp_path / "telephone.jpg", "MPO", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "telephone.jpg").pixels[0, 0, 0] > 250


@quick
@given(st.lists(st.tuples(st.integers(8, 10**6), st.integers(0, 255)), min_size=1, max_size=5))
def test_damaged_exif_is_no_reason_to_lose_a_picture(tmp_path, edits):
    exif = PILImage.Exif()
    exif[271], exif[274], exif[282], exif[0x8825] = "maker", 6, (72, 1), {1: "N"}
    data = bytearray(exif.tobytes())
    for at, value in edits:
        data[6 + at % (len(data) - 6)] = value
    PILImage.new("RGB", (8, 16), "red").save(tmp_path / "a.jpg", exif=bytes(data))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert sorted(read_image(tmp_path / "a.jpg").resolution) == [8, 16]


@pytest.mark.parametrize("how", ["PNG", "JPEG", "WEBP"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF", "ignore:Truncated File Read", "ignore:Metadata Warning")
def test_exif_cut_anywhere_is_no_reason_to_lose_a_picture(tmp_path, how):
    exif = PILImage.Exif()
    exif[271], exif[274] = "maker", 6
    whole = exif.tobytes()
    for length in range(len(whole) + 1):
        PILImage.new("RGB", (8, 16), "red").save(tmp_path / "a", how, exif=whole[:length])
        assert sorted(read_image(tmp_path / "a").resolution) == [8, 16]
    assert read_image(tmp_path / "a").resolution == (8, 16), "whole, it turns the picture"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_as_pillow_turns_it(tmp_path, picture, orientation):
    exif = PILImage.Exif()
    exif[274] = orientation
    PILImage.fromarray(picture.pixels).save(tmp_path / "a.png", exif=exif)
    with PILImage.open(tmp_path / "a.png") as file:
        assert np.array_equal(read_image(tmp_path / "a.png").pixels, np.asarray(ImageOps.exif_transpose(file)))


@pytest.mark.parametrize(
    ("subtype", "rate"), [("MS_ADPCM", 16_000), ("IMA_ADPCM", 16_000), ("GSM610", 8000), ("G721_32", 8000)]
)
def test_compressed_wavs_are_read_whole_or_not(tmp_path, subtype, rate):
    """Their blocks hold many samples; some of them can't be sought in, so libsndfile wants to be told how much to read."""
    whole = encoded(np.sin(np.arange(4000) / 9) / 3, rate, format="WAV", subtype=subtype)
    (tmp_path / "a.wav").write_bytes(whole)
    assert read_audio(tmp_path / "a.wav").samples.shape[1] >= 4000
    (tmp_path / "a.wav").write_bytes(whole[: len(whole) // 2])
    with refused(MediaError, "a.wav: truncated, the header promises", "bytes of sound"):
        read_audio(tmp_path / "a.wav")


def test_samples_of_another_scale_are_refused(tmp_path, sound):
    """Integers written as floats would be clipped to a square wave."""
    (tmp_path / "a.wav").write_bytes(encoded(sound.samples.T * 32768, format="WAV", subtype="FLOAT"))
    with refused(MediaError, "a.wav: holds samples up to", "expected values within ±1"):
        read_audio(tmp_path / "a.wav")


def test_a_header_is_read_as_the_file_will_be(tmp_path, sound):
    """By its name alone libsndfile would look for an MP3 behind what stands before it."""
    mp3 = encoded(np.tile(sound.samples.T, (20, 1)), 44_100, format="MP3")
    (tmp_path / "a.mp3").write_bytes(b"\xaa" * 777 + mp3)
    for read in (read_audio, lambda path: describe(path, "audio")):
        with refused(MediaError, "a.mp3: not a readable", "export it again"):
            read(tmp_path / "a.mp3")
