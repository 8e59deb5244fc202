"""Who makes shards in another process than the caller's: it loads the tokenizer there, as codecs don't travel."""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import cached_property

from lumo.shards.jobs import Card, Job, make
from lumo.space import TokenSpace
from lumo.tokenizer import UnifiedTokenizer

ATTEMPTS = 4  # at a job whose process dies: a file that kills its reader would take processes for ever


class Maker:
    """load: gives the caller's tokenizer anew; space: the caller's."""

    def __init__(self, load: Callable[[], UnifiedTokenizer], space: TokenSpace):
        self.load, self.space = load, space

    @cached_property
    def tokenizer(self) -> UnifiedTokenizer:
        """Raises SpaceError when the weights of this machine are others."""
        tokenizer = self.load()
        self.space.check_same(tokenizer.space, platform.node())
        return tokenizer

    def __call__(self, job: Job, tell: Callable[[int], None] = lambda rows: None) -> tuple[Card, str]:
        """A card, or a refusal in one line: an exception would reach the caller wrapped into many, or not at all."""
        try:
            return make(job, self.tokenizer, self.tokenizer.encode, tell), ""
        except (ValueError, OSError, RuntimeError) as error:  # the last for a GPU's memory
            reason = " ".join(str(error).split())
            return {}, f"{job.stem.name} on {platform.node()}: {type(error).__name__}: {reason}"


def deadly(job: Job) -> str:
    """The refusal of a job at which as many processes died as may."""
    return f"{job.stem.name} on {platform.node()}: {ATTEMPTS} processes died at it; look for a file of its that kills its reader"


def ended(job: Job, status: int) -> str:
    """The refusal of a job whose process ended by itself, maybe before it began."""
    return (
        f"{job.stem.name}: its process ended with status {status}, as the error that it printed says; "
        'a script that starts processes lies in a file, with `if __name__ == "__main__":` in it'
    )


def go_on(refusal: str) -> str:
    return f"{refusal}; mend it, then run the same command again: whole shards are kept"
