"""`lumo plan`: what a run will need."""

from __future__ import annotations

import argparse
import sys

from lumo.commands.options import Commands, add_command, add_profile, overrides_of, positive, profile_of


def add(commands: Commands) -> None:
    summary = "what a run will need: tokens, drops, memory, time, disk; refuses what can't fit"
    parser = add_command(commands, "plan", summary)
    add_profile(parser)
    parser.add_argument(
        "--rate", metavar="TOKENS", type=positive, help="tokens a second in stage 4; measured in ten steps if not given"
    )
    parser.add_argument(
        "--memory",
        metavar="GIB",
        type=positive,
        help="GiB of a machine to plan for; memory_floor_mib of it stays free, but for a GPU here with memory of its own; what is free here if not given",
    )
    parser.set_defaults(command=_plan)


def _plan(options: argparse.Namespace) -> None:
    from lumo import plan, show
    from lumo.machine import use_threads
    from lumo.params import load_profile
    from lumo.workbook import folders

    profile = load_profile(profile_of(options), overrides_of(options))
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
    print(sizes(forecast.coding_bytes, "memory at the peak of the codecs' work"), end="\n\n")
    print(sizes(forecast.disk_bytes, "disk"), end="\n\n", flush=True)
    budget = plan.budget(profile, options.memory and options.memory * 2**30)
    plan.check(forecast, budget, folders.reports_folder())
    if not options.rate and not plan.can_measure(profile):
        print("time: there is nothing here to measure a rate with; give --rate TOKENS_A_SECOND", file=sys.stderr)
        return
    given = plan.rates(forecast, options.rate) if options.rate else None
    tokens_per_s = given or plan.measured_tokens_per_s(forecast, profile)
    stages = plan.seconds(forecast, profile, tokens_per_s)
    took = {f"{stage}, minutes": seconds / 60 for stage, seconds in stages.items()}
    a_step = {"seconds a step of stage4": stages["stage4"] / profile.stage4.steps}
    speed = {f"tokens a second of {stage}": rate for stage, rate in tokens_per_s.items()}
    print(show.facts(speed | a_step | took).text)
