"""Many rows to shards, each run in a process of its own: memory beside that of few rows, speed beside the bare codec, bytes after kills."""

from __future__ import annotations

import itertools
import json
import random
import resource
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from lumo.bench.measure import Comparison, Disagreement, Goal, Measured, alternate
from lumo.datasets import world
from lumo.files import sha256_of, write_atomically
from lumo.machine import status_bytes, use_threads
from lumo.params import Profile
from lumo.shards import Plan, engine_of, write_shards
from lumo.shards.jobs import BATCH
from lumo.tokenizer import load_tokenizer

FEW, MEDIA = 1000, 256
BARE = "the bare codecs, same media"


def many_rows(
    profile: Profile, rows: int, kills: int = 5, progress: Callable[[str], None] = lambda name: None
) -> list[Comparison]:
    """By the profile's engine; and, where a run takes several threads, by as many processes.

    Raises Disagreement when a run that was killed and resumed, or another engine, leaves other bytes than an unbroken one.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = MEDIA // 2
        described = world.write_world(folder / "data", seed=profile.seed, images=pictures, clips=MEDIA - pictures)
        run = partial(_run, folder)
        # those held out of the world's training come after them
        source = [json.loads(line) for line in described.read_text().splitlines()[:MEDIA]]
        for count in (FEW, rows):
            _repeat(source, described.with_name(f"{count}.jsonl"), count)
        progress(f"{FEW:,} rows")
        few = run(profile, FEW, "few")
        progress(
            f"{rows:,} rows, then as many with {kills} kills: each about {few['seconds'] * rows / FEW / 60:.1f} minutes"
        )
        many = run(profile, rows, "unbroken")
        _kill(folder, profile, rows, kills, many["seconds"])
        run(profile, rows, "killed")
        _check_same(folder, "killed", "that was killed and resumed")
        runs = {"many_rows": (few, many)}
        if (cores := torch.get_num_threads()) > 1:
            progress(f"{rows:,} rows by {cores} processes")
            data = profile.data.model_copy(update={"engine": "processes", "workers": cores})
            shared = profile.model_copy(update={"data": data})
            runs["many_rows_processes"] = run(shared, FEW, "few_shared"), run(shared, rows, "shared")
            _check_same(folder, "shared", "that processes shared")
        progress("the codecs alone, and reading alone")
        bare, reading = _alone_rows_per_s(profile, folder / "data", source)
    made = [part for name, (few, many) in runs.items() for part in _compared(name, rows, few, many, bare)]
    made[0].figures["kills_with_same_bytes"] = kills
    what, figures = "reading the same media and nothing else, rows/s", {"reading_rows_per_s": reading}
    return [*made, Comparison("many_rows_reading", what, BARE, None, Measured(reading / bare), figures)]


def _compared(name: str, rows: int, few: dict[str, float], many: dict[str, float], bare: float) -> list[Comparison]:
    """Memory and speed of one engine."""
    what = f"{rows:,} rows to shards{', in processes' if name.endswith('processes') else ''}"
    rate, peaks = rows / many["seconds"], {"few": few, "many": many}
    rates = {"rows_per_s": rate, "bare_rows_per_s": bare}
    memory, speed = f"{what}, peak memory of a process", f"{what}, the profile's codecs, rows/s"
    more, share = Measured(many["peak_bytes"] / few["peak_bytes"]), Measured(rate / bare)
    return [
        Comparison(f"{name}_memory", memory, f"{FEW:,} rows", Goal("≤", "1.1", "×"), more, peaks),
        Comparison(name, speed, BARE, Goal("≥", "0.90"), share, rates),
    ]


def _check_same(folder: Path, out: str, what: str) -> None:
    if _content(folder / out) != _content(folder / "unbroken"):
        raise Disagreement(f"many_rows: shards of a run {what} differ from those of an unbroken one")


def _repeat(source: list[dict[str, Any]], manifest: Path, count: int) -> None:
    """So many rows with an id of their own, that share the media of a few."""
    with manifest.open("w") as file:
        for number, row in zip(range(count), itertools.cycle(source), strict=False):
            file.write(json.dumps({**row, "id": f"{row['id']}-{number}"}) + "\n")


def _write(folder: Path, profile: Profile, rows: int, out: str) -> None:
    """What the other process does."""
    use_threads(profile.threads)
    tokenizer = load_tokenizer(profile)
    began = time.perf_counter()
    write_shards(
        folder / "data" / f"{rows}.jsonl", folder / out, tokenizer, Plan.of(profile.data), engine=engine_of(profile)
    )
    seconds = time.perf_counter() - began
    # of the largest of its own processes, too; Linux gives KiB
    peak = max(status_bytes("VmHWM"), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
    write_atomically(folder / f"{out}.json", json.dumps({"seconds": seconds, "peak_bytes": peak}))


def _run(folder: Path, profile: Profile, rows: int, out: str) -> dict[str, float]:
    """Seconds and bytes at the peak of a whole run."""
    process = get_context("spawn").Process(target=_write, args=(folder, profile, rows, out))
    process.start()
    process.join()
    return json.loads((folder / f"{out}.json").read_text())


def _kill(folder: Path, profile: Profile, rows: int, kills: int, seconds: float) -> None:
    """Begin the run so often, and kill it at random moments of its work."""
    moments = random.Random(profile.seed)
    for _ in range(kills):
        before = set(folder.glob("killed/*"))
        process = get_context("spawn").Process(target=_write, args=(folder, profile, rows, "killed"))
        process.start()
        while process.is_alive() and set(folder.glob("killed/*")) == before:
            time.sleep(0.05)  # it is loading, or still reads what is there
        process.join(moments.random() * seconds / kills)
        process.kill()
        process.join()


def _content(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in folder.iterdir()}


def _alone_rows_per_s(profile: Profile, base: Path, source: list[dict[str, Any]]) -> tuple[float, float]:
    """Rates of the codecs alone, on media in memory, and of reading these alone: the best of three turns."""
    codecs, media = load_tokenizer(profile).codecs, {"image": [], "audio": []}
    files = [(name, base / medium["path"]) for row in source for name, medium in row["modalities"].items()]
    for name, path in files:
        media[name].append(codecs[name].read(path))

    def encode() -> None:
        for name, items in media.items():
            for start in range(0, len(items), BATCH):
                codecs[name].encode(items[start : start + BATCH])

    def read() -> None:
        for name, path in files:
            codecs[name].read(path)

    seconds = alternate({"codecs": encode, "reading": read}, 3)
    return len(source) / min(seconds["codecs"]), len(source) / min(seconds["reading"])
