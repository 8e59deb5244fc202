"""Read the world's attributes back from pixels, samples and words, by plain signal processing.

Nothing here is learned and nothing knows of the model: these readers judge it. Each returns a dictionary of attributes; an
attribute that can't be read is None, so that a blank picture or a silent clip has nothing right.

Axes: h w pixel · samples.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

import numpy as np
from numpy.typing import ArrayLike

from lumo.datasets import world
from lumo.datasets.world import Scene
from lumo.media import Audio, Image


def read(media: Image | Audio | str, kind: str) -> dict[str, str | None]:
    """The attributes that a picture, a clip or a caption shows; `kind` is image, music or sfx."""
    if isinstance(media, str):
        return read_caption(media, kind)
    if kind == "image":
        return read_image(media)
    return read_music(media) if kind == "music" else read_effect(media)


def right(media: Image | Audio | str, scene: Scene) -> dict[str, bool]:
    """For each attribute of the scene, whether the media shows it."""
    got = read(media, scene.kind)
    return {name: got[name] == value for name, value in scene.attributes.items()}


# --- pictures ---------------------------------------------------------------------------------------------------------

HALF = 20  # pixels of a template on each side of its middle


def read_image(image: Image) -> dict[str, str | None]:
    pixels = image.pixels.astype(np.float64)
    border = np.concatenate([pixels[:2].reshape(-1, 3), pixels[-2:].reshape(-1, 3)])
    ground = np.median(border, axis=0)
    background = _nearest(ground, world.BACKGROUNDS)
    found: dict[str, str | None] = dict.fromkeys(world.ATTRIBUTES["image"]) | {"background": background}
    distance = np.linalg.norm(pixels - ground, axis=2)
    # half-way between ground and paint, the paint being the most distant pixels
    mask = distance > max(40.0, np.quantile(distance, 0.995) / 2)
    if mask.sum() < 20:
        return found
    rows, columns = np.nonzero(mask)
    # extents, not the centroid: a triangle's mass lies low
    middle = (
        (np.quantile(rows, 0.02) + np.quantile(rows, 0.98)) / 2,
        (np.quantile(columns, 0.02) + np.quantile(columns, 0.98)) / 2,
    )
    found["place"] = _nearest(middle, world.PLACES)
    core = mask & (distance >= np.quantile(distance[mask], 0.4))
    found["colour"] = _nearest(np.median(pixels[core], axis=0), world.COLOURS)
    found["shape"], found["size"] = max(_templates(), key=lambda name: _best_overlap(mask, middle, _templates()[name]))
    return found


@cache
def _templates() -> dict[tuple[str, str], list[np.ndarray]]:
    """Masks bool [41 41] of every shape in every size, drawn a little smaller and larger."""
    row, column = world.PLACES["centre"]
    return {
        (shape, size): [
            _around(world.shape_cover(shape, row, column, radius + grow), row, column) > 0.5 for grow in (-0.7, 0.2)
        ]
        for shape in world.SHAPES
        for size, radius in world.SIZES.items()
    }


def _around(pixels: np.ndarray, row: int, column: int) -> np.ndarray:
    """The part [41 41] of [h w] that a template covers."""
    return pixels[row - HALF : row + HALF + 1, column - HALF : column + HALF + 1]


def _best_overlap(mask: np.ndarray, middle: tuple[float, float], templates: list[np.ndarray]) -> float:
    """The largest overlap (intersection over union) of a mask with templates laid within a pixel of `middle`."""
    edge = HALF + 4  # or windows near the picture's border would lie beyond it
    padded = np.pad(mask, edge)
    row, column = (round(value) + edge for value in middle)
    windows = [_around(padded, row + dy, column + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    return max(_overlap(window, template) for window in windows for template in templates)


def _nearest(value: ArrayLike, named: Mapping[str, ArrayLike]) -> str:
    return min(named, key=lambda name: float(np.linalg.norm(np.subtract(value, named[name]))))


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max(1, (a | b).sum()))


# --- sound ------------------------------------------------------------------------------------------------------------

FRAME = 160  # samples in an envelope frame: 10 ms
SILENT = 1e-3  # a peak of the envelope below which nothing is heard
HARMONICS = 8  # that a timbre is told by


def envelope(samples: np.ndarray) -> np.ndarray:
    """Root mean square of each 10 ms."""
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)
    return np.sqrt(np.mean(frames**2, axis=1))


def onsets(samples: np.ndarray) -> list[int]:
    """Frames at which a sound begins: the envelope rises past a third of its peak after it was below a sixth of it, or it more
    than doubles within 30 ms (a note struck while the one before still rings)."""
    level = envelope(samples)
    peak = level.max(initial=0.0)
    if peak < SILENT:
        return []
    found: list[int] = []
    armed = True
    for frame, value in enumerate(level):
        before = level[max(0, frame - 3) : max(1, frame)].min()
        if value > peak / 3 and (armed or value > 2.2 * before) and (not found or frame - found[-1] >= 8):
            found.append(frame)
            armed = False
        elif value < peak / 6:
            armed = True
    return found


def spectrum(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies in Hz and magnitudes, with a Hann window and zeros to 2 s for a fine grid."""
    windowed = samples * np.hanning(len(samples))
    padded = 2 * world.SAMPLE_RATE_HZ
    return np.fft.rfftfreq(padded, 1 / world.SAMPLE_RATE_HZ), np.abs(np.fft.rfft(windowed, padded))


def _strength(frequencies: np.ndarray, magnitudes: np.ndarray, hz: float) -> float:
    near = np.abs(frequencies - hz) < 12
    return float(magnitudes[near].max(initial=0.0))


def _loudness(samples: np.ndarray) -> str:
    """Half-way, in dB, between the middles of the two levels."""
    half = world.FULL_LEVEL * 10 ** ((world.LOUDNESS_DB["soft"] / 2 - 1) / 20)
    return "loud" if world.level(samples) > half else "soft"


def read_music(audio: Audio) -> dict[str, str | None]:
    samples = audio.samples[0].astype(np.float64)
    starts = onsets(samples)
    found: dict[str, str | None] = dict.fromkeys(world.ATTRIBUTES["music"])
    if not starts:
        return found
    found["loudness"] = _loudness(samples)
    counts = {len(times): name for name, times in world.RHYTHMS.items()}
    found["rhythm"] = counts.get(len(starts))
    frequencies, magnitudes = spectrum(samples)

    def harmonics(hz: float) -> np.ndarray:
        return np.array([_strength(frequencies, magnitudes, hz * k) for k in range(1, HARMONICS + 1)])

    # the lowest strong candidate: a strong second harmonic of C4 must not pass for C5
    strengths = {name: harmonics(hz)[0] for name, hz in world.PITCHES_HZ.items()}
    found["pitch"] = next(name for name in world.PITCHES_HZ if strengths[name] > 0.5 * max(strengths.values()))
    measured = harmonics(world.PITCHES_HZ[found["pitch"]])
    profiles = {
        name: np.pad(np.array(strengths), (0, HARMONICS - len(strengths)))
        for name, (strengths, _) in world.TIMBRES.items()
    }
    found["timbre"] = max(
        profiles,
        key=lambda name: measured @ profiles[name] / (np.linalg.norm(measured) * np.linalg.norm(profiles[name]) + 1e-9),
    )
    return found


def read_effect(audio: Audio) -> dict[str, str | None]:
    samples = audio.samples[0].astype(np.float64)
    found: dict[str, str | None] = dict.fromkeys(world.ATTRIBUTES["sfx"])
    level = envelope(samples)
    if level.max(initial=0.0) < SILENT:
        return found
    is_steady = np.mean(level > level.max() / 6) > 0.8
    effect, motion = _steady_effect(samples) if is_steady else _repeated_effect(samples)
    return found | {"effect": effect, "motion": motion, "loudness": _loudness(samples)}


def _steady_effect(samples: np.ndarray) -> tuple[str, str]:
    """(effect, motion) of a sound that never stops."""
    early, late = (_centre_hz(part) for part in (samples[: len(samples) // 3], samples[-len(samples) // 3 :]))
    motion = "rising" if late > early else "falling"
    frequencies, magnitudes = spectrum(samples)
    power = magnitudes**2
    if (frequencies * power).sum() / power.sum() < 450:  # Hz
        return "engine", motion
    return "siren" if _tonality(samples) > 0.5 else "wind", motion


def _repeated_effect(samples: np.ndarray) -> tuple[str, str]:
    """(effect, motion) of a sound that is struck again and again."""
    count = len(onsets(samples))
    motion = min(world.EVENTS_PER_S, key=lambda name: abs(world.EVENTS_PER_S[name] - count))
    frequencies, magnitudes = spectrum(samples)
    power = magnitudes**2
    bands_hz = {"knocks": (60, 500), "beeps": (900, 1100)}
    shares = {
        name: power[(frequencies > low) & (frequencies < high)].sum() / power.sum()
        for name, (low, high) in bands_hz.items()
    }
    best = max(shares, key=shares.__getitem__)
    return best if shares[best] > 0.5 else "claps", motion


def _centre_hz(samples: np.ndarray) -> float:
    """The frequency that splits the power in two."""
    frequencies, magnitudes = spectrum(samples)
    running = np.cumsum(magnitudes**2)
    return float(frequencies[np.searchsorted(running, running[-1] / 2)])


def _tonality(samples: np.ndarray) -> float:
    """Share of 32 ms frames' power that lies in their strongest 100 Hz: near 1 for a tone, low for noise."""
    window = 512
    frames = samples[: len(samples) // window * window].reshape(-1, window) * np.hanning(window)
    power = np.abs(np.fft.rfft(frames, 2048)) ** 2
    hz = np.fft.rfftfreq(2048, 1 / world.SAMPLE_RATE_HZ)
    top = hz[power.argmax(1)][:, None]
    return float(np.median((power * (np.abs(hz - top) < 50)).sum(1) / (power.sum(1) + 1e-12)))


# --- words ------------------------------------------------------------------------------------------------------------


def read_caption(text: str, kind: str) -> dict[str, str | None]:
    """The attribute values that a caption names; an attribute named twice with different values is None."""
    values = {
        "image": (world.COLOURS, world.SHAPES, world.SIZES, world.PLACES, world.BACKGROUNDS),
        "music": (world.TIMBRES, world.PITCHES_HZ, world.RHYTHMS, world.LOUDNESS_DB),
        "sfx": (world.EFFECTS, ("rising", "falling", "slow", "fast"), world.LOUDNESS_DB),
    }[kind]
    found = {}
    for attribute, names in zip(world.ATTRIBUTES[kind], values, strict=True):
        named = [name for name in names if re.search(rf"\b{re.escape(name)}\b", text)]
        found[attribute] = named[0] if len(named) == 1 else None
    return found
