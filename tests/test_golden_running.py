"""Running golden suites: every case generated, decoded and judged against its own ceiling and floor."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import make_base
from goldens import fixture_held, fixture_results, fixture_suite  # noqa: F401 - fixtures
from toys import with_lora

from lumo import scores
from lumo.datasets import world
from lumo.generation import Sampling
from lumo.golden import Setup, combination, figures, partner, run_suite
from lumo.media import Image
from lumo.model import LumoModel
from lumo.tasks import TASKS


@pytest.mark.parametrize("name", TASKS)
def test_every_case_is_generated_decoded_and_scored(tokenizer, suite, results, name):
    suites, folder = suite
    task, part = TASKS[name], results[name]
    grammar = task.grammar(tokenizer, 12)
    assert [result.id for result in part] == [case.id for case in suites[name]]
    for result, case in zip(part, suites[name], strict=True):
        scenes = scenes_of(case, task)
        caption = case.row["text"]["caption"]
        true = [tokenizer.codecs[name].read(folder / case.row["modalities"][name]["path"]) for name in task.media]
        assert result.decoded
        assert grammar.accepts([*result.ids, grammar.end])
        assert result.right == judged(result.generated, scenes)
        attributes = {name for scene in scenes for name in scene.attributes}
        assert result.right.keys() == result.ceiling.keys() == result.floor.keys() == attributes
        if task.target == "text":
            assert (result.true, result.round_trip) == (caption, None)
            assert all(same_media(*both) for both in zip(result.prompt, true, strict=True))
            assert result.generated == tokenizer.decode_text(result.ids)
            assert all(result.ceiling.values()), "a true caption names all attributes"
        else:
            assert result.prompt == (caption,)
            assert same_media(result.true, *true)
            (again,) = tokenizer.decode(task.target, case.ids[task.target][None])
            assert same_media(result.round_trip, again)
            assert result.ceiling == judged(again, scenes)


def scenes_of(case, task) -> list[world.Scene]:
    return [scores.scene_of_row(case.row, name) for name in task.media]


def judged(answer, scenes) -> dict[str, bool]:
    """The attributes of a picture and those of a sound have different names."""
    return {name: right for scene in scenes for name, right in scores.attributes(answer, scene).items()}


def same_media(one, other) -> bool:
    if isinstance(one, Image):
        # a pixel half-way between two levels may be rounded the other way in a batch of another size
        return np.abs(one.pixels.astype(int) - other.pixels).max() <= 1
    return np.allclose(one.samples, other.samples, atol=1e-5)


@pytest.mark.parametrize("name", ["a2t", "i2t"])
def test_reading_asks_no_codec_to_decode(tokenizer, suite, results, name, monkeypatch):
    suites, folder = suite
    monkeypatch.setattr(type(tokenizer), "decode", lambda *_: pytest.fail("a caption has no round trip"))
    model = with_lora(LumoModel(make_base(), tokenizer.space))
    part = run_suite(name, suites[name], Setup(model, tokenizer, folder, 2, 12))
    assert [result.generated for result in part] == [result.generated for result in results[name]]


def test_floor_is_another_combinations_answer_judged_by_ones_own_scene(suite, results):
    suites, _ = suite
    for name, part in results.items():
        for i, (result, case) in enumerate(zip(part, suites[name], strict=True)):
            j = partner(i, suites[name])
            assert combination(suites[name][j]) != combination(case)
            assert result.floor == judged(part[j].generated, scenes_of(case, TASKS[name]))


@pytest.mark.parametrize("name", TASKS)
def test_answers_do_not_depend_on_the_batch_size(tokenizer, suite, results, name):
    suites, folder = suite
    model = with_lora(LumoModel(make_base(), tokenizer.space))
    done = []
    setup = Setup(model, tokenizer, folder, 5, 12)
    part = run_suite(name, suites[name], setup, lambda n, of: done.append((n, of)))
    assert [result.ids.tolist() for result in part] == [result.ids.tolist() for result in results[name]]
    assert done == [(0, 5), (5, 5)]
    drawn = replace(setup, sampling=Sampling(1.0, 3))
    sampled = [run_suite(name, suites[name], replace(drawn, batch_size=size)) for size in (2, 5)]
    assert [r.ids.tolist() for r in sampled[0]] == [r.ids.tolist() for r in sampled[1]]
    assert [r.ids.tolist() for r in sampled[0]] != [r.ids.tolist() for r in results[name]]


def test_samples_of_other_sources_get_no_score_and_no_invented_figure(tokenizer, suite):
    suites, folder = suite
    model = LumoModel(make_base(), tokenizer.space)
    cases = []
    for case in suites["t2i"][:2]:
        row = json.loads(json.dumps(case.row))
        row["modalities"]["image"]["meta"] = {"kind": "photo"}
        row["modalities"]["audio"] = None
        cases.append(replace(case, row=row))
    part = run_suite("t2i", cases, Setup(model, tokenizer, folder, 2, 12))
    assert [result.right for result in part] == [{}, {}]
    assert figures(part) == {"cases": 2, "decoded": 2}


def test_cases_of_one_combination_have_no_floor(tokenizer, suite):
    """The answer to another prompt would be the case's own."""
    suites, folder = suite
    model = LumoModel(make_base(), tokenizer.space)
    part = run_suite("i2t", suites["i2t"][:1] * 2, Setup(model, tokenizer, folder, 2, 12))
    assert [result.floor for result in part] == [{}, {}]
    assert figures(part).keys() == {"cases", "attributes_right", "all_right"}
