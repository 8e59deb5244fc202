"""What this machine can do at most, and what a run takes of it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

MEMINFO, STATUS = Path("/proc/meminfo"), Path("/proc/self/status")  # Linux alone has them


class MachineError(ValueError):
    """Something this machine hasn't; the message is one line."""


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device_of(wanted: str) -> str:
    """`cpu` or `cuda`; `auto` takes CUDA where there is one. Raises MachineError for CUDA where there is none."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise MachineError(
            "device is cuda, and torch finds no such device here; set device to cpu or auto, or install torch with CUDA"
        )
    return wanted if wanted != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def planned_device(wanted: str) -> str:
    """As `device_of`, for a plan: a run on CUDA can be planned where there is none."""
    return wanted if wanted == "cuda" else device_of(wanted)


def use_threads(count: int, among: int = 1) -> None:
    """As many threads as a profile says; 0 leaves torch's own choice; of several processes each takes an equal part.

    Never more than OMP_THREAD_LIMIT: torch 2.13 shares bf16 attention out among the threads that it asked for, and where OpenMP gave fewer,
    parts stayed undone and the result was NaN.
    """
    limit = os.environ.get("OMP_THREAD_LIMIT", "")
    wanted = max(1, (count or torch.get_num_threads()) // among)
    torch.set_num_threads(min(wanted, int(limit)) if limit.isdecimal() and int(limit) else wanted)


def synchronise(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def gemm_rate(device: str, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a square matrix product, large enough to fill the device: the best of ten."""
    size = 8192 if device == "cuda" else 1024
    a, b = (torch.full((size, size), 0.5, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / _best(lambda: a @ b, 10, device)


def bandwidth(device: str, size: int = 2**26) -> float:
    """Bytes a second that a copy reads and writes: the best of five."""
    source = torch.ones(size, device=device)
    target = torch.empty_like(source)
    return 2 * 4 * size / _best(lambda: target.copy_(source), 5, device)


def memory_bytes(device: str) -> int | None:
    """What this process holds of the device's memory now; None where the system doesn't tell."""
    return torch.cuda.memory_allocated() if device == "cuda" else status_bytes("VmRSS")


def shares_memory(device: str) -> bool:
    """Whether the device's memory is the processor's own: a CPU's is, and that of a GPU on the same chip (DGX Spark)."""
    return device == "cpu" or (torch.cuda.is_available() and bool(torch.cuda.get_device_properties(0).is_integrated))


def available_bytes() -> int | None:
    """What the system can give without swapping, its page cache included; None where it doesn't tell."""
    return _meminfo("MemAvailable")


def whole_bytes() -> int | None:
    """All of the system's memory; None where it doesn't tell."""
    return _meminfo("MemTotal")


def _meminfo(key: str) -> int | None:
    return _kernel_bytes(MEMINFO, key) if MEMINFO.is_file() else None


def _kernel_bytes(table: Path, key: str) -> int:
    """A size that the kernel gives in a line such as `MemTotal:  65843 kB`."""
    (line,) = [line for line in table.read_text().splitlines() if line.startswith(f"{key}:")]
    return int(line.split()[1]) * 1024


def free_bytes(device: str) -> int | None:
    """What a run may still take of the device's memory; None where the system doesn't tell. Of shared memory CUDA's own figure leaves out
    the page cache, which the system would give back: there it isn't asked."""
    return available_bytes() if shares_memory(device) else torch.cuda.mem_get_info()[0]


def status_bytes(key: str) -> int | None:
    """A size from Linux's account of this process, such as VmRSS or VmHWM; None elsewhere."""
    return _kernel_bytes(STATUS, key) if sys.platform.startswith("linux") else None


def _best(work: Callable[[], object], rounds: int, device: str) -> float:
    seconds = []
    for _ in range(rounds + 1):
        synchronise(device)
        began = time.perf_counter()
        work()
        synchronise(device)
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])
