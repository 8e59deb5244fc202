"""Golden suites: chosen once and spread out, read again as they were, scored against their own ceiling and floor."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import make_base
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refusals import refused
from toys import make_samples, sample_of, with_lora

from lumo import golden, scores
from lumo.datasets import world
from lumo.generation import Sampling
from lumo.golden import GoldenError, choose, combination, figures, frozen, partner, run_suite, thaw, write_media
from lumo.media import Audio, Image, png_bytes, wav_bytes
from lumo.model import LumoModel
from lumo.shards import Sample
from lumo.space import SpaceError
from lumo.tasks import TASKS

KEYS = {  # the issue's, and `attributes_right`/`all_right` of the other kind beside them
    "t2a": {"cases", "decoded", "all_right", "ceiling", "floor"},
    "t2i": {"cases", "decoded", "all_right", "ceiling", "floor"},
    "a2t": {"cases", "attributes_right", "floor"},
    "i2t": {"cases", "attributes_right", "floor"},
    "ia2t": {"cases", "attributes_right", "floor"},
}


@pytest.fixture(scope="module")
def held(tokenizer) -> list[Sample]:
    return make_samples(tokenizer, 0, 0, held_out=70)


# --- choosing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("count", [1, 7, 64])
def test_choice_is_spread_over_combinations_and_wordings(held, task, count):
    chosen = choose(held, task, count)
    assert len({case.id for case in chosen}) == count == len(chosen)
    assert all(TASKS[task].fits(case) for case in chosen)
    everything = Counter(combination(case) for case in held if TASKS[task].fits(case))
    turns = Counter(combination(case) for case in chosen)
    assert len(turns) == min(count, len(everything))
    most = max(turns.values())
    assert all(turn >= most - 1 or turn == everything[name] for name, turn in turns.items()), "not in turns"
    if count == 64:
        lengths = [len(case.ids["text"]) for case in chosen]
        assert len(set(lengths)) > 3, "all captions of one wording"


@given(seed=st.integers(0, 99), count=st.integers(1, 40))
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_choice_depends_on_the_samples_not_on_their_order(held, seed, count):
    turned = [held[i] for i in np.random.default_rng(seed).permutation(len(held))]
    assert [case.id for case in choose(turned, "t2i", count)] == [case.id for case in choose(held, "t2i", count)]
    assert [case.id for case in choose(held, "t2i", count + 1)][:count] == [
        case.id for case in choose(held, "t2i", count)
    ]


def test_too_few_cases_are_refused_in_one_line(held):
    few = [case for case in held if TASKS["a2t"].fits(case)][:3]
    with pytest.raises(
        GoldenError, match=r"golden suite a2t: 3 cases at hand, expected 4; .*lower golden.cases"
    ) as caught:
        choose(few, "a2t", 4)
    assert "\n" not in str(caught.value)
    assert len(choose(few, "a2t", 3)) == 3


def foreign(number: int, meta: dict) -> Sample:
    """A sample of a dataset that the world doesn't know, as a manifest read back gives it."""
    row = {
        "id": f"clotho-{number}",
        "modalities": {"image": None, "audio": {"path": "x.wav", "meta": meta}},
        "text": {"caption": "rain"},
    }
    return Sample(row["id"], {"text": np.arange(3), "audio": np.arange(4)}, row)


def test_combination_is_what_is_shown_and_a_foreign_sample_is_its_own():
    rows = [row for row in world.rows(seed=0) if row["source"] == "world-held-out"]
    by_scene: dict[str, set[str]] = {}
    for row in rows:
        (medium,) = row["modalities"].values()
        by_scene.setdefault(world.scene_of(medium["meta"]).name, set()).add(combination(Sample(row["id"], {}, row)))
    assert all(len(names) == 1 for names in by_scene.values())
    assert len(set.union(*by_scene.values())) == len(by_scene)
    metas = ({}, {"kind": "photo"}, {"kind": "music"}, {"kind": ["x"]})
    cases = [foreign(number, meta) for number, meta in enumerate(metas)]
    assert [combination(case) for case in cases] == [case.id for case in cases]
    assert [partner(i, cases) for i in range(4)] == [1, 2, 3, 0]


@given(names=st.lists(st.sampled_from("abc"), min_size=1, max_size=12))
@settings(max_examples=50)
def test_partner_is_the_next_of_another_combination(names):
    cases = [Sample(name, {}, {"modalities": {}}) for name in names]
    for i, name in enumerate(names):
        other = partner(i, cases)
        if len(set(names)) == 1:
            assert other == i
            continue
        assert names[other] != name
        between = range(i + 1, other if other > i else other + len(names))
        assert all(names[j % len(names)] == name for j in between)


# --- frozen -----------------------------------------------------------------------------------------------------------


def plain(suites) -> dict:
    return {
        task: [(c.id, c.row, {k: (v.dtype.str, v.tolist()) for k, v in c.ids.items()}) for c in cases]
        for task, cases in suites.items()
    }


def test_frozen_suites_are_read_again_as_they_were(held, space, tmp_path):
    path = tmp_path / "suites.json"
    suites = frozen(path, held, 5, space)
    assert {name: len(cases) for name, cases in suites.items()} == dict.fromkeys(TASKS, 5)
    before = path.stat().st_mtime_ns
    # from the file, whatever the samples are by now
    assert plain(frozen(path, [], 5, space)) == plain(thaw(path, space)) == plain(suites)
    assert path.stat().st_mtime_ns == before
    assert golden.sha256(thaw(path, space), space) == golden.sha256(suites, space)
    assert golden.sha256(choose_all(held, 4), space) != golden.sha256(suites, space)
    # another number is another suite, and the old one is its beginning
    more = frozen(path, held, 6, space)
    assert {name: len(cases) for name, cases in more.items()} == dict.fromkeys(TASKS, 6)
    assert plain({name: cases[:5] for name, cases in more.items()}) == plain(suites)


def choose_all(held, count):
    return {task: choose(held, task, count) for task in TASKS}


def test_suites_of_another_space_are_refused_by_the_field(held, space, tmp_path):
    path = tmp_path / "suites.json"
    frozen(path, held, 2, space)
    other = replace(space, image=space.image | {"weights_sha256": "0" * 64})
    for read in (lambda: thaw(path, other), lambda: frozen(path, held, 2, other)):
        with pytest.raises(
            SpaceError, match=r"suites.json: another token space .* field 'image.weights_sha256'"
        ) as caught:
            read()
        assert "\n" not in str(caught.value)
    # and with the space's file of the other run beside it, by the hash
    other.save(tmp_path)
    with pytest.raises(SpaceError, match=r"token space \w{12}, expected \w{12}; remove the file and run 05_golden"):
        thaw(path, other)


@pytest.mark.parametrize(
    "damage",
    [
        "half",
        "empty",
        "bytes",
        "list",
        "no suites",
        "no ids",
        "ids outside",
        "half an id",
        "id beyond",
        "no caption",
        "of another task",
        "brackets",
        "missing",
    ],
)
def test_damaged_suites_are_refused_in_one_line(held, space, tmp_path, damage):
    path = tmp_path / "suites.json"
    frozen(path, held, 2, space)
    text = path.read_text()
    content = json.loads(text)
    if damage == "half":
        path.write_text(text[: len(text) // 2])
    elif damage == "empty":
        path.write_text("")
    elif damage == "bytes":
        path.write_bytes(b"\xff\xfe\x00")
    elif damage == "list":
        path.write_text(json.dumps(content | {"suites": []}))
    elif damage == "no suites":
        path.write_text(json.dumps({"space_sha256": space.sha256}))
    elif damage == "no ids":
        del content["suites"]["t2i"][0]["ids"]
        path.write_text(json.dumps(content))
    elif damage == "ids outside":
        content["suites"]["t2i"][0]["ids"]["image"][0] = space.size
        path.write_text(json.dumps(content))
    elif damage in ("half an id", "id beyond"):
        content["suites"]["t2i"][0]["ids"]["image"][0] = space.size - 1.5 if damage == "half an id" else 10**30
        path.write_text(json.dumps(content))
    elif damage == "no caption":
        del content["suites"]["t2i"][0]["row"]["text"]
        path.write_text(json.dumps(content))
    elif damage == "of another task":
        content["suites"]["t2i"] = content["suites"]["t2a"]
        path.write_text(json.dumps(content))
    elif damage == "brackets":
        path.write_text("[" * 100_000)
    else:
        path.unlink()
    with pytest.raises(GoldenError, match=r"suites.json: no golden suites that can be read .*05_golden") as caught:
        thaw(path, space)
    assert "\n" not in str(caught.value)


def drop_last(case):
    del case["ids"]["image"][-1]


def lend_text(case):
    case["ids"]["text"] = case["ids"]["image"]


def lend_picture(case):
    case["ids"]["image"] = (case["ids"]["text"] * 99)[: len(case["ids"]["image"])]


EDITS = {
    "caption of another key": (lambda case: case["row"].update(text={}), "has an empty caption"),
    "caption of spaces": (lambda case: case["row"]["text"].update(caption=" "), "has an empty caption"),
    "a picture one id short": (drop_last, "ids of image, expected"),
    "a caption of picture ids": (lend_text, "block 'text' holds ids"),
    "a picture of text ids": (lend_picture, "block 'image"),
    "ids for what the row lacks": (lambda case: case["row"]["modalities"].update(image=None), "is none of t2i"),
}


@pytest.mark.parametrize(("edit", "words"), EDITS.values(), ids=EDITS)
def test_edits_that_generation_would_only_meet_late_are_refused_at_load(held, space, tmp_path, edit, words):
    path = tmp_path / "suites.json"
    frozen(path, held, 2, space)
    content = json.loads(path.read_text())
    edit(content["suites"]["t2i"][1])
    path.write_text(json.dumps(content))
    with refused(GoldenError, f"{path}: no golden suites that can be read", words, "run 05_golden"):
        thaw(path, space)


def test_a_suite_without_cases_is_refused_and_has_no_figures(held, space, tmp_path):
    frozen(path := tmp_path / "suites.json", held, 1, space, ["t2i"])
    path.write_text(json.dumps(json.loads(path.read_text()) | {"suites": {"t2i": []}}))
    with refused(GoldenError, f"{path}: no golden suites that can be read", "a suite without cases"):
        thaw(path, space)
    assert figures([]) == {"cases": 0}


def test_a_row_without_meta_is_read_as_shards_have_it(held, space, tmp_path):
    frozen(path := tmp_path / "suites.json", held, 1, space, ["t2i"])
    content = json.loads(path.read_text())
    del content["suites"]["t2i"][0]["row"]["modalities"]["image"]["meta"]
    path.write_text(json.dumps(content))
    (case,) = thaw(path, space)["t2i"]
    assert combination(case) == case.id


# --- run --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def suite(tokenizer, held, tmp_path_factory) -> tuple[dict[str, list[Sample]], Path]:
    """Five cases a task, with the true files and the codes that the codecs give for them."""
    folder = tmp_path_factory.mktemp("world")
    suites = choose_all(held, 5)
    for cases in suites.values():
        for i, case in enumerate(cases):
            for modality in case.modalities - {"text"}:
                medium = case.row["modalities"][modality]
                media = world.render(medium["meta"])
                path = folder / medium["path"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(png_bytes(media) if isinstance(media, Image) else wav_bytes(media))
                (ids,) = tokenizer.encode(modality, [tokenizer.codecs[modality].read(path)])
                cases[i] = replace(cases[i], ids=cases[i].ids | {modality: ids})
    return suites, folder


@pytest.fixture(scope="module")
def results(tokenizer, suite):
    suites, folder = suite
    model = with_lora(LumoModel(make_base(), tokenizer.space))
    return {
        name: run_suite(name, cases, model, tokenizer, folder, batch_size=2, max_text_tokens=12)
        for name, cases in suites.items()
    }


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
    part = run_suite(name, suites[name], model, tokenizer, folder, 2, 12)
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
    part = run_suite(name, suites[name], model, tokenizer, folder, 5, 12, progress=lambda n, of: done.append((n, of)))
    assert [result.ids.tolist() for result in part] == [result.ids.tolist() for result in results[name]]
    assert done == [(0, 5), (5, 5)]
    sampled = [run_suite(name, suites[name], model, tokenizer, folder, size, 12, Sampling(1.0, 3)) for size in (2, 5)]
    assert [r.ids.tolist() for r in sampled[0]] == [r.ids.tolist() for r in sampled[1]]
    assert [r.ids.tolist() for r in sampled[0]] != [r.ids.tolist() for r in results[name]]


@pytest.mark.parametrize("name", TASKS)
def test_figures_by_hand(results, name):
    part, numbers = results[name], figures(results[name])
    assert numbers.keys() >= KEYS[name]
    assert numbers["cases"] == 5
    if name in ("t2a", "t2i"):
        assert numbers["decoded"] == 5
        for key, field in (("all_right", "right"), ("ceiling", "ceiling"), ("floor", "floor")):
            assert numbers[key] == sum(all(getattr(result, field).values()) for result in part) / 5
    else:
        for key, field in (("attributes_right", "right"), ("floor", "floor")):
            flags = [flag for result in part for flag in getattr(result, field).values()]
            assert numbers[key] == sum(flags) / len(flags)
    lost = figures([replace(result, decoded=i > 1) for i, result in enumerate(part)])
    assert lost.get("decoded", 3) == 3
    assert json.loads(json.dumps(numbers)) == numbers


def test_perfect_answers_have_perfect_figures_and_lost_ones_have_none(results):
    part = [replace(result, right=dict.fromkeys(result.right, True)) for result in results["t2i"]]
    assert figures(part)["all_right"] == figures(part)["attributes_right"] == 1
    assert set(golden.by_attribute(part).values()) == {1}
    scene = world.scenes("image")[0]
    assert scores.attributes(None, scene) == dict.fromkeys(scene.attributes, False)
    assert all(scores.attributes(scene.caption(2), scene).values())


def test_samples_of_other_sources_get_no_score_and_no_invented_figure(tokenizer, suite):
    suites, folder = suite
    model = LumoModel(make_base(), tokenizer.space)
    cases = []
    for case in suites["t2i"][:2]:
        row = json.loads(json.dumps(case.row))
        row["modalities"]["image"]["meta"] = {"kind": "photo"}
        row["modalities"]["audio"] = None
        cases.append(replace(case, row=row))
    part = run_suite("t2i", cases, model, tokenizer, folder, 2, 12)
    assert [result.right for result in part] == [{}, {}]
    assert figures(part) == {"cases": 2, "decoded": 2}


def test_cases_of_one_combination_have_no_floor(tokenizer, suite):
    """The answer to another prompt would be the case's own."""
    suites, folder = suite
    model = LumoModel(make_base(), tokenizer.space)
    part = run_suite("i2t", suites["i2t"][:1] * 2, model, tokenizer, folder, 2, 12)
    assert [result.floor for result in part] == [{}, {}]
    assert figures(part).keys() == {"cases", "attributes_right", "all_right"}


def test_by_attribute_counts_those_that_have_it(results):
    part = results["a2t"]
    shares = golden.by_attribute(part)
    for name, share in shares.items():
        flags = [result.right[name] for result in part if name in result.right]
        assert share == sum(flags) / len(flags)
    assert shares.keys() == {name for result in part for name in result.right}


def test_files_are_named_by_task_and_number_never_by_data(results, tmp_path):
    hostile = {
        name: [
            replace(result, id=f"../../{i}\n<b>", prompt=("../x",) if name in ("t2a", "t2i") else result.prompt)
            for i, result in enumerate(part)
        ]
        for name, part in results.items()
    }
    files = write_media(tmp_path / "out", hostile)
    expected = {f"{name}/{i:02d}.{'png' if name == 't2i' else 'wav'}" for name in ("t2i", "t2a") for i in range(5)}
    expected |= {f"{name}.jsonl" for name in TASKS}
    assert {str(path.relative_to(tmp_path / "out")) for path in tmp_path.rglob("*") if path.is_file()} == expected
    assert {str(path.relative_to(tmp_path / "out")) for path in files} == expected
    for name in TASKS:
        lines = [json.loads(line) for line in (tmp_path / "out" / f"{name}.jsonl").read_text().splitlines()]
        assert [line["id"] for line in lines] == [result.id for result in hostile[name]]
        assert [line["ids"] for line in lines] == [result.ids.tolist() for result in hostile[name]]
        assert [line["right"] for line in lines] == [result.right for result in hostile[name]]
        if TASKS[name].target != "text":
            assert all((tmp_path / "out" / line["answer"]).is_file() for line in lines)
    wav = (tmp_path / "out" / "t2a" / "00.wav").read_bytes()
    assert isinstance(results["t2a"][0].generated, Audio)
    assert wav == wav_bytes(results["t2a"][0].generated)


def test_sample_helper_gives_what_shards_give(tokenizer, held, rng):
    """The tests' own samples are of the right blocks, or they test nothing."""
    sample = sample_of(held[0].row, tokenizer, rng)
    (modality,) = sample.modalities - {"text"}
    assert len(sample.ids[modality]) == tokenizer.codecs[modality].frames * tokenizer.codecs[modality].codebooks
    tokenizer.decode(modality, sample.ids[modality][None])
