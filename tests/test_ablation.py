"""Ablations: arms differ in the input alone, and an interval says what a slow bootstrap says."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import make_base
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import loss_of, make_samples, with_lora

from lumo import ablation
from lumo.ablation import CaseLosses, arms, difference, figures, losses, replace
from lumo.golden import combination, partner
from lumo.model import LumoModel
from lumo.tasks import TASKS

NAMES = {
    "t2a": {"correct", "shuffled", "empty"},
    "t2i": {"correct", "shuffled", "empty"},
    "a2t": {"correct", "shuffled", "zero", "noise"},
    "i2t": {"correct", "shuffled", "zero", "noise"},
    "ia2t": {"correct"} | {f"{kind}_{given}" for kind in ("shuffled", "zero", "noise") for given in ("image", "audio")},
}


@pytest.fixture(scope="module")
def trained(tokenizer) -> LumoModel:
    return with_lora(LumoModel(make_base(), tokenizer.space))


@pytest.fixture(scope="module")
def cases(tokenizer):
    everything = make_samples(tokenizer, images=5, clips=5, pairs=5)
    return {name: [sample for sample in everything if task.fits(sample)] for name, task in TASKS.items()}


@pytest.fixture
def seen(monkeypatch) -> list:
    """Every list of sequences that losses were asked for, one an arm."""
    asked = []
    real = ablation.losses
    monkeypatch.setattr(
        ablation, "losses", lambda model, sequences, *rest: asked.append(sequences) or real(model, sequences, *rest)
    )
    return asked


def inputs_of(sequence, task, space) -> dict[str, np.ndarray]:
    """The content between each start and end token of the inputs."""
    controls = np.nonzero(space.block_index(sequence.ids) == 1)[0]
    return {name: sequence.ids[controls[2 * n] + 1 : controls[2 * n + 1]] for n, name in enumerate(task.inputs)}


@pytest.mark.parametrize("name", TASKS)
def test_arms_differ_in_one_input_alone(trained, cases, space, seen, name):
    task, given_cases = TASKS[name], cases[name]
    assert set(arms(task)) == NAMES[name]
    assert arms(task)[0] == "correct"
    ablation.run(name, given_cases, trained, 400, seed=0)
    by_arm = dict(zip(arms(task), seen, strict=True))
    for i, case in enumerate(given_cases):
        correct = by_arm["correct"][i]
        assert correct.ids.tolist() == task.sequence(case.ids, space).ids.tolist()
        for arm, sequences in by_arm.items():
            line = sequences[i]
            assert line.ids[line.is_target].tolist() == correct.ids[correct.is_target].tolist()
            control = space.block_index(line.ids) == 1
            assert line.ids[control].tolist() == correct.ids[space.block_index(correct.ids) == 1].tolist()
            kind, _, modality = arm.partition("_")
            modality = modality or task.inputs[0]
            given = inputs_of(line, task, space)
            assert all(ids.tolist() == case.ids[other].tolist() for other, ids in given.items() if other != modality)
            given_ids = given[modality]
            if kind == "correct":
                assert given_ids.tolist() == case.ids[modality].tolist()
            elif kind == "empty":
                assert len(given_ids) == 0
            elif kind == "shuffled":
                (other,) = [o for o in given_cases if o.ids[modality].tolist() == given_ids.tolist()]
                assert combination(other) != combination(case)
                assert other is given_cases[partner(i, given_cases)]
            else:
                blocks = space.block_index(case.ids[modality])
                assert space.block_index(given_ids).tolist() == blocks.tolist()
                codes = given_ids - np.array([space.blocks[b].start for b in blocks])
                assert (codes == 0).all() if kind == "zero" else len(set(codes.tolist())) > 5
    for arm in (name for name in by_arm if name.startswith("noise")):
        modality = arm.partition("_")[2] or task.inputs[0]
        noises = {tuple(inputs_of(line, task, space)[modality].tolist()) for line in by_arm[arm]}
        assert len(noises) == len(given_cases), "every case has noise of its own"


@pytest.mark.parametrize("name", TASKS)
def test_results_are_each_case_alone_and_follow_the_seed(trained, cases, space, seen, name):
    results = ablation.run(name, cases[name], trained, 400, seed=3)
    for result, sequences in zip(results.values(), seen, strict=True):
        for i, line in enumerate(sequences):
            with torch.no_grad():
                alone = loss_of(trained, line).double()
            assert result.tokens[i] == len(alone) == line.is_target.sum()
            assert result.sums[i] == pytest.approx(float(alone.sum()), rel=1e-5)
        assert result.mean == pytest.approx(result.sums.sum() / result.tokens.sum())
    again, other = (ablation.run(name, cases[name], trained, 400, seed) for seed in (3, 4))
    for arm in results:
        assert np.array_equal(results[arm].sums, again[arm].sums)
        assert np.array_equal(results[arm].sums, other[arm].sums) == (not arm.startswith("noise"))
        assert arm == "correct" or not np.array_equal(results[arm].sums, results["correct"].sums)


@pytest.mark.parametrize("budget", [1, 150, 333, 10_000])
def test_losses_do_not_depend_on_the_batch(trained, cases, space, budget):
    sequences = [TASKS[name].sequence(case.ids, space) for name in TASKS for case in cases[name]]
    (sums, tokens), (whole_sums, whole_tokens) = (losses(trained, sequences, size) for size in (budget, 700))
    np.testing.assert_allclose(sums, whole_sums, rtol=1e-5)
    assert tokens.tolist() == whole_tokens.tolist() == [int(line.is_target.sum()) for line in sequences]


def test_noise_reaches_every_code(space, rng):
    own = np.repeat(space.block("audio1").start, 2000)
    noise = replace("noise", own, own, space, rng)
    block = space.block("audio1")
    assert set(noise.tolist()) == set(range(block.start, block.end))
    text, other = np.arange(3), np.arange(7)
    assert replace("shuffled", text, other, space, rng).tolist() == other.tolist()
    assert replace("empty", text, other, space, rng).tolist() == []


# --- intervals --------------------------------------------------------------------------------------------------------


@st.composite
def two_arms(draw) -> tuple[CaseLosses, CaseLosses]:
    count = draw(st.integers(2, 12))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    tokens = rng.integers(1, 9, count)
    clusters = np.unique(rng.integers(0, count, count), return_inverse=True)[1]
    return CaseLosses(rng.gamma(3, 1, count), tokens, clusters), CaseLosses(rng.gamma(2, 1, count), tokens, clusters)


@given(two_arms(), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_interval_is_a_slow_paired_bootstraps(pair, seed):
    arm, correct = pair
    members = [np.flatnonzero(correct.clusters == number) for number in range(correct.clusters.max() + 1)]
    means = []
    for drawn in np.random.default_rng(seed).integers(len(members), size=(200, len(members))):
        draw = [case for number in drawn for case in members[number]]
        of_arm = sum(arm.sums[case] for case in draw) / sum(arm.tokens[case] for case in draw)
        of_correct = sum(correct.sums[case] for case in draw) / sum(correct.tokens[case] for case in draw)
        means.append(of_arm - of_correct)
    mean, low, high = difference(arm, correct, 200, seed)
    assert mean == pytest.approx(arm.mean - correct.mean)
    assert (low, high) == pytest.approx((np.quantile(means, 0.025), np.quantile(means, 0.975)))
    assert low <= high


@pytest.mark.parametrize("each", [1, 5], ids=["alone", "five of a recording"])
def test_interval_covers_a_known_difference_about_as_often_as_it_says(each):
    """200 experiments of 60 recordings whose true difference is 0.3 nats a token, between cases that differ far more; what a recording adds
    to it all of its cases share."""
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        clusters = np.arange(60).repeat(each)
        tokens = rng.integers(5, 20, 60 * each)
        base = rng.gamma(9, 0.5, 60 * each)
        correct = CaseLosses(base * tokens, tokens, clusters)
        arm = CaseLosses((base + 0.3 + rng.normal(0, 0.2, 60)[clusters]) * tokens, tokens, clusters)
        _, low, high = difference(arm, correct, 400, seed)
        covered += low <= 0.3 <= high
        assert low > 0, "pairing must see a difference of this size every time"
    assert 0.89 <= covered / 200 <= 0.985


def test_no_difference_is_an_interval_of_nothing_and_a_constant_one_of_no_width():
    tokens, alone = np.array([2, 5, 9]), np.arange(3)
    same = CaseLosses(np.array([1.0, 2.0, 3.0]), tokens, alone)
    assert difference(same, same, 100, 0) == (0.0, 0.0, 0.0)
    assert difference(CaseLosses(same.sums + 0.5 * tokens, tokens, alone), same, 100, 0) == pytest.approx(
        (0.5, 0.5, 0.5)
    )


@pytest.mark.parametrize("name", TASKS)
def test_figures_have_the_issues_keys(trained, cases, tmp_path, name):
    results = ablation.run(name, cases[name], trained, 400, seed=0)
    numbers = figures(results, resamples=50, seed=0)
    others = NAMES[name] - {"correct"}
    assert numbers.keys() == {"cases", "clusters"} | NAMES[name] | {f"{arm}_minus_correct" for arm in others}
    assert numbers["cases"] == 5
    for arm in others:
        mean, low, high = difference(results[arm], results["correct"], 50, 0)
        assert numbers[arm] == results[arm].mean
        assert numbers[f"{arm}_minus_correct"] == [low, high]
        assert mean == pytest.approx(numbers[arm] - numbers["correct"])
    assert json.loads(json.dumps(numbers)) == numbers

    ablation.write(tmp_path / "cases.json", cases, {name: results})
    written = json.loads((tmp_path / "cases.json").read_text())
    for i, line in enumerate(written[name]):
        assert line["id"] == cases[name][i].id
        assert line["tokens"] == results["correct"].tokens[i]
        assert {arm: line[arm] for arm in results} == {arm: result.sums[i] for arm, result in results.items()}


def test_other_datasets_have_partners_as_well(trained, cases, space):
    """Ids that end in a number, as most datasets' do, are not one combination."""
    from dataclasses import replace as changed

    def bare_row(**meta: str) -> dict:
        return {"modalities": {"image": {"path": "x.png", "meta": meta}, "audio": None}}

    bare = [changed(case, id=f"photo-{i}", row=bare_row()) for i, case in enumerate(cases["i2t"])]
    results = ablation.run("i2t", bare, trained, 400, seed=0)
    moved = ~np.isclose(results["shuffled"].sums, results["correct"].sums, rtol=1e-4)
    assert moved.mean() > 0.7  # two pictures may weigh the same by chance, but not all of them


def test_captions_of_one_recording_are_one_cluster_and_never_partners(trained, cases):
    """Clotho and COCO have five captions of each: shuffled must take another recording, and an interval counts it once."""
    from dataclasses import replace as changed

    twice = [
        changed(case, id=f"{i}", row={"modalities": {"image": {"path": "x.png", "meta": {"group": f"coco/{i // 2}"}}}})
        for i, case in enumerate(cases["i2t"])
    ]
    assert [partner(i, twice) for i in range(5)] == [2, 2, 4, 4, 0]
    results = ablation.run("i2t", twice, trained, 400, seed=0)
    assert results["zero"].clusters.tolist() == [0, 0, 1, 1, 2]
    assert figures(results, 20, 0)["clusters"] == 3


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("count", [0, 1, 2])
def test_nothing_and_one_cluster_have_no_figures_that_they_cannot_have(trained, cases, name, count):
    """Else nan and a gate that fails over nothing, or an interval without width that passes."""
    same = [cases[name][0]] * count
    results = ablation.run(name, same, trained, 400, seed=0)
    numbers = figures(results, 20, 0)
    kept = {arm for arm in NAMES[name] if not arm.startswith("shuffled")}
    assert results.keys() == kept
    assert numbers.keys() == {"cases", "clusters"} | (kept if count else set())
    assert (numbers["cases"], numbers["clusters"]) == (count, min(count, 1))
