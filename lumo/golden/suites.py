"""Frozen suites: which samples are a task's cases, chosen once and written with the token space's hash.

Axes: n token.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from lumo import scores
from lumo.datasets.manifest import check_row
from lumo.datasets.splits import said_group
from lumo.files import write_atomically
from lumo.shards import Sample, unit_hash
from lumo.space import SpaceError, TokenSpace, block_names
from lumo.tasks import TASKS


class GoldenError(ValueError):
    """A suite that can't be made or read; the message is one line."""


def choose(samples: Sequence[Sample], task: str, count: int) -> list[Sample]:
    """`count` samples that fit a task, spread over combinations and lengths of caption. Raises GoldenError for too few.

    Combinations take turns, in an order given by a hash; within one, wordings from short to long.
    """
    fitting = [sample for sample in samples if TASKS[task].fits(sample)]
    if len(fitting) < count:
        raise GoldenError(
            f"golden suite {task}: {len(fitting)} cases at hand, expected {count}; mark more rows golden (meta.split, or lumo adopt --golden), or lower golden.cases"
        )
    groups: dict[str, list[Sample]] = {}
    for sample in sorted(fitting, key=lambda sample: (len(sample.ids["text"]), sample.id)):
        groups.setdefault(combination(sample), []).append(sample)
    order = sorted(groups, key=unit_hash)
    # each combination begins at another wording, or all would be the shortest
    turns = [[(groups[name] * 2)[i % len(groups[name]) + turn] for i, name in enumerate(order) if turn < len(groups[name])]
             for turn in range(max(map(len, groups.values())))]  # fmt: skip
    return [sample for turn in turns for sample in turn][:count]


def combination(sample: Sample) -> str:
    """What a sample shows, in whatever wording; of another source its recording, which may have several captions and clips."""
    media = {name: medium for name, medium in sample.row["modalities"].items() if medium}
    scenes = [scores.scene_of_row(sample.row, name) for name in media]
    group = said_group(medium["meta"] for medium in media.values())
    return "+".join(scene.name for scene in scenes if scene) or group or sample.id


def partner(i: int, cases: Sequence[Sample]) -> int:
    """The next case, round and round, that is of another combination: what `shuffled` and the floor take."""
    following = (j % len(cases) for j in range(i + 1, i + len(cases)))
    return next((j for j in following if combination(cases[j]) != combination(cases[i])), i)


def frozen(
    path: Path, samples: Sequence[Sample], count: int, space: TokenSpace, tasks: Sequence[str] = tuple(TASKS)
) -> dict[str, list[Sample]]:
    """The suites of some tasks: read from `path` if they are there in this number, chosen and written otherwise.

    Raises GoldenError for too few samples, SpaceError for suites of another token space.
    """
    if path.exists():
        suites = thaw(path, space)
        if all(len(cases) == count for cases in suites.values()) and suites.keys() == set(tasks):
            return suites
    suites = {name: choose(samples, name, count) for name in tasks}
    space.save(path.parent)
    write_atomically(path, _as_json(suites, space))
    return suites


def sha256(suites: Mapping[str, Sequence[Sample]], space: TokenSpace) -> str:
    """Hash of the suites as they are written."""
    return hashlib.sha256(_as_json(suites, space).encode()).hexdigest()


def _as_json(suites: Mapping[str, Sequence[Sample]], space: TokenSpace) -> str:
    listed = {
        task: [
            {"id": s.id, "row": s.row, "ids": {name: line.tolist() for name, line in sorted(s.ids.items())}}
            for s in cases
        ]
        for task, cases in suites.items()
    }
    return json.dumps({"space_sha256": space.sha256, "suites": listed}, sort_keys=True) + "\n"


def thaw(path: Path, space: TokenSpace) -> dict[str, list[Sample]]:
    """Read frozen suites. Raises GoldenError for damage, SpaceError for another token space."""
    try:
        content = json.loads(path.read_text())
        if content["space_sha256"] == space.sha256:
            suites = {task: [_case(c, task, space) for c in cases] for task, cases in content["suites"].items()}
            if not all(suites.values()):
                raise ValueError("a suite without cases")
            return suites
    # an id beyond int64, brackets without end
    except (OSError, KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError) as error:
        raise GoldenError(
            f"{path}: no golden suites that can be read ({error!r}); remove the file and run 05_golden"
        ) from error
    space.check_same(TokenSpace.load(path.parent), str(path))
    raise SpaceError(
        f"{path}: token space {str(content['space_sha256'])[:12]}, expected {space.sha256[:12]}; remove the file and run 05_golden"
    )


def _case(content: Mapping, task: str, space: TokenSpace) -> Sample:
    """Raises ValueError for what isn't a row with a caption, or ids that aren't the space's, the row's or the task's."""
    for line in content["ids"].values():
        if not line or any(type(token) is not int for token in line):
            raise ValueError(f"case {content['id']} has ids that are no list of whole numbers")
    ids = {name: np.array(line, dtype=np.int64) for name, line in content["ids"].items()}
    row = check_row(content["row"])
    sample = Sample(content["id"], ids, row.model_dump(mode="json"))  # as shards have it, with every key
    if not TASKS[task].fits(sample) or ids.keys() != {"text", *(name for name, _ in row.modalities.items())}:
        raise ValueError(f"case {sample.id} is none of {task}")
    if not (row.text.caption or "").strip():
        raise ValueError(f"case {sample.id} has an empty caption")
    for name, line in ids.items():
        _check_line(name, line, space)
    return sample


def _check_line(modality: str, line: Int[np.ndarray, "n"], space: TokenSpace) -> None:
    """Raises ValueError for another number of ids than a picture or a clip has, or an id that isn't of its place's block."""
    names = ["text"]
    if modality != "text":
        card = getattr(space, modality)
        names, wanted = block_names(modality, card["codebooks"]), card["frames"] * card["codebooks"]
        if len(line) != wanted:
            raise ValueError(f"{len(line)} ids of {modality}, expected {wanted}")
    for at, name in enumerate(names):  # codebooks take turns
        space.to_codes(name, line[at :: len(names)])
