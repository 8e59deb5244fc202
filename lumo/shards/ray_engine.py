"""Shards made by several machines: jobs go through Ray Data, to processes that each hold the tokenizer.

All machines must see the manifest, its media, the codecs' weights and the folder of shards under the same paths: who makes a shard also
writes it there, and only its card comes back. A process that dies is started again by Ray, and its job is made anew.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
from array import array
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from lumo.shards.format import ShardError
from lumo.shards.jobs import Card, Job
from lumo.shards.maker import ATTEMPTS, Maker, deadly, go_on
from lumo.tokenizer import UnifiedTokenizer


class OnRay:
    """A maker in a process of its own, on whatever machine Ray chooses: it takes lines of Ray's tables, and gives such."""

    def __init__(self, maker: Maker, manifest: Path, folder: Path):
        self.maker, self.manifest, self.folder = maker, manifest, folder

    def __call__(self, line: dict[str, Any]) -> dict[str, Any]:
        job = Job(self.manifest, self.folder, line["split"], int(line["number"]), array("q", line["starts"]))
        begun = job.stem.with_suffix(".begun")
        # Ray's own choice is to start a process again for ever
        card, refusal = ({}, deadly(job)) if _count(begun) > ATTEMPTS else self.maker(job)
        begun.unlink(missing_ok=True)
        return {"split": job.split, "number": job.number, "card": json.dumps(card), "refusal": refusal}


def _count(path: Path) -> int:
    """How often this was called on a path: a file outlives the process."""
    with path.open("ab") as file:
        file.write(b".")
        return file.tell()


def distributed(
    jobs: list[Job],
    tokenizer: UnifiedTokenizer,
    tell: Callable[[int], None],
    workers: int,
    load: Callable[[], UnifiedTokenizer],
) -> Iterator[tuple[Job, Card]]:
    """Jobs in up to `workers` processes (at least one), with a core each and an equal part of the GPUs there are.

    load: gives the same tokenizer on another machine
    A cluster that is running is used (`ray start`, or RAY_ADDRESS); else one is started on this machine, and ended.
    Raises ShardError when Ray isn't installed, and with one line for a job that can't be done.
    """
    try:
        import ray.data
    except ImportError as error:
        raise ShardError(
            f"engine ray: Ray Data can't be imported ({error}); in lumo's folder pip install -e \".[ray]\", or set data.engine to local"
        ) from error
    if not jobs:
        return
    _forget(jobs[0].folder)  # what a call that was killed began
    own = not ray.is_initialized()
    try:
        if own:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
            os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what matters comes as an exception too
            with _sigterm_kept():
                ray.init(include_dashboard=False, log_to_driver=False, logging_level="error")
        maker = (Maker(load, tokenizer.space), jobs[0].manifest.absolute(), jobs[0].folder.absolute())
        known = {(job.split, job.number): job for job in jobs}
        with closing(_made(ray, jobs, maker, max(1, min(workers, len(jobs))))) as lines:
            for line in lines:
                if line["refusal"]:
                    raise ShardError(go_on(line["refusal"]))
                job = known[line["split"], line["number"]]
                tell(len(job.starts))
                yield job, json.loads(line["card"])
    except (ray.exceptions.RayError, ConnectionError) as error:  # the latter for a cluster that isn't there
        reason = str(error).partition("\n")[0][:300]
        raise ShardError(f"engine ray: {reason}; run the same command again: whole shards are kept") from error
    finally:
        if own:
            ray.shutdown()
        _forget(jobs[0].folder)


def _forget(folder: Path) -> None:
    for begun in folder.glob("*.begun"):
        begun.unlink(missing_ok=True)


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Ray puts a handler of its own there, which prints a stack trace and ends the process without another word."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():  # elsewhere neither Ray nor lumo can set one
            signal.signal(signal.SIGTERM, before)


def _made(ray: Any, jobs: list[Job], maker: tuple[Any, ...], workers: int) -> Generator[dict[str, Any]]:
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what it says comes as an exception too
    ray.data.DataContext.get_current().enable_progress_bars = False
    lines = [{"split": job.split, "number": job.number, "starts": job.starts.tolist()} for job in jobs]
    made = ray.data.from_items(lines, override_num_blocks=len(lines)).map(
        OnRay,
        fn_constructor_args=maker,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers),
        num_cpus=1,
        num_gpus=min(1, ray.cluster_resources().get("GPU", 0) / workers),
    )
    return iter(made.iter_rows())  # a generator: closed, it ends the processes
