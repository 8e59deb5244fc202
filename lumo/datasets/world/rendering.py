"""Scenes to pictures and sounds: one shape on a plain ground, one second of an instrument or of an effect.

Axes: h w pixel · samples.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from lumo.datasets.world.content import (
    BACKGROUNDS,
    COLOURS,
    EVENTS_PER_S,
    LOUDNESS_DB,
    PITCHES_HZ,
    PLACES,
    RHYTHMS,
    SIZES,
    TIMBRES,
    Scene,
    scene_of,
)
from lumo.media import Audio, Image

RESOLUTION = (64, 64)
SAMPLE_RATE_HZ = 16_000
DURATION_S = 1.0
FULL_LEVEL = 0.15  # root mean square of a loud clip's loudest 20 ms; noise then peaks below 1


def draw(scene: Scene, rng: np.random.Generator) -> Image:
    """Paint an image scene; size and colour vary a little from one drawing to the next.

    The edge is anti-aliased by painting at four times the resolution.
    """
    colour, shape, size, place, background = scene.values
    row, column = PLACES[place]
    radius = SIZES[size] + rng.choice((-0.5, 0.0, 0.5))
    tint = rng.integers(-6, 7, size=3)
    cover = shape_cover(shape, row, column, radius)[..., None]
    paint = np.asarray(COLOURS[colour]) + tint
    pixels = cover * paint + (1 - cover) * np.asarray(BACKGROUNDS[background])
    return Image(np.clip(np.round(pixels), 0, 255).astype(np.uint8))


def shape_cover(shape: str, row: float, column: float, radius: float) -> np.ndarray:
    """How much of each pixel a shape covers: float64 [h w] in 0…1."""
    scale = 4
    rows, columns = ((np.arange(extent * scale) + 0.5) / scale - 0.5 for extent in RESOLUTION)
    y, x = np.meshgrid((rows - row) / radius, (columns - column) / radius, indexing="ij")
    distance = np.hypot(x, y)
    inside = {
        "circle": distance <= 1,
        "square": np.maximum(abs(x), abs(y)) <= 0.9,
        "triangle": (y <= 0.9) & (y >= 2 * abs(x) - 1),
        "cross": (np.minimum(abs(x), abs(y)) <= 0.3) & (np.maximum(abs(x), abs(y)) <= 1),
        "ring": (distance <= 1) & (distance >= 0.55),
    }[shape]
    return inside.reshape(RESOLUTION[0], scale, RESOLUTION[1], scale).mean(axis=(1, 3))


def play(scene: Scene, rng: np.random.Generator) -> Audio:
    """Synthesise a music or sfx scene; loudness varies by 2 dB and noise is drawn anew from one clip to the next."""
    *content, loudness = scene.values
    samples = _music(*content) if scene.kind == "music" else _effect(*content, rng)
    fade = np.minimum(1.0, np.arange(len(samples), 0, -1) / (0.01 * SAMPLE_RATE_HZ))
    wanted = FULL_LEVEL * 10 ** ((LOUDNESS_DB[loudness] + rng.uniform(-2, 0)) / 20)
    return Audio((samples * fade * wanted / level(samples)).astype(np.float32)[None], SAMPLE_RATE_HZ)


def level(samples: np.ndarray) -> float:
    """Root mean square of the loudest 20 ms, in steps of 10 ms: what an ear would call how loud a clip is."""
    power = np.add.reduceat(samples**2, np.arange(0, len(samples), SAMPLE_RATE_HZ // 100))
    return math.sqrt((power[1:] + power[:-1]).max() / (SAMPLE_RATE_HZ // 50))


def _seconds() -> np.ndarray:
    return np.arange(round(SAMPLE_RATE_HZ * DURATION_S)) / SAMPLE_RATE_HZ


def _music(timbre: str, pitch: str, rhythm: str) -> np.ndarray:
    time = _seconds()
    harmonics, decay = TIMBRES[timbre]
    onsets = RHYTHMS[rhythm]
    out = np.zeros_like(time)
    for onset, until in itertools.pairwise((*onsets, DURATION_S)):
        since = time - onset
        sounding = (since >= 0) & (time < until)
        attack = np.clip(since / 0.01, 0, 1)
        # a gap of 60 ms before the next onset lets a listener, and an envelope, count the notes
        release = np.clip((until - 0.06 - time) / 0.02, 0, 1) if until < DURATION_S else 1.0
        note = sum(
            strength * np.sin(2 * np.pi * PITCHES_HZ[pitch] * (k + 1) * since) for k, strength in enumerate(harmonics)
        )
        out += sounding * attack * release * np.exp(-decay * np.maximum(since, 0)) * note
    return out


def _effect(effect: str, motion: str, rng: np.random.Generator) -> np.ndarray:
    time = _seconds()
    if effect in ("siren", "engine", "wind"):
        low, high = {"siren": (500, 1500), "engine": (70, 210), "wind": (500, 3000)}[effect]
        start, end = (low, high) if motion == "rising" else (high, low)
        frequency = start * (end / start) ** (time / DURATION_S)
        phase = 2 * np.pi * np.cumsum(frequency) / SAMPLE_RATE_HZ
        if effect == "siren":
            return np.sin(phase)
        if effect == "engine":
            return sum(np.sin(k * phase) / k for k in range(1, 9))
        return _swept_noise(phase, rng)
    out = np.zeros_like(time)
    count = EVENTS_PER_S[motion]
    for onset in np.arange(count) / count:
        since = np.maximum(time - np.round(onset / 0.02) * 0.02, 0)
        started = since > 0
        if effect == "beeps":
            out += started * (since < 0.08) * np.sin(2 * np.pi * 1000 * since)
        elif effect == "knocks":
            out += started * np.exp(-since / 0.02) * np.sin(2 * np.pi * 180 * since)
        else:
            out += started * np.exp(-since / 0.015) * rng.standard_normal(len(time)) * 0.5
    return out


def _swept_noise(phase: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noise in a band of about 200 Hz around a moving centre: slow noise that modulates a carrier."""
    width = SAMPLE_RATE_HZ // 200
    kernel = np.hanning(width)
    kernel /= np.linalg.norm(kernel)
    slow = [np.convolve(rng.standard_normal(len(phase) + width - 1), kernel, "valid") for _ in range(2)]
    return slow[0] * np.cos(phase) + slow[1] * np.sin(phase)


def render(meta: dict) -> Image | Audio:
    """The picture or sound of a manifest row; the same meta gives the same bytes."""
    scene, rng = scene_of(meta), np.random.default_rng(meta["seed"])
    return draw(scene, rng) if scene.kind == "image" else play(scene, rng)
