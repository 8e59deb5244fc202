"""`lumo bench`: speed and memory beside the stock ways."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lumo.commands.options import PROFILE, Commands, add_command, count, profile_of


def add(commands: Commands) -> None:
    parser = add_command(commands, "bench", "speed and memory beside the stock way of doing each thing")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="cuda where there is one, else cpu")
    parser.add_argument(
        "--profile", metavar="NAME", default="mini", help=f"whose model and batches are measured: {PROFILE}"
    )
    parser.add_argument("--out", metavar="FILE", type=Path, help="a JSON file for the figures")
    parser.add_argument(
        "--rows", metavar="N", type=count, help="instead of all that: so many rows to shards; memory, speed, kills"
    )
    parser.set_defaults(command=_bench)


def _bench(options: argparse.Namespace) -> None:
    import json

    from lumo import bench, show
    from lumo.files import write_atomically
    from lumo.machine import device_of, use_threads
    from lumo.params import load_profile

    profile = load_profile(profile_of(options))
    device = device_of(options.device or "auto")
    use_threads(profile.threads)
    if options.rows:
        machine, comparisons = bench.machine(device), bench.many_rows(profile, options.rows, progress=_say)
    else:
        machine, comparisons = bench.run_all(profile, device, _say)
    print(show.facts(machine).text)
    print(show.table([comparison.as_row() for comparison in comparisons]).text)
    if options.out:
        figures = {"machine": machine} | {c.name: c.as_dict() for c in comparisons}
        print("figures:", write_atomically(options.out, json.dumps(figures, indent=2) + "\n"))


def _say(name: str) -> None:
    print(f"{name} …", file=sys.stderr, flush=True)
