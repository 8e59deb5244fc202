"""Generation that is valid by construction.

A grammar says for each step of an answer which ids may stand there. The head is computed for these rows alone, so an invalid
token can't be chosen, whatever the logits are. Blocks are disjoint and an answer's kind is known from its prompt, so the
grammar needs no search: the step alone tells, for a whole batch at once.

Axes: b case · s step · n token · k token before the end · a allowed id · d hidden · _ any number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, SupportsIndex, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from lumo.batches import pad_left
from lumo.space import Block, TokenSpace


@dataclass(frozen=True)
class Grammar:
    """allowed: the sets of ids that may stand in an answer; set_at(step): which of them, the end token included where an answer
    may end; steps: the most tokens an answer has, its end token included."""

    allowed: tuple[Int[np.ndarray, "_"], ...]
    set_at: Callable[[int], int]
    end: int
    steps: int

    def at(self, step: int) -> Int[np.ndarray, "a"]:
        """The ids allowed at a step, counted from the first token of the answer."""
        if not 0 <= step < self.steps:
            raise IndexError(f"answers have at most {self.steps} tokens, asked for token {step}")
        return self.allowed[self.set_at(step)]

    def accepts(self, ids: Sequence[SupportsIndex] | Int[np.ndarray, "n"]) -> bool:
        """Whether a whole answer, end token included, is one that this grammar can give."""
        if not 0 < len(ids) <= self.steps or ids[-1] != self.end or self.end in list(ids[:-1]):
            return False
        return all(token in self.at(step) for step, token in enumerate(ids))


def text_grammar(text_ids: Int[np.ndarray, "a"], end: int, max_tokens: int) -> Grammar:
    """Up to `max_tokens` of text, at least one, then the end token."""
    sets = (text_ids, np.append(text_ids, end), np.array([end]))
    return Grammar(sets, lambda step: 0 if step == 0 else 1 if step < max_tokens else 2, end, max_tokens + 1)


def media_grammar(blocks: Sequence[Block], end: int, min_frames: int, max_frames: int) -> Grammar:
    """Frames of one code a codebook, in order; the end token only at a frame boundary within the length policy.

    >>> blocks = [Block("audio0", 10, 2), Block("audio1", 12, 2)]
    >>> grammar = media_grammar(blocks, end=9, min_frames=1, max_frames=2)
    >>> [grammar.at(step).tolist() for step in range(grammar.steps)]
    [[10, 11], [12, 13], [10, 11, 9], [12, 13], [9]]
    """
    codebooks = len(blocks)
    books = [np.arange(block.start, block.end) for block in blocks]
    sets = (*books, np.append(books[0], end), np.array([end]))

    def set_at(step: int) -> int:
        frame, book = divmod(step, codebooks)
        if book == 0 and frame == max_frames:
            return codebooks + 1
        return codebooks if book == 0 and frame >= min_frames else book

    return Grammar(sets, set_at, end, max_frames * codebooks + 1)


@dataclass(frozen=True)
class Sampling:
    """temperature 0 is greedy. seed: with the case's own number it decides every draw, whatever else is in the batch."""

    temperature: float = 0.0
    seed: int = 0


GREEDY = Sampling()


@runtime_checkable  # the tests check types as they run
class Decodes(Protocol):
    """What generation asks of a model; `LumoModel` says more of each."""

    space: TokenSpace

    @property
    def device(self) -> torch.device:
        """Where its weights lie."""

    def eval(self) -> Any:
        """Leave what only training does."""

    def decoding(self, room: int) -> AbstractContextManager[Any]:
        """Gives the cache that `hidden` takes, with room for so many steps."""

    def hidden(
        self, ids: Int[Tensor, "b s"], position_ids: Int[Tensor, "b s"], mask: Bool[Tensor, "b 1 s past"], cache: Any
    ) -> Float[Tensor, "b s d"]:
        """Last hidden states. mask: true where a step may look"""

    def head_rows(self, ids: Int[Tensor, "a"]) -> Float[Tensor, "a d"]:
        """The head's rows of some ids, in fp32."""


# tokens between two looks whether all answers have ended: a GPU would stop at each look until all it was given is done
LOOK_EVERY = {"cpu": 1, "cuda": 16}


@torch.inference_mode()
def generate(
    model: Decodes,
    prompts: Sequence[Int[np.ndarray, "_"]],
    grammar: Grammar,
    sampling: Sampling = GREEDY,
    cases: Sequence[int] | None = None,
) -> list[Int[np.ndarray, "_"]]:
    """Answers to a batch of prompts, end tokens left off.

    Prompts may differ in length: they are padded on the left, where nothing looks at the padding.
    cases: each prompt's own number for sampling; its place in the batch if not given
    """
    model.eval()
    device = model.device
    lines = pad_left([torch.from_numpy(prompt) for prompt in prompts], model.space.control("<|pad_mm|>"))
    ids, positions, is_real, mask = (part.to(device) for part in lines)
    allowed = [torch.from_numpy(ids).to(device) for ids in grammar.allowed]
    heads = _heads(model, allowed)
    draws = [np.random.default_rng([sampling.seed, case]) for case in (range(len(prompts)) if cases is None else cases)]
    answers = _Answers(is_real, positions[:, -1:], grammar)
    with model.decoding(ids.shape[1] + grammar.steps) as cache:
        hidden = model.hidden(ids, positions, mask, cache)
        for step in range(grammar.steps):
            at = grammar.set_at(step)
            choice = _choose(hidden[:, -1].float() @ heads[at].T, sampling, draws)
            ids, positions, mask = answers.put(step, allowed[at][choice])
            if (step + 1) % LOOK_EVERY[device.type] == 0 and answers.finished.all():
                break
            hidden = model.hidden(ids, positions, mask, cache)
    return answers.contents()


class _Answers:
    """A batch's answers so far, and what has been seen of each row. What has ended is followed by end tokens.

    is_real: where the prompts aren't padding; last: the position of each one's last token
    """

    def __init__(self, is_real: Bool[Tensor, "b n"], last: Int[Tensor, "b 1"], grammar: Grammar):
        count, self.width = is_real.shape
        self.end, self.positions = grammar.end, last.clone()
        self.ids = torch.full((count, grammar.steps), self.end, device=is_real.device)
        self.finished = torch.zeros(count, dtype=torch.bool, device=is_real.device)
        self.seen = F.pad(is_real, (0, grammar.steps))

    def put(
        self, step: int, chosen: Int[Tensor, "b"]
    ) -> tuple[Int[Tensor, "b 1"], Int[Tensor, "b 1"], Bool[Tensor, "b 1 1 s"]]:
        """What was chosen, where the answer goes on. Gives what the model reads next: ids, positions, and where it may look."""
        token = torch.where(self.finished, self.end, chosen)
        self.ids[:, step] = token
        self.finished |= token == self.end
        self.seen[:, self.width + step] = True
        self.positions += 1
        return token[:, None], self.positions, self.seen[:, None, None, : self.width + step + 1]

    def contents(self) -> list[Int[np.ndarray, "_"]]:
        """What stands before each end."""
        return [_content(row, self.end) for row in self.ids.cpu().numpy()]


def _heads(model: Decodes, allowed: list[Int[Tensor, "_"]]) -> list[Float[Tensor, "_ d"]]:
    """The head's rows of each set. A set that is the beginning of the longest is a view of it: text has two such, of 152 thousand rows each
    with Qwen3's vocabulary."""
    longest = max(allowed, key=len)
    rows = model.head_rows(longest)
    begins = [torch.equal(ids, longest[: len(ids)]) for ids in allowed]
    return [rows[: len(ids)] if begin else model.head_rows(ids) for ids, begin in zip(allowed, begins, strict=True)]


def _choose(logits: Float[Tensor, "b a"], sampling: Sampling, draws: list[np.random.Generator]) -> Int[Tensor, "b"]:
    # hostile logits may hold NaN or infinities: they still pick one of the allowed
    logits = torch.nan_to_num(logits, nan=0.0, posinf=1e30, neginf=-1e30)
    if sampling.temperature > 0:
        noise = np.stack([rng.gumbel(size=logits.shape[1]) for rng in draws])
        logits = logits / sampling.temperature + torch.from_numpy(noise).to(logits)
    return logits.argmax(-1)


def _content(answer: Int[np.ndarray, "n"], end: int) -> Int[np.ndarray, "k"]:
    stops = np.nonzero(answer == end)[0]
    return answer[: stops[0]] if len(stops) else answer
