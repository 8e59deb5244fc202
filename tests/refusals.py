"""What every refusal must be: one line that says where, what was got, what was expected and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


def check_line(message: str, *words: str) -> None:
    assert message and "\n" not in message, message
    for word in words:
        assert word in message, f"expected '{word}' in: {message}"


@contextmanager
def refused(kind: type[Exception], *words: str) -> Iterator[None]:
    """The block raises exactly `kind`, in one line that holds all of `words`."""
    with pytest.raises(kind) as caught:
        yield
    assert type(caught.value) is kind, repr(caught.value)
    check_line(str(caught.value), *words)
