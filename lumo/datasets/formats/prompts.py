"""Tags and labels become prompts, by a template that a hash of the row's id chooses: the same row, the same words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lumo.datasets.splits import hash_of

SOUND = ("the sound of {}", "a recording of {}", "{}")
SPEECH = ("a voice says: {}", "someone says: {}")
# pieces of a sentence, each with the kind of tags that it needs; one without tags falls away
MUSIC = (
    (("mood/theme", "{} "), ("genre", "{} "), ("", "music"), ("instrument", " with {}")),
    (("genre", "{} "), ("", "music"), ("mood/theme", ", {}"), ("instrument", ", played on {}")),
    (("", "a piece"), ("genre", " of {}"), ("instrument", " for {}"), ("mood/theme", ": {}")),
)


def listed(words: Sequence[str]) -> str:
    """
    >>> listed(["harp"]), listed(["harp", "flute", "voice"])
    ('harp', 'harp, flute and voice')
    """
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def prompt(templates: Sequence[str], text: str, name: str) -> str:
    """Nothing where there is no text.

    >>> prompt(SOUND, "rain", "clip-1") in {"the sound of rain", "a recording of rain", "rain"}
    True
    """
    return _chosen(templates, name).format(text) if text.strip() else ""


def music_prompt(tags: Mapping[str, Sequence[str]], name: str) -> str:
    """tags: words by kind, `genre`, `instrument`, `mood/theme`; at least one word"""
    pieces = [(text, tags.get(kind, ())) for kind, text in _chosen(MUSIC, name) if not kind or tags.get(kind)]
    return "".join(text.format(listed(words)) for text, words in pieces)


def _chosen(templates: Sequence[Any], name: str) -> Any:
    return templates[int(hash_of(name), 16) % len(templates)]
