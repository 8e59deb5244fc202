"""Golden suites: a fixed set of cases a task, generated, decoded and scored.

Each suite is frozen once to a file with the token space's hash, so that checkpoints are compared on the same cases. Beside what the
model makes stand a ceiling (the true clip through the codec and back) and a floor (the answers to other cases' prompts).

Axes: n token.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from lumo import scores
from lumo.datasets.manifest import check_row, inside
from lumo.datasets.splits import said_group
from lumo.files import write_atomically
from lumo.generation import GREEDY, Sampling, generate
from lumo.media import Audio, Image, png_bytes, wav_bytes
from lumo.model import LumoModel
from lumo.shards import Sample, unit_hash
from lumo.space import SpaceError, TokenSpace, block_names
from lumo.tasks import TASKS, Task
from lumo.tokenizer import UnifiedTokenizer


class GoldenError(ValueError):
    """A suite that can't be made or read; the message is one line."""


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


def run_suite(
    task_name: str,
    cases: Sequence[Sample],
    model: LumoModel,
    tokenizer: UnifiedTokenizer,
    media: Path,
    batch_size: int,
    max_text_tokens: int,
    sampling: Sampling = GREEDY,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> list[Result]:
    """Generate, decode and score the cases of one task.

    media: the manifest's folder, where the true files lie
    progress: called with cases done and cases in all
    """
    task = TASKS[task_name]
    grammar = task.grammar(tokenizer, max_text_tokens)
    answers: list[Int[np.ndarray, "n"]] = []
    for start in range(0, len(cases), batch_size):
        chunk = cases[start : start + batch_size]
        prompts = [task.prompt({name: case.ids[name] for name in task.inputs}, tokenizer.space) for case in chunk]
        progress(start, len(cases))
        answers += generate(model, prompts, grammar, sampling, range(start, start + len(chunk)))
    progress(len(cases), len(cases))
    parts = [slice(start, start + batch_size) for start in range(0, len(cases), batch_size)]
    made = [answer for part in parts for answer in _decode(task.target, answers[part], tokenizer)]
    given = zip(*(_true(modality, cases, tokenizer, media) for modality in task.inputs), strict=True)
    true = _true(task.target, cases, tokenizer, media)
    round_trips: Sequence[Image | Audio | None] = [None] * len(cases)
    if task.target != "text":
        codes = np.stack([case.ids[task.target] for case in cases])
        round_trips = [medium for part in parts for medium in tokenizer.decode(task.target, codes[part])]
    return [
        Result(
            task=task_name,
            id=case.id,
            prompt=prompt,
            true=true[i],
            round_trip=round_trips[i],
            generated=made[i],
            ids=answers[i],
            decoded=made[i] is not None,
            right=_right(made[i], case, task),
            ceiling=_right(true[i] if round_trips[i] is None else round_trips[i], case, task),
            floor={} if partner(i, cases) == i else _right(made[partner(i, cases)], case, task),
        )
        for i, (case, prompt) in enumerate(zip(cases, given, strict=True))
    ]


def _true(
    modality: str, cases: Sequence[Sample], tokenizer: UnifiedTokenizer, media: Path
) -> list[str] | list[Image | Audio]:
    """What the dataset holds: captions, or pictures or clips read from their files."""
    if modality == "text":
        return [case.row["text"]["caption"] for case in cases]
    read = tokenizer.codecs[modality].read
    return [read(inside(media, case.row["modalities"][modality]["path"])) for case in cases]


def _right(answer: str | Image | Audio | None, case: Sample, task: Task) -> dict[str, bool]:
    """For each attribute that the case's pictures and clips are known to have, whether the answer shows it."""
    scenes = [scores.scene_of_row(case.row, medium) for medium in task.media]
    return {name: right for scene in scenes if scene for name, right in scores.attributes(answer, scene).items()}


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


def figures(results: Sequence[Result]) -> dict[str, Any]:
    """A suite's numbers for `metrics.json`; no score where attributes aren't known, no floor where there is no other combination."""
    if not results:
        return {"cases": 0}
    writes_media = not isinstance(results[0].true, str)
    numbers: dict[str, Any] = {"cases": len(results)}
    if writes_media:
        numbers["decoded"] = sum(result.decoded for result in results)
    if all(result.right for result in results):
        measure = scores.all_right if writes_media else scores.attributes_right
        key = "all_right" if writes_media else "attributes_right"
        numbers[key] = measure([r.right for r in results])
        if all(result.floor for result in results):
            numbers["floor"] = measure([r.floor for r in results])
        if writes_media:
            numbers["ceiling"] = measure([r.ceiling for r in results])
            numbers["attributes_right"] = scores.attributes_right([r.right for r in results])
        else:
            numbers["all_right"] = scores.all_right([r.right for r in results])
    return numbers


def by_attribute(results: Sequence[Result]) -> dict[str, float]:
    """For each attribute the share of cases that have it right, of those that have it."""
    names = dict.fromkeys(name for result in results for name in result.right)
    flags = {name: [result.right[name] for result in results if name in result.right] for name in names}
    return {name: sum(found) / len(found) for name, found in flags.items()}


def write_media(folder: Path, results: Mapping[str, Sequence[Result]]) -> list[Path]:
    """Write what was generated: `<task>/<number>.png|wav`, and `<task>.jsonl` with ids, prompts, answers and scores."""
    files = []
    for task, part in results.items():
        lines = []
        for number, result in enumerate(part):
            answer = result.generated
            if isinstance(answer, Image | Audio):
                suffix, data = ("png", png_bytes(answer)) if isinstance(answer, Image) else ("wav", wav_bytes(answer))
                files.append(write_atomically(folder / task / f"{number:02d}.{suffix}", data))
                answer = f"{task}/{number:02d}.{suffix}"
            prompt = next((given for given in result.prompt if isinstance(given, str)), None)
            lines.append(
                {"id": result.id, "prompt": prompt, "answer": answer, "ids": result.ids.tolist(), "right": result.right}
            )
        files.append(write_atomically(folder / f"{task}.jsonl", "".join(json.dumps(line) + "\n" for line in lines)))
    return files
