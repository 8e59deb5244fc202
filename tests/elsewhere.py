"""A second device that isn't there: tensors that say they lie on another one than the CPU, with their values kept here.

So a CPU shows what only a GPU would refuse or wait for: an operation that meets tensors of both devices, and a value that Python asks for
while the device still computes. torch's "meta" lends its name, as it is the one other device that every build of torch has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

aten = torch.ops.aten
DEVICE = torch.device("meta")
MOVES = {aten._to_copy.default, aten.copy_.default}
# the size of what they make, or what Python does next, depends on values
WAITS = {aten._local_scalar_dense.default, aten.nonzero.default, aten.bincount.default, aten.equal.default}
INDEXED = {aten.index.Tensor, aten.index_put_.default}  # by a mask: as `nonzero`


class There(torch.Tensor):
    """A tensor there. value: the same here"""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, value: torch.Tensor) -> There:
        how = {"strides": value.stride(), "storage_offset": value.storage_offset(), "dtype": value.dtype}
        return torch.Tensor._make_wrapper_subclass(cls, value.size(), device=DEVICE, **how)

    def __init__(self, value: torch.Tensor):
        self.value = value

    @classmethod
    def __torch_dispatch__(cls, function: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{function} outside of Elsewhere")


class Elsewhere(TorchDispatchMode):
    """order: of what is done there, each operation's name, after "wait" where a GPU would be waited for"""

    def __init__(self) -> None:
        super().__init__()
        self.order: list[str] = []

    def __torch_dispatch__(self, function: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [tensor for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, torch.Tensor)]
        there, asked = [isinstance(tensor, There) for tensor in given], kwargs.get("device")
        lands = torch.device(asked) == DEVICE if asked else any(there[:1] if function is aten.copy_.default else there)
        if lands or any(there):
            self._note(function, given, there, lands)
        here, how = tree_map_only(There, lambda tensor: tensor.value, (args, kwargs))
        made = function(*here, **how | ({"device": torch.device("cpu")} if asked else {}))
        if not lands:
            return made
        made = tree_map_only(torch.Tensor, There, made)
        return made if asked else return_and_correct_aliasing(function, args, kwargs, made)

    def _note(self, function: Callable, given: list[torch.Tensor], there: list[bool], lands: bool) -> None:
        waits = function in WAITS or (function in INDEXED and any(t.dtype == torch.bool for t in given[1:]))
        if function in MOVES:
            waits = len({*there, lands}) > 1
        else:
            sides = {side for tensor, side in zip(given, there, strict=True) if tensor.dim()}
            assert len(sides) < 2, f"{function} of tensors on both devices"
        self.order += ["wait"] * waits + [str(function)]
