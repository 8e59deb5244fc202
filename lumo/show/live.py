"""One table that changes in place while something runs."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from IPython import get_ipython
from IPython.display import display

from lumo.show.page import Page, plain, stack, title_line
from lumo.show.tables import Row, format_value, table

Content = Page | Mapping[str, Any] | Sequence[Row]


class Live:
    """One output that is updated in place; the last update is always shown.

    In a notebook it is one display with an id, so a long training leaves one output, not thousands. In a terminal it is
    one line on stderr, and nothing where stderr is no terminal.

        with Live("training") as live:
            for step in range(steps):
                live.update({"step": step, "loss": loss})

    title: a line above; seconds: shortest time between two updates, 0 shows all
    clock: seconds, for tests
    """

    def __init__(self, title: str = "", seconds: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.title = title
        self.seconds = seconds
        self._clock = clock
        self._shown_at: float | None = None
        self._pending: Content | Callable[[], Content] | None = None
        self._handle: Any = None
        self._line_open = False

    def update(self, content: Content | Callable[[], Content], final: bool = False) -> bool:
        """Show this, unless the last one is younger than `seconds`; then it waits, and `close` shows it.

        content: a `Page`, a row (column → value), rows, or a function that makes one of these: it is called only when
            shown, so a costly figure costs nothing in between
        final: show it in any case
        Returns whether it was shown.
        """
        now = self._clock()
        self._pending = content
        if not final and self._shown_at is not None and now - self._shown_at < self.seconds:
            return False
        self._show()
        self._shown_at = now
        return True

    def close(self) -> None:
        """Show what still waits, and end the terminal's line; further updates open a new one."""
        if self._pending is not None:
            self._show()
        if self._line_open:
            print(file=sys.stderr, flush=True)
            self._line_open = False

    def __enter__(self) -> Live:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _show(self) -> None:
        content, self._pending = self._pending, None
        if not in_kernel() and not sys.stderr.isatty():
            return
        if callable(content):
            content = content()
        if not in_kernel():
            self._print(content)
        elif self._handle is None:
            self._handle = display(self._page(content), display_id=True)
        else:
            self._handle.update(self._page(content))

    def _page(self, content: Content) -> Page:
        page = content if isinstance(content, Page) else table([content] if isinstance(content, Mapping) else content)
        return stack(Page(title_line(self.title), plain(self.title)), page) if plain(self.title) else page

    def _print(self, content: Content) -> None:
        words = f"{plain(self.title)}: {_in_one_line(content)}" if plain(self.title) else _in_one_line(content)
        room = shutil.get_terminal_size().columns - 1
        print("\r" + words[:room].ljust(room), end="", file=sys.stderr, flush=True)
        self._line_open = True


def in_kernel() -> bool:
    """Whether a notebook's kernel runs this code, so that displays can be updated in place."""
    return getattr(get_ipython(), "kernel", None) is not None


def _in_one_line(content: Content) -> str:
    if isinstance(content, Page):
        return next((line for line in content.text.splitlines() if line.strip()), "")
    row = content if isinstance(content, Mapping) else (content[-1] if content else "")
    if isinstance(row, Mapping):
        cells = (
            f"{name} {value.text if isinstance(value, Page) else format_value(value)}" for name, value in row.items()
        )
    else:
        cells = (value.text if isinstance(value, Page) else format_value(value) for value in row)
    return plain(" · ".join(cells)).replace("\n", " ")
