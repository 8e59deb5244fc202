"""`lumo kernel install`: a Jupyter kernel that runs in a container."""

from __future__ import annotations

import argparse
from pathlib import Path

from lumo.commands.options import Commands, add_command


def add(commands: Commands) -> None:
    summary = "a Jupyter kernel that runs in the container that Dockerfile makes"
    kernel = add_command(commands, "kernel", summary)
    actions = kernel.add_subparsers(required=True, metavar="install", title="what to do")
    install = add_command(actions, "install", "register it with Jupyter")
    option = install.add_argument
    option("--name", default="lumo-spark", help="what papermill -k takes (%(default)s)")
    option("--image", default="lumo", help="as docker knows it (%(default)s)")
    option(
        "--prefix",
        metavar="FOLDER",
        type=Path,
        help="for the environment there, such as .venv, instead of for this user",
    )
    option(
        "--mount",
        metavar="FOLDER",
        type=Path,
        action="append",
        default=[],
        help="a folder outside the project that the notebooks need; may be given several times",
    )
    install.set_defaults(command=_install)


def _install(options: argparse.Namespace) -> None:
    from lumo.workbook import kernel

    folder = kernel.install(options.name, options.image, options.mount, options.prefix)
    print(
        f"kernel: {folder}\nnext: papermill -k {folder.name} notebooks/01_token_space.ipynb OUT.ipynb, or choose it in JupyterLab"
    )
