"""What `Pace` says of the time that is left."""

from __future__ import annotations

import pytest

from lumo.show import Pace


def paced(moments: list[tuple[float, int]], of: int) -> dict[str, str]:
    """The row after (seconds, done) one by one."""
    now = [0.0]
    pace = Pace("rows", window_s=30, clock=lambda: now[0])
    row = {}
    for now[0], done in moments:
        row = pace(done, of)
    return row


@pytest.mark.parametrize(
    ("moments", "rate", "left"),
    [
        ([(10, 1000)], "100", "3 min 10 s"),
        ([(float(s), 100 * s) for s in range(1, 101)], "100", "1 min 40 s"),
        # nine tenths were there already: an hour later the rate is that of the work alone
        ([(0.1, 18_000), *((float(s), 18_000 + s // 2) for s in range(1, 3601))], "0.5", "6 min 40 s"),
        # it stood still for a while, and may do so again
        ([(10, 1000), (100, 1100), (110, 2100)], "11", "27 min 07 s"),
        ([(10, 20_000)], "2,000", "0 min 00 s"),
    ],
)
def test_what_is_left_takes_as_long_as_the_work_did_lately(moments, rate, left):
    assert paced(moments, 20_000) == {"rows": f"{moments[-1][1]:,} of 20,000", "rows/s": rate, "left": left}


@pytest.mark.parametrize("moments", [[(0, 5)], [(1, 0)], [(5, 0), (6, 0)]])
def test_without_time_or_work_nothing_is_said(moments):
    assert paced(moments, 10) == {"rows": f"{moments[-1][1]} of 10"}
