"""Weights in torch's own format: read without running what is pickled in them, and refused in one line."""

from __future__ import annotations

import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lumo.wording import in_short

# what a damaged or foreign file ends in
DAMAGED = (
    OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, EOFError, pickle.UnpicklingError
)  # fmt: skip


def read_pickle(path: Path) -> Any:
    """Tensors and plain containers alone. Raises one of DAMAGED."""
    return torch.load(path, map_location="cpu", weights_only=True)


def reason(error: Exception) -> str:
    """What was wrong, without torch's advice to read the file unsafely."""
    if not isinstance(error, pickle.UnpicklingError):
        return in_short(error) or type(error).__name__
    named = re.search(r"GLOBAL\s+([\w.]+)", str(error))
    return f"it wants {named[1]}, which could run code" if named else "it is damaged, or holds more than tensors"


def renamed(name: str, pairs: Sequence[tuple[str, str]]) -> str:
    """A key under its other name: patterns and what takes their place, in order."""
    for pattern, new in pairs:
        name = re.sub(pattern, new, name)
    return name


def unusable(state: dict[str, torch.Tensor]) -> str | None:
    """The first tensor that can't be a weight: not of numbers with a point, without values, or with values that aren't finite."""
    for name, value in state.items():
        if not value.is_floating_point() or value.is_meta or not bool(torch.isfinite(value).all()):
            return f"{name} holds no finite numbers"
    return None
