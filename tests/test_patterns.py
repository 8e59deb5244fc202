"""The order of codebooks against slow, obvious loops, and there against back again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from refusals import check_line

from lumo.patterns import flatten, unflatten

quick = settings(deadline=None, max_examples=100)
codes = st.tuples(st.integers(1, 8), st.integers(0, 12)).flatmap(
    lambda shape: arrays(np.int64, shape, elements=st.integers(0, 1023))
)


@quick
@given(codes)
def test_flatten_is_by_time(codes):
    line = []
    for t in range(codes.shape[1]):
        for k in range(codes.shape[0]):
            line.append(codes[k, t])
    assert flatten(codes).tolist() == line


@quick
@given(codes)
def test_unflatten_undoes_flatten(codes):
    assert np.array_equal(unflatten(flatten(codes), len(codes)), codes)


@quick
@given(st.integers(2, 8), st.data())
def test_a_line_that_ends_inside_a_frame_is_refused(books, data):
    length = data.draw(st.integers(1, 60).filter(lambda n: n % books))
    with pytest.raises(ValueError) as caught:
        unflatten(np.zeros(length, dtype=np.int64), books)
    check_line(str(caught.value), f"line of {length} codes", f"multiple of {books} codebooks")
