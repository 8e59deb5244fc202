"""The miniature's world: captioned pictures and sounds whose content is known exactly.

A picture is one shape on a plain ground; a clip is one second of an instrument or of an effect. Each has a caption in
one of several wordings. Some combinations of attributes are held out of training altogether. Everything is written as
ordinary PNG and WAV files with a manifest, so what follows is the same code as for a published dataset.
"""

from lumo.datasets.world.content import (
    ATTRIBUTES,
    BACKGROUNDS,
    COLOURS,
    EFFECTS,
    EVENTS_PER_S,
    LOUDNESS_DB,
    PITCHES_HZ,
    PLACES,
    RHYTHMS,
    SHAPES,
    SIZES,
    TIMBRES,
    WORDINGS,
    Scene,
    held_out,
    scene_of,
    scenes,
    seen,
)
from lumo.datasets.world.rendering import (
    DURATION_S,
    FULL_LEVEL,
    RESOLUTION,
    SAMPLE_RATE_HZ,
    draw,
    level,
    play,
    render,
    shape_cover,
)
from lumo.datasets.world.writing import rows, write_world

__all__ = [
    "ATTRIBUTES",
    "BACKGROUNDS",
    "COLOURS",
    "DURATION_S",
    "EFFECTS",
    "EVENTS_PER_S",
    "FULL_LEVEL",
    "LOUDNESS_DB",
    "PITCHES_HZ",
    "PLACES",
    "RESOLUTION",
    "RHYTHMS",
    "SAMPLE_RATE_HZ",
    "SHAPES",
    "SIZES",
    "TIMBRES",
    "WORDINGS",
    "Scene",
    "draw",
    "held_out",
    "level",
    "play",
    "render",
    "rows",
    "scene_of",
    "scenes",
    "seen",
    "shape_cover",
    "write_world",
]
