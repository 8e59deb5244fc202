"""A token sequence as a strip of colours, one field a token.

Axes: n token in one sequence.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from lumo.show.figures import COLOURS
from lumo.show.page import MUTED, SMALL, Page, escape, plain, tag, title_line

_TEXT, _CONTROL = "#9a9a9a", "#CC79A7"
_IMAGES = ("#0072B2", "#56B4E9")  # one hue: codebooks of one picture
_AUDIO = ("#F2C14E", "#E69F00", "#C97400", "#8F4A00")  # one hue: codebooks of one sound
_TARGET = "#009E73"
# content-box: a gap between a field and its underline
_FIELD = "display:inline-block;width:7px;height:14px;margin:0 1px 3px 0;padding:0 0 2px 0;background-clip:content-box"
_LONGEST_CYCLE = 64  # codebooks in a frame, with room


def ids_strip(
    blocks: Sequence[str],
    is_target: Sequence[bool] | None = None,
    tokens: Sequence[str] | None = None,
    title: str = "",
    limit: int = 600,
) -> Page:
    """Each token of a sequence coloured by its block; targets are underlined.

    blocks: [n] the block's name of each token: text, control, image, audio0, audio1 …
    is_target: [n] whether the loss counts the token; tokens: [n] what to show when the pointer rests on it
    limit: tokens drawn at most; the rest is counted below, and the text version always covers all
    Raises ValueError for lists of different lengths.
    """
    targets = [False] * len(blocks) if is_target is None else [bool(flag) for flag in is_target]
    for name, other in (("is_target", targets), ("tokens", tokens)):
        if other is not None and len(other) != len(blocks):
            raise ValueError(f"a strip of {len(blocks)} blocks has {len(other)} {name}, expected one a token")
    colours = _colours(blocks)
    fields = []
    for place, (block, target) in enumerate(zip(blocks[:limit], targets, strict=False)):
        words = (
            f"{place} {plain(block)}" + (f" {plain(tokens[place])}" if tokens else "") + (" target" if target else "")
        )
        under = f"border-bottom:3px solid {_TARGET if target else 'transparent'}"
        fields.append(
            tag(
                "span",
                title=words,
                style=f"{_FIELD};background-color:{colours[block]};{under}",
            )
        )
    more = tag("div", f"{len(blocks) - limit} more tokens not drawn", style=MUTED) if len(blocks) > limit else ""
    legend = "".join(
        _key(f"{name} {count}", f"background-color:{colours[name]}") for name, count in Counter(blocks).items()
    )
    if any(targets):
        legend += _key(f"target {sum(targets)}", f"border-bottom:3px solid {_TARGET}")
    html = (
        title_line(title) + tag("div", "".join(fields), style="line-height:1") + more + tag("div", legend, style=SMALL)
    )
    counted = f"{len(blocks)} tokens, {sum(targets)} targets in [ ]: {run_length(blocks, targets)}"
    return Page(html, f"{plain(title)}\n{counted}" if plain(title) else counted)


def run_length(blocks: Sequence[str], is_target: Sequence[bool] | None = None) -> str:
    """The sequence in words: repeats are counted, also of a whole frame; targets stand in brackets.

    >>> run_length(["text"] * 3 + ["audio0", "audio1"] * 50 + ["control"], [False] * 3 + [True] * 101)
    'text ×3 [(audio0 audio1) ×50 control]'
    """
    flags = is_target if is_target is not None else [False] * len(blocks)
    words: list[str] = []
    start = 0
    while start < len(blocks):
        end = start
        while end < len(blocks) and bool(flags[end]) == bool(flags[start]):
            end += 1
        run = " ".join(_repeats([plain(block) for block in blocks[start:end]]))
        words.append(f"[{run}]" if flags[start] else run)
        start = end
    return " ".join(words)


def _repeats(names: Sequence[str]) -> list[str]:
    words, at = [], 0
    while at < len(names):
        cycle, times = 1, 1
        for length in range(1, min(_LONGEST_CYCLE, (len(names) - at) // 2) + 1):
            count = 1
            while names[at + count * length : at + (count + 1) * length] == names[at : at + length]:
                count += 1
            # strictly more: the shortest cycle that reaches as far wins
            if count > 1 and count * length > cycle * times:
                cycle, times = length, count
        unit = " ".join(names[at : at + cycle])
        words.append(unit if times == 1 else f"{f'({unit})' if cycle > 1 else unit} ×{times}")
        at += cycle * times
    return words


def _colours(blocks: Sequence[str]) -> dict[str, str]:
    fixed = {"text": _TEXT, "control": _CONTROL, "image": _IMAGES[0]}
    others = iter(range(len(blocks)))
    found: dict[str, str] = {}
    for name in dict.fromkeys(blocks):
        codebook = re.fullmatch(r"(audio|image)(\d+)", name)
        if codebook:
            family = {"audio": _AUDIO, "image": _IMAGES}[codebook[1]]
            found[name] = family[int(codebook[2]) % len(family)]
        else:
            found[name] = fixed.get(name) or COLOURS[(1 + 4 * next(others)) % len(COLOURS)]
    return found


def _key(words: str, look: str) -> str:
    field = tag(
        "span", style=f"display:inline-block;width:10px;height:10px;margin:0 5px 0 0;vertical-align:middle;{look}"
    )
    return tag("span", field + escape(words), style="margin:0 16px 0 0;white-space:nowrap;display:inline-block")
