"""How much of the world a codec keeps, judged by the readers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lumo import scores
from lumo.codecs import Codec
from lumo.datasets import world


def measure(codec: Codec, kinds: Sequence[str], seed: int, drawings: int = 3) -> dict[str, float]:
    """Round trips of every combination of some kinds, held-out ones included: shares of cases with each attribute right.

    drawings: how often each combination is drawn anew
    """
    rng = np.random.default_rng(seed)
    scenes = [scene for kind in kinds for scene in world.scenes(kind) for _ in range(drawings)]
    judged = []
    for start in range(0, len(scenes), 64):
        chunk = scenes[start : start + 64]
        media = [world.draw(s, rng) if s.kind == "image" else world.play(s, rng) for s in chunk]
        judged += [scores.attributes(out, s) for out, s in zip(codec.decode(codec.encode(media)), chunk, strict=True)]
    names = dict.fromkeys(name for case in judged for name in case)
    shares = {name: float(np.mean([case[name] for case in judged if name in case])) for name in names}
    return {
        "all_right": round(scores.all_right(judged), 4),
        **{name: round(share, 4) for name, share in shares.items()},
    }
