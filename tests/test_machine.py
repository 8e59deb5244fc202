"""What a run may take of the machine."""

from __future__ import annotations

import pytest
import torch

from lumo.machine import use_threads


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("limit", "wanted", "taken"), [("1", 2, 1), ("8", 2, 2), ("", 2, 2), ("many", 2, 2), ("1", 0, 1)]
)
def test_no_more_threads_than_openmp_gives(monkeypatch, threads, limit, wanted, taken):
    monkeypatch.setenv("OMP_THREAD_LIMIT", limit)
    use_threads(wanted)
    assert torch.get_num_threads() == taken
