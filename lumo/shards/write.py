"""Manifest to token shards: which shards there are, who makes them, and the index that closes the set."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from lumo.files import write_atomically
from lumo.params import Profile
from lumo.progress import OnProgress, untold
from lumo.shards.jobs import SPLITS, Card, Job, Plan, jobs_of, make
from lumo.shards.processes import in_processes
from lumo.tokenizer import UnifiedTokenizer, load_tokenizer

# jobs, the tokenizer, and whom to tell how many rows were done since; gives jobs in any order, with their cards
Engine = Callable[[list[Job], UnifiedTokenizer, Callable[[int], None]], Iterator[tuple[Job, Card]]]


def write_shards(
    manifest: Path,
    folder: Path,
    tokenizer: UnifiedTokenizer,
    plan: Plan,
    progress: OnProgress = untold,
    engine: Engine | None = None,
) -> dict[str, Any]:
    """Tokenise a manifest into `folder`; shards that are already there whole, from the same input, are kept.

    progress: called with rows done and rows in all
    engine: who makes the shards, `local` if not given; their bytes are the same whoever does
    Returns the content of `shards.json`: for each split its shards, samples and tokens, and the rows left out with the reason.
    Raises ManifestError when the manifest can't be read, and what the engine raises.
    """
    jobs, left_out = jobs_of(manifest, folder, plan)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "shards.json").unlink(missing_ok=True)  # until all is written again, this is no whole set
    done, rows = 0, sum(len(job.starts) for job in jobs)

    def tell(more: int) -> None:
        nonlocal done
        progress(done := done + more, rows)

    # closed also when it isn't used up: nothing goes on working behind an error
    with closing((engine or local)(jobs, tokenizer, tell)) as made:
        cards = {(job.split, job.number): card for job, card in made}
    index: dict[str, Any] = {"space_sha256": tokenizer.space.sha256, "splits": {split: [] for split in SPLITS}}
    for job in jobs:
        card = cards[job.split, job.number]
        left_out += card["left_out"]
        index["splits"][job.split].append({key: card[key] for key in ("name", "sha256", "samples", "tokens")})
    index["left_out"] = left_out
    for stale in set(folder.glob("*.tar")) - {job.stem.with_suffix(".tar") for job in jobs}:
        stale.unlink()
        stale.with_suffix(".json").unlink(missing_ok=True)
    tokenizer.space.save(folder)
    # written last: its presence means that the set is whole
    write_atomically(folder / "shards.json", json.dumps(index, indent=2, sort_keys=True) + "\n")
    return index


def engine_of(profile: Profile) -> Engine:
    """Who makes the shards of a profile's runs."""
    if profile.data.engine == "local":
        return partial(local, workers=profile.data.workers)
    several = {"workers": profile.data.workers, "load": partial(load_tokenizer, profile)}
    if profile.data.engine == "processes":
        return partial(in_processes, **several, threads=profile.threads)
    from lumo.shards.ray_engine import distributed  # Ray is an extra

    return partial(distributed, **several)


def local(
    jobs: list[Job], tokenizer: UnifiedTokenizer, tell: Callable[[int], None], workers: int = 0
) -> Iterator[tuple[Job, Card]]:
    """Jobs in this process, in turn without workers. These are threads: each has a job of its own, and all hand their batches to one
    thread for the codec, which so finds the next batch read when it has done with the last."""
    if not workers:
        yield from ((job, make(job, tokenizer, tokenizer.encode, tell)) for job in jobs)
        return
    tokenizer.encode_text("")  # sets its flags: set while another thread encodes, they are refused as borrowed
    news: SimpleQueue[int | Future[Card]] = SimpleQueue()
    pool, codec = ThreadPoolExecutor(workers, "shard"), ThreadPoolExecutor(1, "codec")

    def encode(*batch: Any) -> Any:
        return codec.submit(tokenizer.encode, *batch).result()

    made = {pool.submit(make, job, tokenizer, encode, news.put): job for job in jobs}
    for future in made:
        future.add_done_callback(news.put)
    waiting, turn = len(jobs), sys.getswitchinterval()
    # a codec on a GPU takes Python's lock for each of its many launches, and would wait 5 ms for it: 0.90 of the bare codec's rate
    # at 930 clips/s instead of 0.83
    sys.setswitchinterval(0.0002)
    try:
        while waiting:
            # progress is told from here: displays don't like other threads
            if isinstance(new := news.get(), int):
                tell(new)
            else:
                waiting -= 1
                yield made[new], new.result()
    finally:
        sys.setswitchinterval(turn)
        # what is read meets a closed codec and ends there, so that an interrupt needn't wait for whole shards
        codec.shutdown(wait=False, cancel_futures=True)
        pool.shutdown(cancel_futures=True)
        codec.shutdown()
