"""`lumo notebooks`: their names."""

from __future__ import annotations

import argparse

from lumo.commands.options import Commands, add_command


def add(commands: Commands) -> None:
    add_command(commands, "notebooks", "list the notebooks").set_defaults(command=_notebooks)


def _notebooks(options: argparse.Namespace) -> None:
    from lumo.workbook.runner import known_notebooks

    print("\n".join(known_notebooks()))
