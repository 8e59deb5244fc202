"""Keys and values of what was read and written so far, kept in place.

Axes: b case · h head · n new step · k step so far · d of a head, or hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

# a new token for each case, on a cache: its embedding, its position, and where it may look, itself included → last hidden state
Step = Callable[[Float[Tensor, "b 1 d"], Int[Tensor, "b 1"], Bool[Tensor, "b 1 1 k"]], Float[Tensor, "b 1 d"]]


class RoomyCache(Cache):
    """A cache for transformers' models with room for so many steps."""

    def __init__(self, layers: int, room: int):
        super().__init__(layers=[RoomyLayer(room) for _ in range(layers)])

    def fix(self, at: Int[Tensor, "1"], shown: int) -> None:
        """From now on a step is written where `at` says when it is computed, and so many steps are given back, filled or not: shapes and
        addresses that don't change from one token to the next."""
        for layer in self.layers:
            layer.at, layer.shown = at, shown


class RoomyLayer(DynamicLayer):
    """Written into room for all steps: growing by concatenation copies all that was before at every token.

    What it gives back are views of the part that is filled, or, once it is fixed, of as much as is to be shown.
    """

    def __init__(self, room: int):
        super().__init__()
        self.room, self.filled = room, 0
        self.at: Tensor | None = None
        self.shown = 0

    def update(
        self, key_states: Float[Tensor, "b h n d"], value_states: Float[Tensor, "b h n d"], *args: Any, **kwargs: Any
    ) -> tuple[Float[Tensor, "b h k d"], Float[Tensor, "b h k d"]]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            # zeros: what is masked has no weight, but would still make NaN of a NaN
            self._all = [states.new_zeros(*states.shape[:2], self.room, states.shape[3])
                         for states in (key_states, value_states)]  # fmt: skip
        new = zip(self._all, (key_states, value_states), strict=True)
        if self.at is not None:
            for room, states in new:
                room.index_copy_(2, self.at, states)
            return tuple(room[:, :, : self.shown] for room in self._all)
        start, self.filled = self.filled, self.filled + key_states.shape[2]
        for room, states in new:
            room[:, :, start : self.filled] = states
        self.keys, self.values = (room[:, :, : self.filled] for room in self._all)
        return self.keys, self.values
