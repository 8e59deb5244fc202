"""`lumo join`: one dataset of several that were adopted."""

from __future__ import annotations

import argparse
from pathlib import Path

from lumo.commands.adopt import say
from lumo.commands.options import PROFILE, Commands, add_command, profile_of

MORE = """as in:
  lumo join data/both data/pictures data/sounds"""


def add(commands: Commands) -> None:
    parser = add_command(commands, "join", "one dataset of several adopted ones, such as pictures and sounds", MORE)
    option = parser.add_argument
    option("out", metavar="OUT", type=Path, help="a new folder for the files, the manifest and a profile")
    option(
        "manifests",
        metavar="MANIFEST",
        type=Path,
        nargs="+",
        help="folders that lumo adopt wrote, or manifests of your own",
    )
    option("--profile", metavar="NAME", default="mini", help=f"whose codecs the files are for: {PROFILE}")
    parser.set_defaults(command=_join)


def _join(options: argparse.Namespace) -> None:
    from lumo import adoption
    from lumo.files import place_of
    from lumo.params import load_profile

    manifests = [place_of(path) for path in options.manifests]
    say(*adoption.join(load_profile(profile_of(options)), manifests, place_of(options.out)))
