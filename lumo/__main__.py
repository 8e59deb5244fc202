"""The command line, the same as `python -m lumo`. What a command takes and does stands in its file in `lumo/commands/`."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import warnings
from typing import Any, NoReturn

from lumo.commands import COMMANDS

GO_ON = "what is finished is kept; run the same command again to go on"
MORE = """`lumo COMMAND --help` says what a command takes.
exit status: 0; 1 for an error that one line says; 2 for wrong usage; 3 for failed gates (report --strict); 130 when interrupted"""


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, 1 for an expected error (one line on stderr), 2 for wrong usage, 3 for gates that failed, 130 when interrupted."""
    options = _parser().parse_args(arguments)
    try:
        os.getcwd()
    except FileNotFoundError:  # no path can be found from there, and torch can't even be imported
        print("the folder that this shell stands in was removed; cd to another one", file=sys.stderr)
        return 1
    # a plain kill ends a run as cleanly as Ctrl-C does, and takes the kernel with it; a shell's background jobs would
    # ignore Ctrl-C's signal
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    # imported here so that --help stays quick
    from lumo.workbook.errors import GatesFailed, is_expected, one_line

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 has no ellipsis
    said: set[str] = set()
    warnings.showwarning = lambda message, *_, **__: _say_once(f"warning: {message}", said)
    try:
        options.command(options)
        print(end="", flush=True)
    except BrokenPipeError:  # `lumo plan | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python says it once more when it ends
        print(f"nobody reads the output any longer; {GO_ON}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\ninterrupted; {GO_ON}", file=sys.stderr)
        return 130
    except Exception as error:
        if not is_expected(error):
            raise
        print(one_line(error), file=sys.stderr)
        return 3 if isinstance(error, GatesFailed) else 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lumo",
        description="Teach a text language model to read and write images and sound: notebooks, run into dated reports.",
        epilog=MORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    for command in COMMANDS:
        command.add(commands)
    return parser


def _say_once(line: str, said: set[str]) -> None:
    if line not in said:
        said.add(line)
        print(line, file=sys.stderr)


def _interrupt(*_: Any) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
