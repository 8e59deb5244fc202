"""`lumo pull`: the real weights and datasets."""

from __future__ import annotations

import argparse
from pathlib import Path

from lumo.commands.options import Commands, add_command

MORE = """as in:
  lumo pull                        the list, without a network
  lumo pull P0                     what that would take
  lumo pull Qwen3-8B-Base --yes    fetch it"""


def add(commands: Commands) -> None:
    summary = "the real weights and datasets: what there is, how large, and fetch them"
    parser = add_command(commands, "pull", summary, MORE)
    option = parser.add_argument
    option("what", metavar="NAME", nargs="*", help="names of the list, or P0, P1, P2; nothing shows the list")
    option("--yes", action="store_true", help="fetch it; without, it is shown what it would take")
    option("--configs", action="store_true", help="of a model only the small files, which lumo plan reads; no weights")
    option("--check", action="store_true", help="hold what is there against its receipts, without a network")
    option("--into", metavar="FOLDER", type=Path, help="where weights/ and data/ are; the project if not given")
    option("--list", metavar="FILE", type=Path, help="a list of your own, like lumo/pull/list.yaml")
    parser.set_defaults(command=_pull)


def _pull(options: argparse.Namespace) -> None:
    from lumo.files import place_of
    from lumo.params import ROOT
    from lumo.pull import LIST, choose, command, read_list
    from lumo.pull.store import Shelf

    entries = read_list(options.list or LIST)
    root = place_of(options.into) if options.into else ROOT
    wanted = choose(entries, options.what)
    if options.check:
        command.check(wanted or [entry for entry in entries if Shelf(root / entry.folder).receipt], root)
    elif wanted:
        command.pull(wanted, root, options.yes, options.configs)
    else:
        command.print_list(entries, root)
