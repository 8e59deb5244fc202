"""The command line: `lumo report`, `lumo run 04`, `lumo train`, `lumo bench`, `lumo plan`, `lumo adopt`, `lumo join`, `lumo pull`, `lumo kernel install`, `lumo notebooks`.

The same as `python -m lumo`.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

GO_ON = "what is finished is kept; run the same command again to go on"


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, 1 for an expected error (one line on stderr), 2 for wrong usage, 130 when interrupted."""
    options = _parser().parse_args(arguments)
    # a plain kill ends a run as cleanly as Ctrl-C does, and takes the kernel with it; a shell's background jobs would
    # ignore Ctrl-C's signal
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    # imported here so that --help stays quick
    from lumo.workbook.errors import is_expected, one_line

    said: set[str] = set()
    warnings.showwarning = lambda message, *_, **__: _say_once(f"warning: {message}", said)
    try:
        options.command(options)
    except KeyboardInterrupt:
        print(f"\ninterrupted; {GO_ON}", file=sys.stderr)
        return 130
    except Exception as error:
        if not is_expected(error):
            raise
        print(one_line(error), file=sys.stderr)
        return 1
    return 0


def _say_once(line: str, said: set[str]) -> None:
    if line not in said:
        said.add(line)
        print(line, file=sys.stderr)


def _interrupt(*_: Any) -> NoReturn:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lumo", description="Run lumo's notebooks into dated reports.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    report = commands.add_parser("report", help="run notebooks 01 to 06 and index them; goes on where it stopped")
    _shared_options(report)
    report.add_argument("--fresh", action="store_true", help="begin a new folder even if the last one isn't finished")
    report.set_defaults(command=_report)

    run = commands.add_parser("run", help="run one notebook")
    run.add_argument("notebook", help="its number or name, such as 04 or 04_stage4")
    _shared_options(run)
    run.add_argument("--run-dir", type=Path, help="folder to run in; else the newest unfinished one, else a new one")
    run.set_defaults(command=_run)

    train = commands.add_parser("train", help="stage 4 without a notebook; under torchrun in several processes")
    train.add_argument("run_dir", type=Path, help="a run's folder in which notebooks 01 to 03 have run")
    train.add_argument("--profile", help="its profile; the one that the run was begun with if not given")
    train.set_defaults(command=_train)

    bench = commands.add_parser("bench", help="speed and memory beside the stock way of doing each thing")
    bench.add_argument("--device", choices=("cpu", "cuda"), help="cuda where there is one, else cpu")
    bench.add_argument("--profile", default="mini", help="whose model and batches are measured (%(default)s)")
    bench.add_argument("--out", type=Path, help="a JSON file for the figures")
    bench.add_argument("--rows", type=int, help="instead of all that: so many rows to shards; memory, speed, kills")
    bench.set_defaults(command=_bench)

    plan = commands.add_parser(
        "plan", help="what a run will need: tokens, drops, memory, time, disk; refuses what can't fit"
    )
    _shared_options(plan)
    plan.add_argument("--rate", type=_positive, help="tokens a second in stage 4; measured in ten steps if not given")
    plan.add_argument("--memory", type=_positive, help="GiB that the run may take; what is free here if not given")
    plan.set_defaults(command=_plan)

    adopt = commands.add_parser(
        "adopt", help="make a folder of pictures and sounds, your own or a published dataset's, ready for a run"
    )
    adopt.add_argument("folder", type=Path, help="where the files lie")
    adopt.add_argument(
        "captions",
        help="CSV or JSONL with file and caption (and id, license, source, subtype); or a published dataset's name, such as clotho",
    )
    adopt.add_argument("out", type=Path, help="a new folder for files of the codecs' size, the manifest and a profile")
    adopt.add_argument("--profile", default="mini", help="whose codecs the files are for (%(default)s)")
    adopt.add_argument(
        "--fit", choices=("crop", "stretch"), help="pictures of other proportions (stretch for SEED-2, else crop)"
    )
    adopt.add_argument(
        "--long", choices=("first", "split"), default="first", help="sounds longer than a clip (%(default)s)"
    )
    adopt.add_argument(
        "--golden", type=int, default=64, help="pictures, and sounds, kept for the golden suites (%(default)s)"
    )
    adopt.add_argument("--license", help="for rows that don't say (unknown, or the dataset's)")
    adopt.add_argument("--source", help="what the data is called (mine, or the dataset's name)")
    adopt.add_argument("--subtype", choices=("speech", "sfx", "music"), help="of sounds whose row doesn't say")
    adopt.set_defaults(command=_adopt)

    join = commands.add_parser("join", help="one dataset of several adopted ones, such as pictures and sounds")
    join.add_argument("out", type=Path, help="a new folder for the files, the manifest and a profile")
    join.add_argument("manifests", type=Path, nargs="+", help="folders that lumo adopt wrote, or manifests of your own")
    join.add_argument("--profile", default="mini", help="whose codecs the files are for (%(default)s)")
    join.set_defaults(command=_join)

    pull = commands.add_parser("pull", help="the real weights and datasets: what there is, how large, and fetch them")
    pull.add_argument("what", nargs="*", help="names of the list, or P0, P1, P2; nothing shows the list")
    pull.add_argument("--yes", action="store_true", help="fetch it; without, it is shown what it would take")
    pull.add_argument("--check", action="store_true", help="hold what is there against its receipts, without a network")
    pull.add_argument("--into", type=Path, help="where weights/ and data/ are; the project if not given")
    pull.add_argument("--list", type=Path, help="a list of your own, like lumo/pull/list.yaml")
    pull.set_defaults(command=_pull)

    kernel = commands.add_parser("kernel", help="a Jupyter kernel that runs in the container that Dockerfile makes")
    install = kernel.add_subparsers(required=True, metavar="install").add_parser("install", help="register it")
    install.add_argument("--name", default="lumo-spark", help="what papermill -k takes (%(default)s)")
    install.add_argument("--image", default="lumo", help="as docker knows it (%(default)s)")
    install.add_argument(
        "--prefix", type=Path, help="for the environment there, such as .venv, instead of for this user"
    )
    install.add_argument(
        "--mount", type=Path, action="append", default=[], help="a folder outside the project that the notebooks need"
    )
    install.set_defaults(command=_install_kernel)

    commands.add_parser("notebooks", help="list the notebooks").set_defaults(command=_notebooks)
    return parser


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"got '{text}', expected a number above 0")
    return value


def _shared_options(parser: argparse.ArgumentParser) -> None:
    default = os.environ.get("LUMO_PROFILE") or "mini"
    parser.add_argument("--profile", default=default, help="a name in params/, or a path to a YAML file (%(default)s)")
    parser.add_argument(
        "-p",
        dest="parameters",
        nargs=2,
        action="append",
        default=[],
        metavar=("KEY", "VALUE"),
        help="change one value of the profile, as in: -p stage4.steps 10",
    )


def _report(options: argparse.Namespace) -> None:
    from lumo.workbook import report

    report(_profile(options), _overrides(options), options.fresh)


def _run(options: argparse.Namespace) -> None:
    from lumo.params import load_profile
    from lumo.workbook import WorkbookError, folders, run_notebook
    from lumo.workbook.pages import duration
    from lumo.workbook.runner import find_notebook

    name, profile, overrides = find_notebook(options.notebook), _profile(options), _overrides(options)
    resolved = load_profile(profile, overrides)
    if options.run_dir:
        folder = options.run_dir.expanduser().resolve()
        folder.mkdir(parents=True, exist_ok=True)
    else:
        folder = folders.current_folder(folders.reports_folder(), resolved.profile)
    print(f"{name} … ", end="", flush=True)
    with folders.only_runner(folder):
        outcome = run_notebook(name, profile, overrides, folder)
    if outcome.failure:
        print("failed", flush=True)
        raise WorkbookError(f"{name} failed{outcome.failure} · {outcome.notebook}")
    print(f"{duration(outcome.seconds)}\npage: {outcome.page}", flush=True)


def _train(options: argparse.Namespace) -> None:
    from lumo import parallel, show, stages
    from lumo.params import load_profile
    from lumo.workbook import WorkbookError, folders

    folder = options.run_dir.expanduser().resolve()
    profile = load_profile(options.profile) if options.profile else folders.read_profile(folder)
    if profile is None:
        raise WorkbookError(f"{folder}: no run of notebooks there; run 01 to 03 first (lumo run 01 --run-dir {folder})")
    with show.Live("stage 4") as live:
        result = stages.stage4(
            profile, folder / "artifacts", lambda p: live.update(p.as_row()) if parallel.rank() == 0 else None
        )
    if parallel.rank() == 0:
        print(show.table([{"task": name, **numbers} for name, numbers in result["tasks"].items()]).text)


def _bench(options: argparse.Namespace) -> None:
    import json

    from lumo import bench, show
    from lumo.files import write_atomically
    from lumo.machine import device_of, use_threads
    from lumo.params import load_profile

    profile = load_profile(_profile(options))
    device = device_of(options.device or "auto")
    use_threads(profile.threads)
    if options.rows:
        machine, comparisons = bench.machine(device), bench.many_rows(profile, options.rows)
    else:
        machine, comparisons = bench.run_all(
            profile, device, lambda name: print(f"{name} …", file=sys.stderr, flush=True)
        )
    print(show.facts(machine).text)
    print(show.table([comparison.as_row() for comparison in comparisons]).text)
    if options.out:
        figures = {"machine": machine} | {c.name: c.as_dict() for c in comparisons}
        print("figures:", write_atomically(options.out, json.dumps(figures, indent=2) + "\n"))


def _plan(options: argparse.Namespace) -> None:
    from lumo import plan, show
    from lumo.machine import use_threads
    from lumo.params import load_profile
    from lumo.workbook import folders

    profile = load_profile(_profile(options), _overrides(options))
    use_threads(profile.threads)
    forecast = plan.forecast(profile)

    def sizes(parts: dict[str, int], whole: str) -> str:
        return show.facts(
            {name: show.size(count) for name, count in (parts | {whole: sum(parts.values())}).items()}
        ).text

    for line in forecast.assumed:
        print(line, file=sys.stderr)
    print(show.facts({f"tokens of one {name}": count for name, count in forecast.media.items()}).text, end="\n\n")
    print(show.table([{"task": name, **row} for name, row in forecast.tasks.items()]).text)
    print(f"rows left out: {forecast.left_out}" if forecast.left_out else "")
    print(sizes(forecast.training_bytes, "memory at the peak of training"), end="\n\n")
    print(sizes(forecast.generation_bytes, "memory at the peak of generation"), end="\n\n")
    print(sizes(forecast.disk_bytes, "disk"), end="\n\n", flush=True)
    floor = profile.stage4.memory_floor_mib * 2**20  # the watchdog's, which a run must stay above there too
    budget = options.memory * 2**30 - floor if options.memory else plan.budget(profile)
    plan.check(forecast, budget, folders.reports_folder())
    if not options.rate and not plan.can_measure(profile):
        print("time: there is nothing here to measure a rate with; give --rate TOKENS_A_SECOND", file=sys.stderr)
        return
    tokens_per_s = options.rate or plan.measured_tokens_per_s(forecast, profile)
    stages = plan.seconds(forecast, profile, tokens_per_s)
    took = {f"{stage}, minutes": seconds / 60 for stage, seconds in stages.items()}
    a_step = {"seconds a step of stage4": stages["stage4"] / profile.stage4.steps}
    print(show.facts({"tokens a second": tokens_per_s} | a_step | took).text)


def _adopt(options: argparse.Namespace) -> None:
    from lumo import show, stages
    from lumo.datasets.published import captions_of
    from lumo.params import load_profile

    profile = load_profile(_profile(options))
    captions = captions_of(options.captions)
    folder, out = (path.expanduser().resolve() for path in (options.folder, options.out))
    asked = {key: getattr(options, key) for key in ("fit", "long", "golden", "license", "source", "subtype")}
    asked = {key: value for key, value in asked.items() if value is not None}
    with show.Live("files") as live:
        result, written = stages.adopt(
            profile, folder, captions, out, lambda done, of: live.update({"rows": f"{done} of {of}"}), **asked
        )
    _say_dataset(result, written)


def _join(options: argparse.Namespace) -> None:
    from lumo import stages
    from lumo.params import load_profile

    manifests = [path.expanduser().resolve() for path in options.manifests]
    _say_dataset(*stages.join(load_profile(_profile(options)), manifests, options.out.expanduser().resolve()))


def _say_dataset(result: Any, profile: Path) -> None:
    """What was adopted or joined, the first reasons of what wasn't, and the next command."""
    from lumo import show

    print(show.facts({**result.rows, **+result.done, "rows left out": len(result.left_out)}).text)
    for line in result.left_out[:10]:
        print(line, file=sys.stderr)
    if len(result.left_out) > 10:
        left_out = result.manifest.with_name("left_out.txt")
        print(f"and {len(result.left_out) - 10} more, in {left_out}", file=sys.stderr)
    print(f"manifest: {result.manifest}\nnext: lumo report --profile {profile}")


def _pull(options: argparse.Namespace) -> None:
    from lumo.params import ROOT
    from lumo.pull import LIST, choose, command, read_list
    from lumo.pull.store import Shelf

    entries = read_list(options.list or LIST)
    root = options.into.expanduser().resolve() if options.into else ROOT
    wanted = choose(entries, options.what)
    if options.check:
        command.check(wanted or [entry for entry in entries if Shelf(root / entry.folder).receipt], root)
    elif wanted:
        command.pull(wanted, root, options.yes)
    else:
        command.print_list(entries, root)


def _install_kernel(options: argparse.Namespace) -> None:
    from lumo.workbook import kernel

    folder = kernel.install(options.name, options.image, options.mount, options.prefix)
    print(
        f"kernel: {folder}\nnext: papermill -k {folder.name} notebooks/01_token_space.ipynb OUT.ipynb, or choose it in JupyterLab"
    )


def _notebooks(options: argparse.Namespace) -> None:
    from lumo.workbook.runner import known_notebooks

    print("\n".join(known_notebooks()))


def _profile(options: argparse.Namespace) -> str:
    """A path is the shell's, and the notebooks run in another folder."""
    name = options.profile
    return str(Path(name).expanduser().resolve()) if name.endswith((".yaml", ".yml")) else name


def _overrides(options: argparse.Namespace) -> dict[str, Any]:
    from lumo.params import ParamsError, deep_merge, dotted, parse_yaml

    overrides: dict[str, Any] = {}
    for key, value in options.parameters:
        if key == "profile":
            raise ParamsError("-p profile: the profile is chosen with --profile")
        overrides = deep_merge(overrides, dotted(key, parse_yaml(value, f"-p {key}: '{value[:40]}'")))
    return overrides


if __name__ == "__main__":
    sys.exit(main())
