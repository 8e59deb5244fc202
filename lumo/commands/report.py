"""`lumo report`: all notebooks into a dated report."""

from __future__ import annotations

import argparse

from lumo.commands.options import Commands, add_command, add_profile, overrides_of, profile_of

MORE = """A report is a folder reports/DATE-PROFILE, or below LUMO_REPORTS where that is set. Stopped at any time, the same command goes
on in it. The exit status is 0 when every notebook ran, 1 when one failed; with --strict it is 3 when they ran and a gate failed."""


def add(commands: Commands) -> None:
    parser = add_command(commands, "report", "run notebooks 01 to 06 and index them; goes on where it stopped", MORE)
    add_profile(parser)
    parser.add_argument("--fresh", action="store_true", help="begin a new folder even if the last one isn't finished")
    parser.add_argument("--strict", action="store_true", help="exit with status 3 if a gate fails")
    parser.set_defaults(command=_report)


def _report(options: argparse.Namespace) -> None:
    from lumo.workbook import report

    report(profile_of(options), overrides_of(options), fresh=options.fresh, strict=options.strict)
