"""Lengths and drops said in one pass are those of the sequences that a run then makes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toys import make_samples

from lumo.lengths import drop_table, task_lengths
from lumo.tasks import TASKS, build_pools


@pytest.fixture(scope="module")
def samples(tokenizer):
    return make_samples(tokenizer, images=6, clips=6, pairs=2)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(20, 160), st.booleans(), st.lists(st.integers(0, 90), min_size=14, max_size=14))
def test_they_are_those_of_the_pools(tokenizer, samples, limit, shorten, words):
    """Fast against slow: every sequence is made."""
    space, text = tokenizer.space, tokenizer.space.block("text").start
    samples = [replace(s, ids=s.ids | {"text": np.full(n, text)}) for s, n in zip(samples, words, strict=True)]
    pools = build_pools(samples, list(TASKS), space, limit, shorten)
    for name, found in task_lengths(iter(samples), list(TASKS), space).items():
        pool = pools[name]
        assert sorted(found.kept(limit, shorten).elements()) == sorted(map(len, pool.sequences))
        assert found.dropped(limit, shorten) == pool.dropped
        assert (found.shortened(limit) if shorten else 0) == pool.shortened


def test_percentiles_are_numpys(tokenizer, samples):
    lengths = task_lengths(samples, ["i2t"], tokenizer.space)["i2t"]
    true = [len(TASKS["i2t"].sequence(s.ids, tokenizer.space)) for s in samples if TASKS["i2t"].fits(s)]
    for percent in (1, 25, 50, 95, 99, 100):
        assert lengths.percentile(percent) == np.percentile(true, percent, method="inverted_cdf")
    assert task_lengths([], ["i2t"], tokenizer.space)["i2t"].percentile(50) == 0


def test_the_table_says_what_each_limit_drops(tokenizer, samples):
    lengths = task_lengths(samples, ["t2a"], tokenizer.space)
    longest = lengths["t2a"].percentile(100)
    (row,) = drop_table(lengths, longest)
    assert row["task"] == "t2a" and row["sequences"] == 6
    assert (row[f"dropped at {longest}"], row[f"dropped at {round(longest / 2)}"]) == (0, 6)
    assert list(row)[-1] == f"dropped at {2 * longest}"
