"""`lumo train`: stage 4 without a notebook."""

from __future__ import annotations

import argparse
from pathlib import Path

from lumo.commands.options import Commands, add_command, profile_of

MORE = """In several processes: torchrun --nproc-per-node 2 -m lumo train RUN_DIR"""


def add(commands: Commands) -> None:
    parser = add_command(commands, "train", "stage 4 without a notebook; under torchrun in several processes", MORE)
    parser.add_argument(
        "run_dir", metavar="RUN_DIR", type=Path, help="a run's folder in which notebooks 01 to 03 have run"
    )
    parser.add_argument(
        "--profile", metavar="NAME", help="its profile; the one that the run was begun with if not given"
    )
    parser.set_defaults(command=_train)


def _train(options: argparse.Namespace) -> None:
    from lumo import parallel, show, stages
    from lumo.files import place_of
    from lumo.params import load_profile
    from lumo.workbook import WorkbookError, folders

    folder = place_of(options.run_dir)
    profile = load_profile(profile_of(options)) if options.profile else folders.read_profile(folder)
    if profile is None:
        raise WorkbookError(f"{folder}: no run of notebooks there; run 01 to 03 first (lumo run 01 --run-dir {folder})")
    with show.Live("stage 4") as live:
        result = stages.stage4(
            profile, folder / "artifacts", lambda p: live.update(p.as_row()) if parallel.rank() == 0 else None
        )
    if parallel.rank() == 0:
        print(show.table([{"task": name, **numbers} for name, numbers in result["tasks"].items()]).text)
