"""The text that the miniature's backbone learns from: generated like the world.

Captions in several wordings, the same thing said twice, lists, questions and small talk about numbers and days. Combinations that are
held out of the world's training are held out of this text as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

from lumo.datasets import world

Document = list[tuple[str, bool]]  # pieces of text, and for each whether what was said before decides it
Item = TypeVar("Item")

NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
DAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]


def documents(seed: int) -> Iterator[Document]:
    """Documents without end."""
    writer = _Writer(np.random.default_rng(seed))
    # mostly the same thing said twice: what reading and writing pictures needs later is finding an attribute and naming it again
    kinds = (
        writer.reworded,
        writer.reworded,
        writer.listed,
        writer.unlisted,
        writer.asked,
        writer.asked,
        writer.asked,
        writer.two_captions,
        writer.one_caption,
        writer.counting,
        writer.week,
        writer.echo,
    )
    while True:
        yield writer.pick(kinds)()


class _Writer:
    """One document of each kind; every choice is the generator's."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.seen = {kind: world.seen(kind) for kind in world.ATTRIBUTES}
        self.words = _words()

    def pick(self, items: Sequence[Item]) -> Item:
        return items[self.rng.integers(len(items))]

    def reworded(self) -> Document:
        scene = self._scene()
        return _again(self._caption(scene), "in other words", self._caption(scene))

    def listed(self) -> Document:
        scene = self._scene()
        return _again(self._caption(scene), "in short", self._list(scene))

    def unlisted(self) -> Document:
        scene = self._scene()
        return _again(self._list(scene), "in words", self._caption(scene))

    def asked(self) -> Document:
        scene = self._scene()
        document: Document = [(f"{self._caption(scene)}.", False)]
        for name, value in self._shuffled(scene):
            document += [(f" what is the {name}?", False), (f" {value}.", True)]
        return document

    def two_captions(self) -> Document:
        return [(f"{self._caption(self._scene())}, and {self._caption(self._scene())}", False)]

    def one_caption(self) -> Document:
        return [(self._caption(self._scene()), False)]

    def counting(self) -> Document:
        start, length = int(self.rng.integers(8)), int(self.rng.integers(3, 6))
        return [("we count:", False), (" " + ", ".join(NUMBERS[start : start + length]), True)]

    def week(self) -> Document:
        day = int(self.rng.integers(7))
        return [(f"today is {DAYS[day]}, tomorrow is", False), (f" {DAYS[(day + 1) % 7]}.", True)]

    def echo(self) -> Document:
        said = " ".join(self.pick(self.words) for _ in range(self.rng.integers(3, 10)))
        return [(f"say it again: {said}.", False), (f" {said}.", True)]

    def _scene(self) -> world.Scene:
        return self.pick(self.seen[self.pick(("image", "image", "music", "sfx"))])

    def _caption(self, scene: world.Scene) -> str:
        return scene.caption(int(self.rng.integers(12)))

    def _list(self, scene: world.Scene) -> str:
        return ", ".join(f"{name}: {value}" for name, value in self._shuffled(scene))

    def _shuffled(self, scene: world.Scene) -> list[tuple[str, str]]:
        """The scene's attributes and their values, in any order."""
        pairs = list(scene.attributes.items())
        return [pairs[i] for i in self.rng.permutation(len(pairs))]


def _again(first: str, link: str, second: str) -> Document:
    return [(f"{first}. {link}:", False), (f" {second}", True)]


def _words() -> list[str]:
    """The words that captions are made of, and the values that stand in them."""
    wordings = [wording for kind in world.WORDINGS.values() for wording in kind]
    fixed = {word.strip(".,:") for wording in wordings for word in wording.split() if "{" not in word}
    return [*sorted(fixed), *world.COLOURS, *world.SHAPES, *world.TIMBRES, *world.PITCHES_HZ, *world.EFFECTS]
