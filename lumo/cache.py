"""Keys and values of what was read and written so far, kept in place.

Axes: b case · h head · n new step · k step so far · d of a head.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class RoomyCache(Cache):
    """A cache for transformers' models with room for so many steps."""

    def __init__(self, layers: int, room: int):
        super().__init__(layers=[RoomyLayer(room) for _ in range(layers)])


class RoomyLayer(DynamicLayer):
    """Written into room for all steps: growing by concatenation copies all that was before at every token.

    What it gives back are views of the part that is filled.
    """

    def __init__(self, room: int):
        super().__init__()
        self.room, self.filled = room, 0

    def update(
        self, key_states: Float[Tensor, "b h n d"], value_states: Float[Tensor, "b h n d"], *args: Any, **kwargs: Any
    ) -> tuple[Float[Tensor, "b h k d"], Float[Tensor, "b h k d"]]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._all = [states.new_empty(*states.shape[:2], self.room, states.shape[3])
                         for states in (key_states, value_states)]  # fmt: skip
        start, self.filled = self.filled, self.filled + key_states.shape[2]
        for room, states in zip(self._all, (key_states, value_states), strict=True):
            room[:, :, start : self.filled] = states
        self.keys, self.values = (room[:, :, : self.filled] for room in self._all)
        return self.keys, self.values
