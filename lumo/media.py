"""Images and sound as values, and their way to and from disk.

Axes: h w pixel · c channel · samples.

Reading is strict: a file that is missing, empty, truncated, of another rate or another length raises `MediaError` with
one line that says which file, what was found and what was expected. Nothing is resampled or cut in silence.
"""

from __future__ import annotations

import io
import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
import soundfile
from jaxtyping import Float32, UInt8
from PIL import ExifTags, UnidentifiedImageError
from PIL import Image as PILImage

# libsndfile reads many more, and shortens a cut one in silence; a cut Ogg is shorter too, which the policy tells
PICTURE_FORMATS = ("PNG", "JPEG", "WEBP")
FILTERS = Lock()
BOMBS = (PILImage.DecompressionBombWarning, PILImage.DecompressionBombError)
SOUND_FORMATS = ("WAV", "WAVEX", "FLAC", "MP3", "OGG")
MOST_SAMPLES = 2**29  # 2 GiB as fp32, three hours at 48 kHz: a header that lies would have far more made room for
LOUDEST = 16.0  # 24 dB above full scale: no recording goes there, samples on another scale (±32768) do
# what sox writes for the length of a WAV that it streams, less a part of a block; others write 0
UNKNOWN_LENGTH = 0x7FFFF000
PNG_END = b"IEND\xaeB`\x82"
# EXIF's orientations but the first, which is upright. Pillow's own `exif_transpose` also writes all other tags anew, and fails on damaged ones
TURNS = {
    2: PILImage.Transpose.FLIP_LEFT_RIGHT,
    3: PILImage.Transpose.ROTATE_180,
    4: PILImage.Transpose.FLIP_TOP_BOTTOM,
    5: PILImage.Transpose.TRANSPOSE,
    6: PILImage.Transpose.ROTATE_270,
    7: PILImage.Transpose.TRANSVERSE,
    8: PILImage.Transpose.ROTATE_90,
}


class MediaError(ValueError):
    """A media file that can't be used; the message is one line."""


@dataclass(frozen=True)
class Image:
    """An RGB picture.

    pixels: uint8 [h w 3]
    """

    pixels: UInt8[np.ndarray, "h w 3"]

    @property
    def resolution(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]


@dataclass(frozen=True)
class Audio:
    """A sound.

    samples: float32 [c samples], full scale is ±1
    sample_rate_hz: samples per second
    """

    samples: Float32[np.ndarray, "c samples"]
    sample_rate_hz: int

    @property
    def duration_s(self) -> float:
        return self.samples.shape[1] / self.sample_rate_hz

    @property
    def peak(self) -> float:
        """Largest magnitude, 0 for an empty clip."""
        return float(np.abs(self.samples).max(initial=0.0))

    @property
    def rms_dbfs(self) -> float:
        """Root mean square relative to full scale in dB, -inf for silence."""
        power = float(np.mean(np.square(self.samples, dtype=np.float64))) if self.samples.size else 0.0
        return 10 * np.log10(power) if power > 0 else float("-inf")


@dataclass(frozen=True)
class ClipPolicy:
    """What every clip of a run must be, so that every clip has the same number of tokens.

    sample_rate_hz, channels, duration_s: exact; a file that differs is refused by name.
    """

    sample_rate_hz: int
    channels: int
    duration_s: float

    @property
    def samples(self) -> int:
        return round(self.sample_rate_hz * self.duration_s)


def read_image(path: Path | str, resolution: tuple[int, int] | None = None) -> Image:
    """Read a PNG, JPEG or WebP as RGB, as a viewer shows it: the right way up, transparency over white, 16 bits as 8.

    resolution: (height, width) that the file must have; None takes any.
    Raises MediaError.
    """
    path = Path(path)
    data = _bytes_of(path)
    try:
        with _no_bombs():
            # decoding skips a PNG's checksums and its end; `verify` skips the last one
            PILImage.open(io.BytesIO(data), formats=PICTURE_FORMATS).verify()
        with PILImage.open(io.BytesIO(data), formats=PICTURE_FORMATS) as file:
            # checked before the pixels are decoded: the header alone tells, and a bomb is never unpacked
            orientation = _orientation(file)
            width, height = (file.height, file.width) if orientation in (5, 6, 7, 8) else (file.width, file.height)
            if resolution and (height, width) != tuple(resolution):
                raise MediaError(
                    f"{path}: picture is {width}x{height} pixels, "
                    f"expected {resolution[1]}x{resolution[0]}; resize it first, as lumo adopt does"
                )
            if file.format == "PNG" and PNG_END not in data:
                raise MediaError(f"{path}: truncated, expected a PNG up to its end mark; export it again")
            # a telephone's JPEG may hold a second picture for its own use, which no viewer shows
            if file.format != "MPO" and getattr(file, "is_animated", False):
                raise MediaError(f"{path}: an animation of {file.n_frames} pictures, expected one; save one of them")
            upright = file.transpose(TURNS[orientation]) if orientation in TURNS else file
            pixels = np.asarray(_rgb(upright), dtype=np.uint8)
    except MediaError:
        raise
    except (OSError, SyntaxError, ValueError, *BOMBS) as error:
        reason = "no picture format known here" if isinstance(error, UnidentifiedImageError) else str(error)
        raise MediaError(
            f"{path}: not a readable picture ({reason}); expected PNG, JPEG or WebP; export it again"
        ) from error
    return Image(np.ascontiguousarray(pixels))


@dataclass(frozen=True)
class Header:
    """What a file says it is. kind: a picture's size, a sound's rate and channels, in words; duration_s: a sound's"""

    kind: str
    duration_s: float | None = None


def describe(path: Path, medium: str) -> Header:
    """The header alone; nothing is decoded. Raises MediaError."""
    if not os.path.isfile(path):  # a pipe would be waited for
        raise MediaError(f"{path}: no file there; check the path in the manifest")
    try:
        if medium == "image":
            with _no_bombs(), PILImage.open(path, formats=PICTURE_FORMATS) as file:
                return Header(f"{file.width} x {file.height} pixels")
        # opened here: by its name alone libsndfile takes what `read_audio` refuses
        with path.open("rb") as opened, soundfile.SoundFile(opened) as file:
            if file.format not in SOUND_FORMATS:
                raise ValueError(f"format {file.format}")
            channels = f"{file.channels} channel{'s' if file.channels > 1 else ''}"
            return Header(f"{file.samplerate} Hz, {channels}", file.frames / file.samplerate)
    # TypeError: a sound whose name ends in .raw wants to be told its rate
    except (OSError, SyntaxError, ValueError, TypeError, soundfile.LibsndfileError, *BOMBS) as error:
        reason = " ".join(str(getattr(error, "error_string", error)).split())
        raise MediaError(f"{path}: not a readable {medium} ({reason}); export it again") from error


@contextmanager
def _no_bombs() -> Iterator[None]:
    """More pixels than Pillow warns of raise. One thread at a time: filters of warnings are the whole process's."""
    with FILTERS, warnings.catch_warnings():
        warnings.simplefilter("error", PILImage.DecompressionBombWarning)
        yield


def _orientation(file: PILImage.Image) -> int | None:
    """What the EXIF says of how to hold the picture; damaged, it says nothing. The pixels are judged by themselves."""
    try:
        return file.getexif().get(ExifTags.Base.Orientation)
    except (struct.error, SyntaxError, ValueError, OSError):
        return None


def _rgb(picture: PILImage.Image) -> PILImage.Image:
    if picture.mode.startswith("I"):  # 16 bits: Pillow's own conversion clips at 255
        return PILImage.fromarray(
            (np.asarray(picture, dtype=np.float64) / 257).round().clip(0, 255).astype(np.uint8)
        ).convert("RGB")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        return PILImage.alpha_composite(PILImage.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("RGB")


def read_audio(path: Path | str, policy: ClipPolicy | None = None) -> Audio:
    """Read a WAV, FLAC, MP3 or Ogg file.

    policy: what the file must be; None takes any.
    Raises MediaError, also for samples that are not finite.
    """
    path = Path(path)
    data = _bytes_of(path)
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            rate, channels, frames = file.samplerate, file.channels, file.frames
            if file.format not in SOUND_FORMATS:
                raise MediaError(f"{path}: sound is {file.format}, expected WAV, FLAC, MP3 or Ogg; convert it first")
            if file.format.startswith("WAV"):
                _check_wav_whole(path, data)
            if policy:
                _check_policy(path, policy, rate, channels, frames)
            if frames * channels > MOST_SAMPLES:
                raise MediaError(
                    f"{path}: the header promises {frames} samples of {channels} channels, expected at most {MOST_SAMPLES}; cut it first"
                )
            samples = file.read(frames, dtype="float32", always_2d=True).T
    except soundfile.LibsndfileError as error:
        raise MediaError(
            f"{path}: not a readable sound ({error.error_string}); expected WAV, FLAC, MP3 or Ogg; export it again"
        ) from error
    if samples.shape[1] < frames:
        raise MediaError(
            f"{path}: truncated, the header promises {frames} samples, got {samples.shape[1]}; export it again"
        )
    if not np.isfinite(samples).all():
        raise MediaError(
            f"{path}: holds samples that are not finite numbers, expected values within ±1; export it again"
        )
    audio = Audio(np.ascontiguousarray(samples), rate)
    if audio.peak > LOUDEST:
        raise MediaError(f"{path}: holds samples up to {audio.peak:g}, expected values within ±1; export it again")
    return audio


def sound_bytes(path: Path) -> int:
    """What a sound takes in memory, by its header; 0 where that can't be told, as reading it will say."""
    with suppress(OSError, soundfile.LibsndfileError), soundfile.SoundFile(path) as file:
        return 4 * file.frames * file.channels
    return 0


def _check_policy(path: Path, policy: ClipPolicy, rate: int, channels: int, frames: int) -> None:
    if rate != policy.sample_rate_hz:
        raise MediaError(
            f"{path}: sound is at {rate} Hz, expected {policy.sample_rate_hz} Hz; resample it first, as lumo adopt does"
        )
    if channels != policy.channels:
        raise MediaError(
            f"{path}: sound has {channels} channels, expected {policy.channels}; mix it first, as lumo adopt does"
        )
    if frames != policy.samples:
        raise MediaError(
            f"{path}: sound is {frames / rate:.3f} s long ({frames} samples), "
            f"expected {policy.duration_s:g} s ({policy.samples}); cut or pad it first, as lumo adopt does"
        )


def _check_wav_whole(path: Path, data: bytes) -> None:
    """Against the bytes that a WAV's own header claims; libsndfile shortens the claim to what is there, and says nothing."""
    at, block_align = 12, 1
    while at + 8 <= len(data):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if name == b"fmt ":
            block_align = max(1, int.from_bytes(data[at + 20 : at + 22], "little"))
        if name == b"data":
            break
        at += 8 + size + size % 2
    else:
        raise MediaError(f"{path}: truncated, expected a WAV with a data chunk; export it again")
    there = len(data) - at - 8
    # a streaming writer doesn't know the length. libsndfile reads what is there where it is 0xFFFFFFFF, and a cut file can't be told
    if size == 0 < there or (there < size and UNKNOWN_LENGTH - block_align < size < 0xFFFFFFFF):
        raise MediaError(
            f"{path}: no length in its header, expected that of the {there} bytes behind it; "
            "write it anew (sox --ignore-length in.wav out.wav, or ffmpeg -i in.wav out.wav)"
        )
    # some writers count a part of a block too many
    if size != 0xFFFFFFFF and there < size - size % block_align:
        raise MediaError(f"{path}: truncated, the header promises {size} bytes of sound, got {there}; export it again")


def _bytes_of(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MediaError(
            f"{path}: can't be read ({error.strerror or error}); check the path in the manifest"
        ) from error
    if not data:
        raise MediaError(f"{path}: empty file, expected media; export it again")
    return data


def png_bytes(image: Image) -> bytes:
    """The picture as PNG; same pixels, same bytes."""
    buffer = io.BytesIO()
    PILImage.fromarray(image.pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def wav_bytes(audio: Audio) -> bytes:
    """The sound as 16-bit WAV at its own loudness: samples beyond ±1 are clipped, quiet ones stay quiet."""
    buffer = io.BytesIO()
    pcm = np.round(np.clip(audio.samples.T, -1, 1) * 32767).astype(np.int16)
    soundfile.write(buffer, pcm, audio.sample_rate_hz, format="WAV", subtype="PCM_16")
    return buffer.getvalue()
