"""Ends a run before the machine swaps.

Where a GPU shares the processor's memory (DGX Spark), a run that takes too much doesn't fail: the machine swaps, and no longer
answers. On a CPU it is the same. So what the system can still give is read after every step, which takes some 50 µs, and below a floor the
run ends with a checkpoint.
"""

from __future__ import annotations

from lumo.machine import MachineError, available_bytes, whole_bytes


def check(floor_mib: int) -> None:
    """Raises MachineError where a run would end after its first step, and again each time it is called."""
    whole = whole_bytes()
    if whole is not None and whole < floor_mib * 2**20:
        raise MachineError(
            f"training: memory_floor_mib is {floor_mib:,}, this machine has {whole / 2**20:,.0f} MiB in all; nothing was trained: lower it"
        )
    if is_low(floor_mib):
        raise MachineError(
            f"training: {_free()} of memory is available before the first step, memory_floor_mib is {floor_mib:,}; nothing was trained: end "
            "other programs and run the same again, or lower it"
        )


def is_low(floor_mib: int) -> bool:
    """Whether less than the floor is available. Never for a floor of 0, nor where the system doesn't tell."""
    available = available_bytes() if floor_mib else None
    return available is not None and available < floor_mib * 2**20


def ended(floor_mib: int, step: int, checkpoint: str) -> MachineError:
    """What is said when a run ends for want of memory. `step`: how many are done; `checkpoint`: its name."""
    return MachineError(
        f"training: {_free()} of memory is available, memory_floor_mib is {floor_mib:,}; ended after step {step} before the machine swaps, "
        f"with {checkpoint}: end other programs and run the same again, it goes on there; or begin anew with a smaller tokens_per_batch"
    )


def _free() -> str:
    available = available_bytes()
    return "little" if available is None else f"{available / 2**20:,.0f} MiB"
