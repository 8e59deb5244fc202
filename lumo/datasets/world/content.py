"""What the generated world holds: scenes, made of attributes, and how they are put into words.

A scene is a shape on a plain ground, a piece of music or an effect. Some combinations of attributes are held out of training altogether.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from dataclasses import dataclass
from functools import cache

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


def scene_of(meta: dict) -> Scene:
    """The scene that a manifest row's `meta` describes."""
    return Scene(meta["kind"], tuple(meta[attribute] for attribute in ATTRIBUTES[meta["kind"]]))
