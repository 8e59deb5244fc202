"""Options that several commands share, and what they mean."""

from __future__ import annotations

import argparse
import os
from typing import Any

from lumo.files import place_of

Commands = argparse._SubParsersAction  # argparse has no public name for what add_subparsers returns
PROFILE = "a name in params/, or a path to a YAML file (%(default)s)"


def add_command(commands: Commands, name: str, summary: str, more: str = "") -> argparse.ArgumentParser:
    """A command whose own help begins with the line that `lumo --help` shows, and goes on with `more`, as it is laid out."""
    text = f"{summary[0].upper()}{summary[1:]}."
    return commands.add_parser(
        name,
        help=summary,
        description=text,
        epilog=more or None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_profile(parser: argparse.ArgumentParser) -> None:
    """--profile and -p, as `profile_of` and `overrides_of` read them."""
    default = os.environ.get("LUMO_PROFILE") or "mini"
    parser.add_argument("--profile", metavar="NAME", default=default, help=PROFILE)
    parser.add_argument(
        "-p",
        dest="parameters",
        nargs=2,
        action="append",
        default=[],
        metavar=("KEY", "VALUE"),
        help="change one value of the profile, as in: -p stage4.steps 10; may be given several times",
    )


def profile_of(options: argparse.Namespace) -> str:
    """The profile's name. A path is the shell's, and the notebooks run in another folder."""
    name = options.profile
    return str(place_of(name)) if name.endswith((".yaml", ".yml")) else name


def overrides_of(options: argparse.Namespace) -> dict[str, Any]:
    """Nested, as `load_profile` takes them. Raises ParamsError for a value that isn't YAML."""
    from lumo.params import ParamsError, deep_merge, dotted, parse_yaml

    overrides: dict[str, Any] = {}
    for key, value in options.parameters:
        if key == "profile":
            raise ParamsError("-p profile: the profile is chosen with --profile")
        overrides = deep_merge(overrides, dotted(key, parse_yaml(value, f"-p {key}: '{value[:40]}'")))
    return overrides


def positive(text: str) -> float:
    """An argument's type: a number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"got '{text}', expected a number above 0")
    return value


def count(text: str) -> int:
    """An argument's type: a whole number above 0."""
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"got '{text}', expected a whole number above 0")
    return int(text)
