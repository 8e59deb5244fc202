"""What came of a suite: each case's answer and what is right in it, the figures of them all, files to hear and to look at.

Axes: n token.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from lumo import scores
from lumo.files import write_atomically
from lumo.media import Audio, Image, png_bytes, wav_bytes


@dataclass(frozen=True)
class Result:
    """One case after generation. Media are None where there is none: a caption has no round trip.

    prompt: what the task's inputs hold, in their order
    ids: the answer; decoded: whether it became media or text; right: for each attribute, whether it is there
    ceiling, floor: the same for the codec's round trip and for the answer to another case's prompt; no floor where all are of one combination
    """

    task: str
    id: str
    prompt: tuple[str | Image | Audio, ...]
    true: str | Image | Audio
    round_trip: Image | Audio | None
    generated: str | Image | Audio | None
    ids: Int[np.ndarray, "n"]
    decoded: bool
    right: dict[str, bool]
    ceiling: dict[str, bool]
    floor: dict[str, bool]


def figures(results: Sequence[Result]) -> dict[str, Any]:
    """A suite's numbers for `metrics.json`; no score where attributes aren't known, no floor where there is no other combination.

    The floor and the ceiling are of what the task is judged by: all attributes of a picture or a clip, each one that a caption names.
    """
    if not results:
        return {"cases": 0}
    writes_media = not isinstance(results[0].true, str)
    numbers: dict[str, Any] = {"cases": len(results)}
    if writes_media:
        numbers["decoded"] = sum(result.decoded for result in results)
    if all(result.right for result in results):
        measure = scores.all_right if writes_media else scores.attributes_right
        numbers["attributes_right"] = scores.attributes_right([result.right for result in results])
        if all(result.floor for result in results):
            numbers["floor"] = measure([result.floor for result in results])
        numbers["all_right"] = scores.all_right([result.right for result in results])
        if writes_media:
            numbers["ceiling"] = measure([result.ceiling for result in results])
    return numbers


def by_attribute(results: Sequence[Result]) -> dict[str, float]:
    """For each attribute the share of cases that have it right, of those that have it."""
    names = dict.fromkeys(name for result in results for name in result.right)
    flags = {name: [result.right[name] for result in results if name in result.right] for name in names}
    return {name: sum(found) / len(found) for name, found in flags.items()}


def write_media(folder: Path, results: Mapping[str, Sequence[Result]]) -> list[Path]:
    """Write what was generated: `<task>/<number>.png|wav`, and `<task>.jsonl` with ids, prompts, answers and scores."""
    files: list[Path] = []
    for task, part in results.items():
        lines = []
        for number, result in enumerate(part):
            answer = result.generated
            if isinstance(answer, Image | Audio):
                suffix, data = ("png", png_bytes(answer)) if isinstance(answer, Image) else ("wav", wav_bytes(answer))
                files.append(write_atomically(folder / task / f"{number:02d}.{suffix}", data))
                answer = f"{task}/{number:02d}.{suffix}"
            lines.append(_line(result, answer))
        files.append(write_atomically(folder / f"{task}.jsonl", "".join(lines)))
    return files


def _line(result: Result, answer: str | None) -> str:
    """answer: its text, or its file's name below the folder"""
    prompt = next((given for given in result.prompt if isinstance(given, str)), None)
    line = {"id": result.id, "prompt": prompt, "answer": answer, "ids": result.ids.tolist(), "right": result.right}
    return json.dumps(line) + "\n"
