"""`lumo run`: one notebook."""

from __future__ import annotations

import argparse
from pathlib import Path

from lumo.commands.options import Commands, add_command, add_profile, overrides_of, profile_of


def add(commands: Commands) -> None:
    parser = add_command(commands, "run", "run one notebook, and index its folder again")
    parser.add_argument("notebook", metavar="NOTEBOOK", help="its number or name, such as 04 or 04_stage4")
    add_profile(parser)
    parser.add_argument(
        "--run-dir",
        metavar="FOLDER",
        type=Path,
        help="folder to run in; else the newest unfinished one, else a new one",
    )
    parser.set_defaults(command=_run)


def _run(options: argparse.Namespace) -> None:
    from lumo.files import place_of
    from lumo.params import load_profile
    from lumo.workbook import folders, run_one
    from lumo.workbook.runner import find_notebook

    name, profile, overrides = find_notebook(options.notebook), profile_of(options), overrides_of(options)
    resolved = load_profile(profile, overrides)
    if options.run_dir:
        folder = folders.make_folder(place_of(options.run_dir))
    else:
        folder = folders.current_folder(folders.reports_folder(), resolved.profile)
    run_one(name, profile, overrides, folder)
