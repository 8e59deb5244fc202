"""Tasks: one declaration gives the training sequence, the prompt and the grammar of the answer.

    a2t  <|aud_start|> AUD… <|aud_end|> <|gen_text|> <|text_start|> TEXT… <|text_end|>
    i2t  <|img_start|> IMG… <|img_end|> <|gen_text|> <|text_start|> TEXT… <|text_end|>
    t2a  <|text_start|> TEXT… <|text_end|> <|gen_aud|> <|aud_start|> AUD… <|aud_end|>
    t2i  <|text_start|> TEXT… <|text_end|> <|gen_img|> <|img_start|> IMG… <|img_end|>
    ia2t <|img_start|> IMG… <|img_end|> <|aud_start|> AUD… <|aud_end|> <|gen_text|> <|text_start|> TEXT… <|text_end|>

The target is the content after the last start token, and its end token.

Axes: n token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from lumo.generation import Grammar, media_grammar, text_grammar
from lumo.sequence import SequenceBuilder, TokenSequence
from lumo.shards import Sample
from lumo.space import TokenSpace
from lumo.tokenizer import UnifiedTokenizer

SHORT = {"text": "text", "image": "img", "audio": "aud"}


class TaskError(ValueError):
    """Tasks that can't be trained as asked; the message is one line."""


@dataclass(frozen=True)
class Task:
    """inputs, target: modalities. A sample fits a task when it has just these modalities."""

    name: str
    inputs: tuple[str, ...]
    target: str

    @property
    def media(self) -> tuple[str, ...]:
        """The media that it reads or writes."""
        return tuple(name for name in (*self.inputs, self.target) if name != "text")

    def fits(self, sample: Sample) -> bool:
        return sample.modalities == {"text", *self.inputs, self.target}

    def _prompt(self, ids: Mapping[str, Int[np.ndarray, "n"]], space: TokenSpace) -> SequenceBuilder:
        builder = SequenceBuilder()
        for modality in self.inputs:
            builder.add(space.control(f"<|{SHORT[modality]}_start|>"))
            builder.add(ids[modality])
            builder.add(space.control(f"<|{SHORT[modality]}_end|>"))
        return builder.add(space.control(f"<|gen_{SHORT[self.target]}|>")).add(
            space.control(f"<|{SHORT[self.target]}_start|>")
        )

    def prompt(self, ids: Mapping[str, Int[np.ndarray, "n"]], space: TokenSpace) -> Int[np.ndarray, "n"]:
        """What the model is given before it answers; `ids` needs the inputs alone."""
        return self._prompt(ids, space).build().ids

    def sequence(self, ids: Mapping[str, Int[np.ndarray, "n"]], space: TokenSpace) -> TokenSequence:
        """Prompt, target and end token."""
        builder = self._prompt(ids, space).add(ids[self.target], target=True)
        return builder.add(space.control(f"<|{SHORT[self.target]}_end|>"), target=True).build()

    def grammar(self, tokenizer: UnifiedTokenizer, max_text_tokens: int) -> Grammar:
        """Which ids may stand where in the answer."""
        end = tokenizer.space.control(f"<|{SHORT[self.target]}_end|>")
        if self.target == "text":
            return text_grammar(tokenizer.text_ids, end, max_text_tokens)
        codec = tokenizer.codecs[self.target]
        blocks = [tokenizer.space.block(name) for name in tokenizer.blocks(self.target)]
        return media_grammar(blocks, end, codec.frames, codec.frames)


TASKS = {
    task.name: task
    for task in (
        Task("a2t", ("audio",), "text"),
        Task("i2t", ("image",), "text"),
        Task("t2a", ("text",), "audio"),
        Task("t2i", ("text",), "image"),
        Task("ia2t", ("image", "audio"), "text"),
    )
}


@dataclass(frozen=True)
class Mixture:
    """How often each task is drawn, and from when.

    rates: proportions of samples, in any unit
    ramp_steps: until then only tasks that write text; over as many steps again the others grow to their rate

    >>> mixture = Mixture({"a2t": 1, "t2a": 1}, ramp_steps=10)
    >>> [round(mixture.at(step)["t2a"], 2) for step in (0, 9, 15, 20, 99)]
    [0.0, 0.0, 0.33, 0.5, 0.5]
    """

    rates: Mapping[str, float]
    ramp_steps: int = 0

    def at(self, step: int) -> dict[str, float]:
        """The share of each task at a step; the shares add up to 1."""
        grown = 1.0 if not self.ramp_steps else min(1.0, max(0.0, (step - self.ramp_steps) / self.ramp_steps))
        weights = {name: rate * (1.0 if TASKS[name].target == "text" else grown) for name, rate in self.rates.items()}
        total = sum(weights.values())
        if not total:
            raise TaskError(
                f"mixture: nothing to draw at step {step} from rates {dict(self.rates)}; give a text task a rate, or set ramp_steps to 0"
            )
        return {name: weight / total for name, weight in weights.items()}


@dataclass(frozen=True)
class Pool:
    """The sequences of one task, and what didn't fit.

    dropped: sequences longer than the limit, left out whole
    shortened: sequences whose input text was cut to fit (only where the run asks for it)
    """

    sequences: list[TokenSequence]
    dropped: int
    shortened: int = 0


def build_pools(
    samples: Sequence[Sample], names: Sequence[str], space: TokenSpace, max_seq_len: int, shorten_inputs: bool = False
) -> dict[str, Pool]:
    """For each task its sequences. A target is never cut."""
    pools = {}
    for name in names:
        task, sequences, dropped, shortened = TASKS[name], [], 0, 0
        for sample in filter(task.fits, samples):
            sequence = task.sequence(sample.ids, space)
            excess = len(sequence) - max_seq_len
            if excess > 0 and shorten_inputs and "text" in task.inputs and len(sample.ids["text"]) > excess:
                sequence = task.sequence(sample.ids | {"text": sample.ids["text"][:-excess]}, space)
                shortened += 1
            elif excess > 0:
                dropped += 1
                continue
            sequences.append(sequence)
        pools[name] = Pool(sequences, dropped, shortened)
    return pools
