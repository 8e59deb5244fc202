"""A token's step with shapes and addresses that stay the same, so that a GPU can replay it as one CUDA graph.

A step launches some thousand small kernels, and for one token a case launching them takes longer than computing them. A graph launches
them all at once, but does the very same work on the very same memory every time. So inputs are copied into places of their own,
keys and values are written where a tensor says, and attention looks at a window over the cache with a mask, filled or not.

Windows grow by `WINDOW` steps and each has a graph of its own: a window over the whole room would read twice as much as is filled.
Rules of capture: PyTorch, "CUDA semantics", CUDA graphs.

Axes: b case · s step so far · w step of the window · d hidden.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import Qwen3Model

from lumo.cache import RoomyCache, Step

Run = Callable[[], Tensor]
WINDOW = 256
FIXED_ROTATIONS = ("default", "linear", "llama3", "yarn")  # others look at the positions, which a graph can't


def can_be_static(trunk: nn.Module) -> bool:
    """Whether a trunk's step launches the same kernels whatever its inputs are: Qwen3's does, experts and others may not."""
    return isinstance(trunk, Qwen3Model) and trunk.rotary_emb.rope_type in FIXED_ROTATIONS


def whole_windows(steps: int) -> int:
    """The room that so many steps take.

    >>> whole_windows(1), whole_windows(256), whole_windows(257)
    (256, 256, 512)
    """
    return -(-steps // WINDOW) * WINDOW


def static_step(step: Step, cache: RoomyCache, device: torch.device) -> Step:
    """`step` with shapes and addresses that stay the same: captured on CUDA, and run as it is elsewhere. The cache has room for whole windows."""
    return _StaticStep(step, cache, _Graphs() if device.type == "cuda" else lambda run: run)


class _StaticStep:
    """capture: makes of a run over the places here one that does the same again."""

    def __init__(self, step: Step, cache: RoomyCache, capture: Callable[[Run], Run]):
        self.step, self.cache, self.capture = step, cache, capture
        self.runs: dict[int, Run] = {}

    def __call__(
        self, x: Float[Tensor, "b 1 d"], position_ids: Int[Tensor, "b 1"], mask: Bool[Tensor, "b 1 1 s"]
    ) -> Float[Tensor, "b 1 d"]:
        """What `step` gives, by a captured run."""
        if not self.runs:
            self._take_places(x, position_ids)
        filled = mask.shape[-1]
        self.x.copy_(x)
        self.position_ids.copy_(position_ids)
        self.mask[..., :filled] = mask
        self.at.fill_(filled - 1)
        window = whole_windows(filled)
        if window not in self.runs:
            self.runs[window] = self.capture(lambda: self._run(window))
        return self.runs[window]().clone()  # the next replay writes over it

    def _take_places(self, x: Float[Tensor, "b 1 d"], position_ids: Int[Tensor, "b 1"]) -> None:
        room = self.cache.layers[0].room
        self.x, self.position_ids = torch.empty_like(x), torch.empty_like(position_ids)
        self.mask = torch.zeros(len(x), 1, 1, room, dtype=torch.bool, device=x.device)
        self.at = torch.zeros(1, dtype=torch.long, device=x.device)

    def _run(self, window: int) -> Float[Tensor, "b 1 d"]:
        self.cache.fix(self.at, window)
        return self.step(self.x, self.position_ids, self.mask[..., :window])


class _Graphs:
    """Captures on CUDA. All graphs of a generation share their memory, as they run one after the other."""

    def __init__(self) -> None:
        self.pool = torch.cuda.graph_pool_handle()
        self.stream = torch.cuda.Stream()

    def __call__(self, run: Run) -> Run:
        """A graph of `run`, to be replayed. `run` may be called again for the same token: it writes the same once more."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):  # libraries take their memory at a first call, which mustn't be captured
            run()
        torch.cuda.current_stream().wait_stream(self.stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
            result = run()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay
