"""How fast something countable goes on, and how long it will take still."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable


class Pace:
    """Counts to a row for `Live`: done of how many, how many a second lately, and the time that is left at that rate.

        pace = Pace("rows")
        write(progress=lambda done, of: live.update(pace(done, of)))

    what: is counted; window_s: how long "lately" is. What an earlier call left is counted at once, and says nothing about the rest
    clock: seconds, for tests
    """

    def __init__(self, what: str, window_s: float = 30.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.what = what
        self.window_s = window_s
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque([(clock(), 0)])

    def __call__(self, done: int, of: int) -> dict[str, str]:
        now = self._clock()
        self._seen.append((now, done))
        while len(self._seen) > 2 and self._seen[1][0] <= now - self.window_s:
            self._seen.popleft()
        (since, before), row = self._seen[0], {self.what: f"{done:,} of {of:,}"}
        if now > since and done > before:
            rate = (done - before) / (now - since)
            minutes, seconds = divmod(round((of - done) / rate), 60)
            row |= {
                f"{self.what}/s": f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}",
                "left": f"{minutes} min {seconds:02d} s",
            }
        return row
