"""Shards made by several processes of this machine, each with a tokenizer of its own: threads would take turns at Python's lock.

They are spawned, as CUDA and OpenMP don't survive a fork. For one that dies another is started, which makes the same shard anew.
"""

from __future__ import annotations

import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext

from lumo.machine import use_threads
from lumo.shards.format import ShardError
from lumo.shards.jobs import Card, Job
from lumo.shards.maker import ATTEMPTS, Maker, deadly, ended, go_on
from lumo.tokenizer import UnifiedTokenizer

GRACE_S = 10  # for what a process is in the middle of, before it is killed


class Worker:
    """A process, and this side of the pipe to it, and `theirs` until it has started. job: what it is at work on; done: rows of that, so far."""

    def __init__(self, context: BaseContext, maker: Maker, threads: int, among: int):
        self.pipe, self.theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(self.theirs, maker, threads, among), daemon=True)
        self.job, self.done = None, 0

    def start(self, job: Job) -> None:
        """By itself, so that an interrupt meets no process that `_end` doesn't know."""
        resource_tracker.ensure_running()  # started by the process below, it would let through what is held back here
        # Ctrl-C reaches every process of a terminal, and it is this one's to end the others
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self.theirs.close()  # so that the pipe ends with the process
        self.give(job)

    def give(self, job: Job | None) -> None:
        self.job, self.done = job, 0
        with suppress(ConnectionError):  # it died, as its news will say
            self.pipe.send(job)

    def news(self) -> int | tuple[Card, str] | None:
        """Rows done since, or what became of the job as `Maker` gives it; None when the process died."""
        try:
            return self.pipe.recv()
        except (EOFError, OSError):  # the latter also half-way through a long card
            return None


def in_processes(
    jobs: list[Job],
    tokenizer: UnifiedTokenizer,
    tell: Callable[[int], None],
    workers: int,
    load: Callable[[], UnifiedTokenizer],
    threads: int = 0,
    context: BaseContext | None = None,
) -> Iterator[tuple[Job, Card]]:
    """Jobs in up to `workers` processes (at least one).

    load: gives the same tokenizer in another process
    threads: torch's, as a profile says them, shared out among the processes; context: that starts these
    Raises ShardError with one line for a job that can't be done.
    """
    among = max(1, min(workers, len(jobs)))
    worker_of = partial(Worker, context or get_context("spawn"), Maker(load, tokenizer.space), threads, among)
    waiting, deaths, pool = iter(jobs), Counter[str](), list[Worker]()

    def start(job: Job) -> None:
        pool.append(worker_of())
        pool[-1].start(job)

    try:
        for job in islice(waiting, among):
            start(job)
        while at_work := [worker for worker in pool if worker.job]:
            for worker in _with_news(at_work):
                match worker.news():
                    case int(rows):
                        worker.done += rows
                        tell(rows)
                    case None:
                        tell(-worker.done)
                        _count(deaths, worker)
                        start(worker.job)
                        worker.job = None
                    case card, refusal:
                        if refusal:
                            raise ShardError(go_on(refusal))
                        yield worker.job, card
                        worker.give(next(waiting, None))
    finally:
        _end(pool)


def _with_news(pool: list[Worker]) -> list[Worker]:
    ready = wait([worker.pipe for worker in pool])
    return [worker for worker in pool if worker.pipe in ready]


def _count(deaths: Counter[str], worker: Worker) -> None:
    """Raises ShardError for a job at which too many died, and at once where Python ended one with an error: the next would end so too."""
    worker.process.join(GRACE_S)
    if status := max(0, worker.process.exitcode or 0):
        raise ShardError(go_on(ended(worker.job, status)))
    deaths[worker.job.stem.name] += 1
    if deaths[worker.job.stem.name] == ATTEMPTS:
        raise ShardError(go_on(deadly(worker.job)))


def _end(pool: list[Worker]) -> None:
    started = [worker for worker in pool if worker.process.pid]
    for worker in started:
        worker.process.terminate()
    for worker in started:
        worker.process.join(GRACE_S)
        worker.process.kill()
        worker.process.join()
        worker.pipe.close()


def _work(pipe: Connection, maker: Maker, threads: int, among: int) -> None:
    """Job after job, until there is none, or no caller."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # as an exception, so that nothing half-written is left
    use_threads(threads, among)
    with suppress(EOFError, ConnectionError):
        while job := pipe.recv():
            pipe.send(maker(job, pipe.send))
