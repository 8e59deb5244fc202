"""Sounds: their files, read strictly and written at their own loudness.

Axes: c channel · samples.
"""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path

import numpy as np
import soundfile

from lumo.media.values import Audio, ClipPolicy, MediaError, bytes_of

# libsndfile reads many more, and shortens a cut one in silence; a cut Ogg is shorter too, which the policy tells
SOUND_FORMATS = ("WAV", "WAVEX", "FLAC", "MP3", "OGG")
MOST_SAMPLES = 2**29  # 2 GiB as fp32, three hours at 48 kHz: a header that lies would have far more made room for
LOUDEST = 16.0  # 24 dB above full scale: no recording goes there, samples on another scale (±32768) do
# what sox writes for the length of a WAV that it streams, less a part of a block; others write 0
UNKNOWN_LENGTH = 0x7FFFF000


def read_audio(path: Path | str, policy: ClipPolicy | None = None) -> Audio:
    """Read a WAV, FLAC, MP3 or Ogg file.

    policy: what the file must be; None takes any.
    Raises MediaError, also for samples that are not finite.
    """
    path = Path(path)
    data = bytes_of(path)
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            _check_header(path, file, data, policy)
            rate, frames = file.samplerate, file.frames
            samples = file.read(frames, dtype="float32", always_2d=True).T
    except soundfile.LibsndfileError as error:
        raise MediaError(
            f"{path}: not a readable sound ({error.error_string}); expected WAV, FLAC, MP3 or Ogg; export it again"
        ) from error
    audio = Audio(np.ascontiguousarray(samples), rate)
    _check_samples(path, audio, frames)
    return audio


def _check_header(path: Path, file: soundfile.SoundFile, data: bytes, policy: ClipPolicy | None) -> None:
    """Before any sample is read: room is made for as many as the header promises."""
    if file.format not in SOUND_FORMATS:
        raise MediaError(f"{path}: sound is {file.format}, expected WAV, FLAC, MP3 or Ogg; convert it first")
    if file.format.startswith("WAV"):
        _check_wav_whole(path, data)
    if policy:
        _check_policy(path, policy, file.samplerate, file.channels, file.frames)
    if file.frames * file.channels > MOST_SAMPLES:
        raise MediaError(
            f"{path}: the header promises {file.frames} samples of {file.channels} channels, expected at most {MOST_SAMPLES}; cut it first"
        )


def _check_samples(path: Path, audio: Audio, frames: int) -> None:
    """frames: as many as the header promises"""
    read = audio.samples.shape[1]
    if read < frames:
        raise MediaError(f"{path}: truncated, the header promises {frames} samples, got {read}; export it again")
    if not np.isfinite(audio.samples).all():
        raise MediaError(
            f"{path}: holds samples that are not finite numbers, expected values within ±1; export it again"
        )
    if audio.peak > LOUDEST:
        raise MediaError(f"{path}: holds samples up to {audio.peak:g}, expected values within ±1; export it again")


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
    """Raises MediaError for a WAV with fewer bytes than its own header claims; libsndfile shortens the claim to what is there, and says nothing."""
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


def sound_bytes(path: Path) -> int:
    """What a sound takes in memory, by its header; 0 where that can't be told, as reading it will say."""
    with suppress(OSError, soundfile.LibsndfileError), soundfile.SoundFile(path) as file:
        return 4 * file.frames * file.channels
    return 0


def wav_bytes(audio: Audio) -> bytes:
    """The sound as 16-bit WAV at its own loudness: samples beyond ±1 are clipped, quiet ones stay quiet."""
    buffer = io.BytesIO()
    pcm = np.round(np.clip(audio.samples.T, -1, 1) * 32767).astype(np.int16)
    soundfile.write(buffer, pcm, audio.sample_rate_hz, format="WAV", subtype="PCM_16")
    return buffer.getvalue()
