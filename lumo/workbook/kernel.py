"""A Jupyter kernel that runs in a container: JupyterLab and papermill stay on the machine, the notebook's Python is the image's.

The project lies in the container where it lies outside, so paths mean the same on both sides, and its `lumo` is the one imported.
A Jupyter that is killed can't take the container with it, as it takes a kernel of its own: `docker ps` shows what was left.
Format: jupyter_client's kernelspec, https://jupyter-client.readthedocs.io/en/stable/kernels.html.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

from lumo import hub_cache
from lumo.files import place_of
from lumo.params import ROOT
from lumo.workbook.errors import WorkbookError
from lumo.workbook.folders import make_folder, reports_folder

PASSED_ON = ("LUMO_RUN_DIR", "LUMO_PROFILE", "LUMO_REPORTS")


def install(name: str, image: str, mounts: Sequence[Path] = (), prefix: Path | None = None) -> Path:
    """Register the kernel, for this user or below `prefix`; the folder of its kernel.json. An older one of lumo's is replaced.

    mounts: folders outside the project that the notebooks need, such as one with weights; the hub's cache and LUMO_REPORTS, as they are now,
        are mounted where they lie outside
    Warns where there is no docker. Raises WorkbookError for a name that is another program's, for a mount that isn't there, and for a
    folder that can't be written.
    """
    if not name or not image or image.startswith("-"):
        raise WorkbookError(f"kernel '{name}' of image '{image}': expected the names of both; give --name and --image")
    content = json.dumps(spec(image, mounts), indent=2) + "\n"
    manager = KernelSpecManager()
    if prefix:  # Jupyter wouldn't look there
        manager.kernel_dirs = [str(prefix / "share" / "jupyter" / "kernels")]
    if not _is_free(name, manager):
        raise WorkbookError(
            f"kernel '{name}' is there already and not lumo's; choose another --name, or remove it: jupyter kernelspec remove {name}"
        )
    if not shutil.which("docker"):
        warnings.warn("no docker on PATH here: the kernel is registered, and starts when docker is there", stacklevel=2)
    try:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "kernel.json").write_text(content)
            chosen = {"prefix": str(prefix)} if prefix else {"user": True}
            return Path(manager.install_kernel_spec(folder, name, **chosen))
    except (OSError, ValueError) as error:
        raise WorkbookError(
            f"kernel '{name}' can't be registered ({error}); choose another --name or --prefix"
        ) from error


def _is_free(name: str, manager: KernelSpecManager) -> bool:
    """Whether no kernel has this name, or one of lumo's."""
    try:
        return "lumo" in manager.get_kernel_spec(name).metadata
    except NoSuchKernel:
        return True
    except (ValueError, TypeError):  # a kernel.json that is none
        return False


def spec(image: str, mounts: Sequence[Path] = ()) -> dict[str, Any]:
    """What stands in kernel.json."""
    return {
        "argv": ["docker", "run", *_options(mounts), image, "python", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": f"lumo ({image})",
        "language": "python",
        "interrupt_mode": "message",  # a signal would end at docker's client
        "metadata": {"lumo": {"image": image}},
    }  # fmt: skip


def _options(mounts: Sequence[Path]) -> list[str]:
    cache = hub_cache.cache_folder().resolve()
    if os.environ.get("LUMO_REPORTS"):
        make_folder(reports_folder())  # as a run would
        mounts = [*mounts, reports_folder()]
    folders = dict.fromkeys(_there(folder) for folder in mounts)
    written = [ROOT, *(folder for folder in folders if not folder.is_relative_to(ROOT))]
    # a run reads the cache and never fetches
    read = [cache] if cache.is_dir() and not any(cache.is_relative_to(folder) for folder in written) else []
    return [
        "--rm",
        "--init",
        "--pull=never",  # an image that wasn't built here would be looked for on Docker Hub, where anyone may own its name
        "--gpus=all",
        "--ipc=host",
        "--network=host",  # the ports of the connection file are this machine's
        f"--user={os.getuid()}:{os.getgid()}",  # or reports would be root's, and the connection file couldn't be read
        *(f"--mount=type=bind,source={folder},target={folder}" for folder in written),
        *(f"--mount=type=bind,source={_there(folder)},target={folder},readonly" for folder in read),
        "--mount=type=bind,source={connection_file},target={connection_file},readonly",
        f"--workdir={ROOT / 'notebooks'}",
        f"--env=PYTHONPATH={ROOT}",
        "--env=HOME=/tmp",  # this user has no home in the image, and no name, which torch asks for
        "--env=USER=lumo",
        f"--env=HF_HUB_CACHE={cache}",  # the image's own would be below its HOME
        *(f"--env={variable}" for variable in PASSED_ON),  # without a value: what Jupyter was started with, if anything
    ]


def _there(folder: Path) -> Path:
    path = place_of(folder)
    if not path.is_dir() or "," in str(path):
        raise WorkbookError(
            f"{path}: expected a folder that is there, without a comma in its name; move it, or give another --mount"
        )
    return path
