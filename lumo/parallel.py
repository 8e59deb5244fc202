"""Several processes on one training run: each takes a part of every batch, sums travel, and all hold the same weights.

Without torch.distributed this is one process, and nothing here costs anything. `torchrun` and `accelerate launch` set the
environment that `join` reads.
"""

from __future__ import annotations

import atexit
import gc
import os
from collections.abc import Sequence

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor


def join(device: str) -> None:
    """Join the processes that the launcher started, if it started several; on `cuda` each takes a GPU of its own."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        if device == "cuda":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        distributed.init_process_group("nccl" if device == "cuda" else "gloo")
        atexit.register(_leave)


def _leave() -> None:
    """Without this torch 2.11 may abort at the very end of a run that went well, when its threads outlive the interpreter."""
    if distributed.is_initialized():
        gc.collect()  # sharded models lie in cycles that hold the group: with them torch 2.13 aborted 4 of 24 times
        distributed.destroy_process_group()


def rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def size() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def wait() -> None:
    """Wait until every process has come here."""
    if size() > 1:
        distributed.barrier()


def is_orphan(launcher: int) -> bool:
    """Whether the process that started this one as one of several is gone. launcher: its id, `os.getppid()` at the beginning"""
    return size() > 1 and os.getppid() != launcher


def add_up(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its sum over all processes, in place and in one exchange. They share dtype and device."""
    if size() == 1:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    distributed.all_reduce(flat)
    for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(total.view_as(tensor))


def clip_gradients(parameters: Sequence[nn.Parameter], limit: float) -> Tensor:
    """Scale gradients down to a norm of `limit`; the norm before.

    It is taken over all of them, whole ones (which are the same everywhere) and sharded ones.
    """
    whole, sharded = ([p for p in parameters if isinstance(p, DTensor) == wanted] for wanted in (False, True))
    if not sharded:
        return nn.utils.clip_grad_norm_(whole, limit)
    norms = [nn.utils.get_total_norm([p.grad for p in part if p.grad is not None]) for part in (whole, sharded)]
    norm = torch.linalg.vector_norm(torch.stack([norms[0], norms[1].full_tensor()]))
    for part in (whole, sharded):
        nn.utils.clip_grads_with_norm_(part, limit, norm)
    return norm


def add_up_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Sum gradients over all processes, but for those of sharded parameters, which FSDP has summed."""
    add_up([p.grad for p in parameters if not isinstance(p, DTensor)])
