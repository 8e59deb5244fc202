"""How what goes wrong is said: one line, in a notebook and in a shell."""

from __future__ import annotations

import errno
import warnings
from typing import Any

from lumo.wording import in_short

# what a path may be that a person gave: a file where a folder is wanted, too long, not theirs to write
PLACES = (
    errno.ENOTDIR,
    errno.EEXIST,
    errno.EISDIR,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENAMETOOLONG,
    errno.ELOOP,
)
AGAIN = "run the same command again, and it goes on where it stopped"
MAKE_ROOM = f"free some space, then {AGAIN}"
INTERRUPTED = (
    "interrupted; run the cell again, or Restart Kernel and Run All: it goes on from the last whole shard or checkpoint"
)


class WorkbookError(ValueError):
    """Something a run needs and doesn't have; the message is one line."""


class GatesFailed(WorkbookError):
    """Every notebook ran, and a gate failed where that was asked to be an error."""


def is_expected(error: BaseException) -> bool:
    """Errors whose line says all there is to say: lumo's own, a full disk or GPU, a path that can't be used, an interrupt.

    Anything else deserves its traceback.
    """
    ours = type(error).__module__.partition(".")[0] == "lumo" and isinstance(error, Exception)
    told = is_disk_full(error) or is_gpu_full(error) or is_place(error)
    return ours or told or isinstance(error, KeyboardInterrupt)


def is_disk_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def is_gpu_full(error: BaseException) -> bool:
    return type(error).__name__ == "OutOfMemoryError"  # torch's, without importing it


def is_place(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in PLACES and error.filename is not None


def one_line(error: BaseException) -> str:
    """The error as it is shown to a person."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if is_disk_full(error):
        what = getattr(error, "filename", None) or "a file of the run"
        return f"disk full while writing {what}: {MAKE_ROOM}"
    if is_gpu_full(error):
        return f"the GPU's memory is full ({in_short(error)}); lower tokens_per_batch or golden.batch_size, as `lumo plan` says; {AGAIN}"
    if is_place(error):
        return f"can't use {error.filename}: {error.strerror}; choose another path, or change its permissions"
    return f"{type(error).__name__}: {error}"


def show_expected_errors_in_one_line() -> None:
    """In a notebook, expected errors show their line in place of a traceback, and warnings theirs without a path.

    The cell fails all the same.
    """
    try:
        from IPython import get_ipython
    except ImportError:
        return
    shell = get_ipython()
    if shell is not None:
        # these bases cover every error class of lumo, and leave SyntaxError to IPython
        shell.set_custom_exc((ValueError, RuntimeError, LookupError, OSError, KeyboardInterrupt), _show)
        warnings.formatwarning = lambda message, category, *_: f"{category.__name__}: {message}\n"


def _show(shell: Any, kind: type, error: BaseException, traceback: Any, tb_offset: int | None = None) -> None:
    if is_expected(error):
        # IPython asks the exception for this method, so the line also reaches nbclient, papermill and nbval
        error._render_traceback_ = lambda: one_line(error).splitlines()  # type: ignore[attr-defined]
    shell.showtraceback((kind, error, traceback), tb_offset=tb_offset, running_compiled_code=True)
