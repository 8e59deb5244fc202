"""The feed: a batch depends on its number alone, holds what the rates say, and is the same for any number of processes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refusals import refused
from runs import FOUR, STAGE4, TWICE, WARM, make_feed
from toys import sequences_of

from lumo.sequence import SequenceBuilder, TokenSequence
from lumo.tasks import TASKS, Mixture, Pool, TaskError, build_pools
from lumo.training import Feed, corrupted

SHARED_FIXTURES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


# --- batches by number ------------------------------------------------------------------------------------------------


def parts(batch):
    return [value.tolist() for value in vars(batch).values()]


@given(steps=st.lists(st.integers(0, 40), min_size=1, max_size=6))
@settings(SHARED_FIXTURES, max_examples=15)
def test_a_batch_depends_on_its_number_alone(tokenizer, samples, steps):
    feed = make_feed(samples, tokenizer.space, STAGE4)
    for step in steps:
        assert parts(feed.at(step)) == parts(make_feed(samples, tokenizer.space, STAGE4).at(step))


def test_batches_differ_by_step_and_by_seed(tokenizer, samples):
    feed, other = (make_feed(samples, tokenizer.space, STAGE4, seed) for seed in (0, 1))
    batches = [str(parts(f.at(step))) for f in (feed, other) for step in range(10)]
    assert len(set(batches)) == 20


@pytest.mark.parametrize("change", ["target flag", "id", "order", "seed", "rates"])
def test_data_hash_sees_every_change(tokenizer, samples, change):
    feed = make_feed(samples, tokenizer.space, WARM)
    pools = dict(feed.pools)
    lines = [replace(line, ids=line.ids.copy(), is_target=line.is_target.copy()) for line in pools["i2t"].sequences]
    mixture, seed = feed.mixture, 0
    if change == "target flag":
        lines[0].is_target[3] ^= True
    elif change == "id":
        lines[-1].ids[-1] += 1
    elif change == "order":
        lines = lines[::-1]
    elif change == "seed":
        seed = 1
    else:
        mixture = Mixture({"a2t": 0.5, "i2t": 0.4})
    pools["i2t"] = Pool(lines, 0)
    assert Feed(pools, mixture, 250, tokenizer.space, seed).sha256 != feed.sha256
    assert make_feed(samples, tokenizer.space, WARM).sha256 == feed.sha256


# --- what a batch holds -----------------------------------------------------------------------------------------------


@given(step=st.integers(0, 30), budget=st.integers(1, 600))
@settings(SHARED_FIXTURES, max_examples=30)
def test_a_batch_holds_whole_sequences_about_as_many_as_the_budget(tokenizer, samples, step, budget):
    feed = make_feed(samples, tokenizer.space, STAGE4.model_copy(update={"tokens_per_batch": budget}))
    batch = feed.at(step)
    known = {tuple(line.ids.tolist()): name for name in feed.names for line in feed.pools[name].sequences}
    held = sequences_of(batch)
    for group, ids in held:
        assert known[ids] == feed.names[group]
        assert step > STAGE4.ramp_steps or TASKS[known[ids]].target == "text"
    longest = max(map(len, known))
    assert 0.95 * budget <= batch.tokens < budget + longest and held


def test_shares_of_tasks_are_the_mixtures(tokenizer, samples):
    params = STAGE4.model_copy(
        update={"ramp_steps": 0, "rates": {"a2t": 0.1, "i2t": 0.2, "t2a": 0.3, "t2i": 0.4}, "tokens_per_batch": 1}
    )
    feed = make_feed(samples, tokenizer.space, params)  # a batch of one sequence
    counts = np.bincount([int(feed.at(step).groups[0, 0]) for step in range(1500)], minlength=4) / 1500
    np.testing.assert_allclose(counts, [0.1, 0.2, 0.3, 0.4], atol=0.05)


def test_what_is_drawn_follows_the_rates_whatever_the_lengths(tokenizer):
    """Four tasks at equal rates, two of them five times as long as the others, in batches of a few samples."""
    space, rng = tokenizer.space, np.random.default_rng(0)
    lengths = dict(zip(FOUR, (250, 50, 250, 50), strict=True))
    pools = {
        name: Pool([TokenSequence(rng.integers(0, 9, n + i), np.arange(n + i) > 3) for i in range(8)], 0, 0)
        for name, n in lengths.items()
    }
    feed = Feed(pools, Mixture(dict.fromkeys(FOUR, 0.25), 0), 600, space, 0)
    counts = np.zeros(len(FOUR))
    for step in range(400):
        batch = feed.at(step)
        begins = batch.position_ids.eq(0) & batch.segment_ids.gt(0)
        counts += np.bincount(batch.groups[begins].numpy(), minlength=len(FOUR))
        assert 0.95 * 600 <= batch.tokens < 600 + max(lengths.values()) + 8
    # 0.21 to 0.29 where the last one is left out
    assert counts / counts.sum() == pytest.approx(np.full(len(FOUR), 0.25), abs=0.03)


def test_a_batch_of_one_sample_longer_than_the_budget_is_one(tokenizer):
    pools = {"a2t": Pool([TokenSequence(np.arange(50), np.arange(50) > 3)], 0, 0)}
    feed = Feed(pools, Mixture({"a2t": 1.0}, 0), 40, tokenizer.space, 0)
    assert feed.at(0).tokens == 50


def test_a_task_without_sequences_is_named_with_its_drops(tokenizer, samples):
    pools = build_pools(samples, [*FOUR], tokenizer.space, max_seq_len=100)
    assert not pools["a2t"].sequences and not pools["t2a"].sequences
    line = "no sequence for a2t, t2a (dropped for length: {'a2t': 6, 't2a': 6}); raise max_seq_len"
    with refused(TaskError, line):
        Feed(pools, Mixture(dict.fromkeys(FOUR, 0.25)), 250, tokenizer.space, 0)
    assert Feed(pools, Mixture({"i2t": 0.5, "t2i": 0.5, "a2t": 0.0}), 250, tokenizer.space, 0).at(0).tokens


# --- several processes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3])
def test_the_parts_of_a_batch_are_the_batch(tokenizer, samples, size):
    feed = make_feed(samples, tokenizer.space, TWICE)
    shared = [sequence for rank in range(size) for sequence in sequences_of(feed.at(3, rank, size))]
    assert sorted(shared) == sorted(sequences_of(feed.at(3)))


def test_more_processes_than_sequences_are_refused(tokenizer, samples):
    feed = make_feed(samples, tokenizer.space, TWICE)
    with refused(TaskError, "sequences in a batch for 999 processes", "raise tokens_per_batch, or start fewer"):
        feed.at(0, 0, 999)


# --- corruption -------------------------------------------------------------------------------------------------------


@settings(SHARED_FIXTURES, max_examples=40)
@given(share=st.floats(0, 1), seed=st.integers(0, 10**6), number=st.integers(0, 5), name=st.sampled_from([*FOUR]))
def test_corruption_changes_nothing_but_codes_of_the_answer(tokenizer, samples, share, seed, number, name):
    space = tokenizer.space
    fitting = [sample for sample in samples if TASKS[name].fits(sample)]
    sequence = TASKS[name].sequence(fitting[number % len(fitting)].ids, space)
    before = sequence.ids.copy()
    read = corrupted(sequence, space, share, np.random.default_rng(seed))
    assert np.array_equal(sequence.ids, before) and read.dtype == before.dtype
    assert np.array_equal(space.block_index(read), space.block_index(before))  # each from its own codebook
    changed = read != before
    media = space.block_index(before) >= 2
    assert not changed[~(sequence.is_target & media)].any()
    if share == 0 or name in ("a2t", "i2t"):
        assert not changed.any()


def test_corruption_strikes_its_share_evenly(tokenizer):
    space = tokenizer.space
    block = space.media_blocks[-1]
    sequence = SequenceBuilder().add(np.full(20_000, block.start), target=True).build()
    drawn = corrupted(sequence, space, 0.3, np.random.default_rng(0)) - block.start
    counts = np.bincount(drawn, minlength=block.size)
    assert abs((drawn != 0).mean() - 0.3 * (1 - 1 / block.size)) < 0.02
    assert counts[1:].min() > 0.7 * counts[1:].mean()


def test_a_corrupted_batch_reads_other_codes_and_learns_the_true_ones(samples, tokenizer):
    clean = make_feed(samples, tokenizer.space, STAGE4)
    noisy = Feed(clean.pools, clean.mixture, clean.tokens_per_batch, tokenizer.space, clean.seed, corruption=0.5)
    assert noisy.sha256 != clean.sha256
    for step in range(8, 12):
        a, b = clean.at(step), noisy.at(step)
        assert torch.equal(a.labels, b.labels) and torch.equal(a.segment_ids, b.segment_ids)
        assert torch.equal(b.input_ids, noisy.at(step).input_ids)
    assert any(not torch.equal(clean.at(step).input_ids, noisy.at(step).input_ids) for step in range(8, 12))


@pytest.mark.parametrize("size", [2, 3])
def test_corruption_is_the_same_for_any_number_of_processes(samples, tokenizer, size):
    clean = make_feed(samples, tokenizer.space, STAGE4)
    feed = Feed(clean.pools, clean.mixture, 600, tokenizer.space, 0, corruption=0.5)
    for step in (0, 9):
        shared = [sequence for rank in range(size) for sequence in sequences_of(feed.at(step, rank, size))]
        assert sorted(shared) == sorted(sequences_of(feed.at(step)))
