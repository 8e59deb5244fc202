"""How far a long piece of work is: told to whoever wants to know."""

from __future__ import annotations

from collections.abc import Callable

OnProgress = Callable[[int, int], None]  # how much is done, and of how much


def untold(done: int, of: int) -> None:
    """Nobody wants to know."""
