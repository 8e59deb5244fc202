"""A table's lines in their order, whose files several threads convert ahead of them.

Decoding, resampling, resizing, hashing and writing leave Python's lock to others: threads are enough.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import NamedTuple

from lumo.datasets.conversion import Converted, Converter
from lumo.datasets.manifest import ManifestError
from lumo.datasets.members import Members
from lumo.datasets.table import spelled
from lumo.media import MediaError


class Pending(NamedTuple):
    """A line, and what its files become, the picture first.

    media: of a file that can't be used the result raises ManifestError or MediaError
    """

    where: str
    line: dict[str, str]
    media: list[Future[Converted]]


class Prefetch:
    """Converts the files of lines on `workers` threads, each file once.

    Up to twice as many files as threads are converted ahead; of those that lie within a parquet or a tar the bytes are held so long.
    """

    def __init__(self, converter: Converter, workers: int) -> None:
        self.converter, self.workers = converter, workers
        self.members = Members(converter.folder)
        self.begun: dict[str, Future[Converted]] = {}

    def ready(self, lines: Iterable[tuple[str, dict[str, str]]]) -> Iterator[Pending]:
        """The lines in their order, each when its files are ready. To be closed: then no more files are begun, and those in work are waited for."""
        waiting: deque[Pending] = deque()
        with ThreadPoolExecutor(self.workers, "adopt") as pool:
            try:
                for where, line in lines:
                    media = [self._begin(pool, line, line[key]) for key in ("picture", "file") if key in line]
                    waiting.append(Pending(where, line, media))
                    # several captions of a file are several lines, and one file to convert
                    while len(self.begun) > 2 * self.workers or len(waiting) > 64 * self.workers:
                        yield self._finished(waiting.popleft())
                while waiting:
                    yield self._finished(waiting.popleft())
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _begin(self, pool: ThreadPoolExecutor, line: dict[str, str], name: str) -> Future[Converted]:
        try:
            file = spelled(self.converter.folder, name)
            if file not in self.begun:
                # read here, as cells come in the table's order
                self.begun[file] = pool.submit(self.converter.convert, file, self.members.read(line))
            return self.begun[file]
        except (ManifestError, MediaError) as error:
            failed: Future[Converted] = Future()
            failed.set_exception(error)
            return failed

    def _finished(self, pending: Pending) -> Pending:
        """The line, when its files are ready. Only then are they forgotten: two threads at one file would write over each other."""
        wait(pending.media)
        self.begun = {file: future for file, future in self.begun.items() if future not in pending.media}
        return pending
