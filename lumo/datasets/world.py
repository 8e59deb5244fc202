"""The miniature's world: captioned pictures and sounds whose content is known exactly.

A picture is one shape on a plain ground; a clip is one second of an instrument or of an effect. Each has a caption in
one of several wordings. Some combinations of attributes are held out of training altogether. Everything is written as
ordinary PNG and WAV files with a manifest, so what follows is the same code as for a published dataset.

Axes: h w pixel · samples.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from lumo.files import write_atomically
from lumo.media import Audio, Image, png_bytes, wav_bytes

RESOLUTION = (64, 64)
SAMPLE_RATE_HZ = 16_000
DURATION_S = 1.0

COLOURS = {
    "red": (214, 40, 40),
    "orange": (245, 140, 20),
    "yellow": (240, 220, 40),
    "green": (40, 150, 60),
    "cyan": (40, 200, 210),
    "blue": (40, 70, 200),
    "purple": (130, 50, 170),
    "pink": (245, 130, 185),
}
SHAPES = ("circle", "square", "triangle", "cross", "ring")
SIZES = {"small": 8.0, "large": 14.0}  # half the width of the shape, in pixels
PLACES = {
    "top left": (17, 17),
    "top right": (17, 47),
    "bottom left": (47, 17),
    "bottom right": (47, 47),
    "centre": (32, 32),
}
BACKGROUNDS = {"white": (245, 245, 245), "black": (12, 12, 12)}

# relative strength of the harmonics 1, 2, 3 …; decay in 1/s
TIMBRES = {
    "flute": ((1.0, 0.08, 0.02), 1.0),
    "clarinet": ((1.0, 0.0, 0.75, 0.0, 0.5, 0.0, 0.25), 1.0),
    "violin": ((0.8, 0.85, 0.6, 0.6, 0.45, 0.4, 0.3, 0.25), 1.0),
    "marimba": ((1.0, 0.0, 0.0, 0.45), 9.0),
}
PITCHES_HZ = {  # a pentatonic scale: neighbours are at least a tenth apart
    "C4": 261.63, "D4": 293.66, "E4": 329.63, "G4": 392.00, "A4": 440.00, "C5": 523.25, "D5": 587.33, "E5": 659.26,
}  # fmt: skip
RHYTHMS = {  # onsets in seconds
    "one long note": (0.0,),
    "two notes": (0.0, 0.5),
    "three notes": (0.0, 0.34, 0.68),
    "four quick notes": (0.0, 0.24, 0.48, 0.72),
}
EFFECTS = {
    "siren": ("rising", "falling"),
    "engine": ("rising", "falling"),
    "wind": ("rising", "falling"),
    "beeps": ("slow", "fast"),
    "knocks": ("slow", "fast"),
    "claps": ("slow", "fast"),
}
EVENTS_PER_S = {"slow": 3, "fast": 6}
LOUDNESS_DB = {"loud": 0.0, "soft": -12.0}
FULL_LEVEL = 0.15  # root mean square of a loud clip's loudest 20 ms; noise then peaks below 1

ATTRIBUTES = {
    "image": ("colour", "shape", "size", "place", "background"),
    "music": ("timbre", "pitch", "rhythm", "loudness"),
    "sfx": ("effect", "motion", "loudness"),
}

WORDINGS = {
    "image": (
        "a {size} {colour} {shape} at the {place} on a {background} background",
        "on {background}, there is a {size} {shape} in {colour}, placed {place}",
        "the picture shows a {colour} {shape}. it is {size} and sits at the {place}. the ground is {background}",
        "{place}: one {size} {colour} {shape}, {background} background",
    ),
    "music": (
        "a {loudness} {timbre} plays {rhythm} on {pitch}",
        "{rhythm} on {pitch}, played by a {loudness} {timbre}",
        "we hear {pitch} from a {timbre}, {loudness}: {rhythm}",
        "{loudness} {timbre} music, {rhythm}, pitch {pitch}",
        "a {timbre}. the pitch is {pitch} and there is {rhythm}, {loudness}",
        "listen to {rhythm} of a {loudness} {timbre} at {pitch}",
    ),
    "sfx": (
        "the sound of a {loudness} {effect}, {motion}",
        "{effect}, {motion} and {loudness}",
        "we hear a {motion} {effect} that is {loudness}",
        "sound effect: {loudness} {motion} {effect}",
    ),
}


@dataclass(frozen=True)
class Scene:
    """What is in a picture or a clip: its kind (`image`, `music`, `sfx`) and its attributes, in the kind's order."""

    kind: str
    values: tuple[str, ...]

    @property
    def attributes(self) -> dict[str, str]:
        return dict(zip(ATTRIBUTES[self.kind], self.values, strict=True))

    @property
    def name(self) -> str:
        """A name fit for an id or a file: `image-red-circle-small-top_left-white`."""
        return "-".join((self.kind, *self.values)).replace(" ", "_")

    def caption(self, wording: int) -> str:
        """The scene in words; `wording` counts modulo the number of wordings."""
        return WORDINGS[self.kind][wording % len(WORDINGS[self.kind])].format(**self.attributes)


def scenes(kind: str) -> list[Scene]:
    """All combinations of attributes of a kind, in a fixed order."""
    if kind == "image":
        values = itertools.product(COLOURS, SHAPES, SIZES, PLACES, BACKGROUNDS)
    elif kind == "music":
        values = itertools.product(TIMBRES, PITCHES_HZ, RHYTHMS, LOUDNESS_DB)
    else:
        values = (
            (effect, motion, level)
            for effect, motions in EFFECTS.items()
            for motion in motions
            for level in LOUDNESS_DB
        )
    return [Scene(kind, tuple(value)) for value in values]


@cache
def held_out(kind: str) -> frozenset[Scene]:
    """A tenth of a kind's combinations (rounded up) that never appears in training.

    Greedy over an order fixed by a hash, spread over the pairs of values, so that every pair of two values stays in
    training: what is tested is a new combination of known parts.
    """
    everything = scenes(kind)
    wanted = math.ceil(len(everything) / 10)
    by_hash = sorted(everything, key=lambda scene: hashlib.sha256(scene.name.encode()).hexdigest())
    chosen: set[Scene] = set()
    used: dict[tuple, int] = {}
    for limit in itertools.count(1):  # spread first: no part is held out twice before every part was held out once
        for scene in by_hash:
            parts = list(itertools.combinations(enumerate(scene.values), 2))
            if len(chosen) < wanted and scene not in chosen and all(used.get(part, 0) < limit for part in parts):
                chosen.add(scene)
                for part in parts:
                    used[part] = used.get(part, 0) + 1
        if len(chosen) == wanted:
            return frozenset(chosen)


def seen(kind: str) -> list[Scene]:
    """The combinations of a kind that may appear in training, in a fixed order."""
    return [scene for scene in scenes(kind) if scene not in held_out(kind)]


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


def rows(images: int, clips: int, pairs: int, seed: int, held_out_pairs: int = 0) -> Iterator[dict]:
    """Manifest rows, without files: `images` pictures, `clips` sounds and `pairs` samples that have both.

    Each kind walks through its scenes in a shuffled order again and again, so that every combination is seen about equally
    often. Held-out combinations have rows of their own, source `world-held-out`: each one in every wording, and last of all
    `held_out_pairs` of a picture with a sound.
    """
    rng = np.random.default_rng(seed)
    picture = _endless(seen("image"), rng)
    # a third of the clips are effects: fewer combinations, but noisy ones
    music, sfx = _endless(seen("music"), rng), _endless(seen("sfx"), rng)
    sound = (next(source) for source in itertools.cycle((music, music, sfx)))
    for index in range(images):
        yield _row(index, {"image": next(picture)}, rng, "world")
    for index in range(clips):
        yield _row(index, {"audio": next(sound)}, rng, "world")
    for index in range(pairs):
        yield _row(index, {"image": next(picture), "audio": next(sound)}, rng, "world")
    for kind in ATTRIBUTES:
        for scene in _held_out((kind,)):
            for wording in range(len(WORDINGS[kind])):
                modality = "image" if kind == "image" else "audio"
                yield _row(wording, {modality: scene}, rng, "world-held-out", wording)
    picture, sound = (_endless(_held_out(kinds), rng) for kinds in (("image",), ("music", "sfx")))
    for index in range(held_out_pairs):
        yield _row(index, {"image": next(picture), "audio": next(sound)}, rng, "world-held-out")


def _held_out(kinds: Iterable[str]) -> list[Scene]:
    return sorted((scene for kind in kinds for scene in held_out(kind)), key=lambda scene: scene.name)


def _endless(items: list[Scene], rng: np.random.Generator) -> Iterator[Scene]:
    while True:
        yield from (items[i] for i in rng.permutation(len(items)))


def _row(
    index: int, content: dict[str, Scene], rng: np.random.Generator, source: str, wording: int | None = None
) -> dict:
    wording = int(rng.integers(12)) if wording is None else wording
    name = f"{'+'.join(scene.name for scene in content.values())}-{index:05d}"
    folder = "held_out" if source == "world-held-out" else "seen"
    sound = content.get("audio")
    return {
        "id": name,
        "modalities": {
            modality: {
                "path": f"{modality}/{folder}/{name}.{'png' if modality == 'image' else 'wav'}",
                "meta": {"kind": scene.kind, **scene.attributes, "seed": int(rng.integers(2**31))},
            }
            for modality, scene in content.items()
        },
        "text": {"caption": ", and ".join(scene.caption(wording) for scene in content.values())},
        "task": {("image",): "i2t", ("audio",): "a2t"}.get(tuple(content), "ia2t"),
        "source": source,
        "license": "CC0-1.0",
        "subtype": sound.kind if sound else None,
    }


def scene_of(meta: dict) -> Scene:
    """The scene that a manifest row's `meta` describes."""
    return Scene(meta["kind"], tuple(meta[attribute] for attribute in ATTRIBUTES[meta["kind"]]))


def render(meta: dict) -> Image | Audio:
    """The picture or sound of a manifest row; the same meta gives the same bytes."""
    scene, rng = scene_of(meta), np.random.default_rng(meta["seed"])
    return draw(scene, rng) if scene.kind == "image" else play(scene, rng)


def write_world(folder: Path, images: int, clips: int, pairs: int, seed: int, held_out_pairs: int = 0) -> Path:
    """Write the world's files and `manifest.jsonl`; the manifest's path.

    The manifest is written last: one that is there and says the same means that the files are whole, and are kept.
    """
    described = list(rows(images, clips, pairs, seed, held_out_pairs))
    text = "".join(json.dumps(row, sort_keys=True) + "\n" for row in described)
    manifest = folder / "manifest.jsonl"
    if manifest.is_file() and manifest.read_text() == text:
        return manifest
    manifest.unlink(missing_ok=True)
    for row in described:
        for content in row["modalities"].values():
            media = render(content["meta"])
            path = folder / content["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png_bytes(media) if isinstance(media, Image) else wav_bytes(media))
    return write_atomically(manifest, text)
