"""Images and sound as values.

Axes: h w pixel · c channel · samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8


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


def bytes_of(path: Path) -> bytes:
    """What a file holds. Raises MediaError, also when it holds nothing."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MediaError(
            f"{path}: can't be read ({error.strerror or error}); check the path in the manifest"
        ) from error
    if not data:
        raise MediaError(f"{path}: empty file, expected media; export it again")
    return data
