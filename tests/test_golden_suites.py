"""Golden suites: chosen once and spread out, read again as they were, refused where they are damaged."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from goldens import choose_all, fixture_held  # noqa: F401 - fixtures
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refusals import refused
from toys import sample_of

from lumo import golden
from lumo.datasets import world
from lumo.golden import GoldenError, choose, combination, figures, frozen, partner, thaw
from lumo.shards import Sample
from lumo.space import SpaceError
from lumo.tasks import TASKS

# --- choosing ---------------------------------------------------------------------------------------------------------


def test_sample_helper_gives_what_shards_give(tokenizer, held, rng):
    """The tests' own samples are of the right blocks, or they test nothing."""
    sample = sample_of(held[0].row, tokenizer, rng)
    (modality,) = sample.modalities - {"text"}
    assert len(sample.ids[modality]) == tokenizer.codecs[modality].frames * tokenizer.codecs[modality].codebooks
    tokenizer.decode(modality, sample.ids[modality][None])


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
