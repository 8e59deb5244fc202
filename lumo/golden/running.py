"""Running a suite: its cases generated, decoded and judged.

Axes: n token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from lumo import scores
from lumo.datasets.manifest import inside
from lumo.generation import GREEDY, Sampling, generate
from lumo.golden.results import Result
from lumo.golden.suites import partner
from lumo.media import Audio, Image
from lumo.model import LumoModel
from lumo.progress import OnProgress, untold
from lumo.shards import Sample
from lumo.tasks import TASKS, Task
from lumo.tokenizer import UnifiedTokenizer


@dataclass(frozen=True)
class Setup:
    """What suites are run with.

    media: the manifest's folder, where the true files lie
    batch_size: cases that are generated at once, and then decoded at once
    """

    model: LumoModel
    tokenizer: UnifiedTokenizer
    media: Path
    batch_size: int
    max_text_tokens: int
    sampling: Sampling = GREEDY

    def parts(self, count: int) -> Iterator[slice]:
        """`count` cases in batches."""
        return (slice(start, start + self.batch_size) for start in range(0, count, self.batch_size))


def run_suite(
    task_name: str,
    cases: Sequence[Sample],
    setup: Setup,
    progress: OnProgress = untold,
) -> list[Result]:
    """Generate, decode and score the cases of one task.

    progress: called with cases done and cases in all
    """
    task = TASKS[task_name]
    ids = _answers(task, cases, setup, progress)
    made = _decoded(task.target, ids, setup)
    given = zip(*(_true(modality, cases, setup) for modality in task.inputs), strict=True)
    true = _true(task.target, cases, setup)
    round_trips = _round_trips(task.target, cases, setup)
    return [
        Result(
            task=task_name,
            id=case.id,
            prompt=prompt,
            true=true[i],
            round_trip=round_trips[i],
            generated=made[i],
            ids=ids[i],
            decoded=made[i] is not None,
            right=_right(made[i], case, task),
            ceiling=_right(true[i] if round_trips[i] is None else round_trips[i], case, task),
            floor={} if (other := partner(i, cases)) == i else _right(made[other], case, task),
        )
        for i, (case, prompt) in enumerate(zip(cases, given, strict=True))
    ]


def _answers(task: Task, cases: Sequence[Sample], setup: Setup, progress: OnProgress) -> list[Int[np.ndarray, "n"]]:
    grammar = task.grammar(setup.tokenizer, setup.max_text_tokens)
    prompts = [task.prompt({name: case.ids[name] for name in task.inputs}, setup.tokenizer.space) for case in cases]
    numbers = range(len(cases))
    answers: list[Int[np.ndarray, "n"]] = []
    for part in setup.parts(len(cases)):
        progress(part.start, len(cases))
        answers += generate(setup.model, prompts[part], grammar, setup.sampling, numbers[part])
    progress(len(cases), len(cases))
    return answers


def _decoded(modality: str, answers: Sequence[Int[np.ndarray, "n"]], setup: Setup) -> list[str | Image | Audio | None]:
    parts = setup.parts(len(answers))
    return [made for part in parts for made in _decode(modality, answers[part], setup.tokenizer)]


def _decode(
    modality: str, answers: Sequence[Int[np.ndarray, "n"]], tokenizer: UnifiedTokenizer
) -> list[str | Image | Audio | None]:
    """A batch of answers at once, where they are of one length; an answer that doesn't decode is None, and counted."""
    if modality == "text":
        return [tokenizer.decode_text(ids) for ids in answers]
    try:
        return tokenizer.decode(modality, np.stack(answers))
    except ValueError:  # the grammar leaves no way to get here, but a suite must survive it
        return [_decode(modality, [ids], tokenizer)[0] for ids in answers] if len(answers) > 1 else [None]


def _round_trips(modality: str, cases: Sequence[Sample], setup: Setup) -> Sequence[Image | Audio | None]:
    """The true pictures' or clips' own codes, decoded."""
    if modality == "text":
        return [None] * len(cases)
    ids = np.stack([case.ids[modality] for case in cases])
    return [medium for part in setup.parts(len(cases)) for medium in setup.tokenizer.decode(modality, ids[part])]


def _true(modality: str, cases: Sequence[Sample], setup: Setup) -> list[str] | list[Image | Audio]:
    """What the dataset holds: captions, or pictures or clips read from their files."""
    if modality == "text":
        return [case.row["text"]["caption"] for case in cases]
    read = setup.tokenizer.codecs[modality].read
    return [read(inside(setup.media, case.row["modalities"][modality]["path"])) for case in cases]


def _right(answer: str | Image | Audio | None, case: Sample, task: Task) -> dict[str, bool]:
    """For each attribute that the case's pictures and clips are known to have, whether the answer shows it."""
    scenes = [scores.scene_of_row(case.row, medium) for medium in task.media]
    return {name: right for scene in scenes if scene for name, right in scores.attributes(answer, scene).items()}
