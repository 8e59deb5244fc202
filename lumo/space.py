"""The token space: one range of ids for text, control tokens, image codes and audio codes.

Blocks are contiguous, disjoint and gapless: text `[0, V_text)`, control, image, then one block for each audio codebook.
`token_space.json` says what the ids mean as well as where they lie; its SHA-256 stands in every shard, checkpoint, golden
file and report, and a mismatch names the field that differs.

Axes: n token · … any shape.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from lumo.files import write_atomically

CONTROL = (
    "<|img_start|>",
    "<|img_end|>",
    "<|aud_start|>",
    "<|aud_end|>",
    "<|text_start|>",
    "<|text_end|>",
    "<|gen_img|>",
    "<|gen_aud|>",
    "<|gen_text|>",
    "<|pad_mm|>",
)


class SpaceError(ValueError):
    """Ids, codes or files of another token space; the message is one line."""


@dataclass(frozen=True)
class Block:
    """A named range of ids: `start` up to, not including, `end`."""

    name: str
    start: int
    size: int

    @property
    def end(self) -> int:
        return self.start + self.size


def codebook_sizes(card: dict[str, Any]) -> list[int]:
    """The size of each codebook of a codec's card, whose `cardinality` is one number for all or a list of them.

    Raises SpaceError when the list isn't as long as there are codebooks.
    """
    cardinality, codebooks = card["cardinality"], card["codebooks"]
    sizes = list(cardinality) if isinstance(cardinality, list) else [cardinality] * codebooks
    if len(sizes) != codebooks:
        raise SpaceError(
            f"token space: card of '{card.get('name')}' has {codebooks} codebooks and sizes for {len(sizes)}; make it again"
        )
    return sizes


def block_names(modality: str, codebooks: int) -> list[str]:
    """`image` for the only codebook of a picture; `image0`, `image1`, … and `audio0`, `audio1`, … for several."""
    return ["image"] if (modality, codebooks) == ("image", 1) else [f"{modality}{k}" for k in range(codebooks)]


@dataclass(frozen=True)
class TokenSpace:
    """Where each kind of token lies, and what it means.

    text_size: the model's embedding rows, of which the tokenizer may leave some unused
    text: the text tokenizer's name, revision and length
    image, audio: each codec's card (name, weights hash, rates, codebooks, cardinality, serial order, …)

    >>> space = TokenSpace(100, {}, {"codebooks": 1, "cardinality": 8}, {"codebooks": 2, "cardinality": 4})
    >>> [(b.name, b.start, b.size) for b in space.blocks]
    [('text', 0, 100), ('control', 100, 10), ('image', 110, 8), ('audio0', 118, 4), ('audio1', 122, 4)]
    >>> space.to_ids("audio1", np.array([0, 3]))
    array([122, 125])
    """

    text_size: int
    text: dict[str, Any] = field(default_factory=dict)
    image: dict[str, Any] = field(default_factory=dict)
    audio: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        image, audio = codebook_sizes(self.image), codebook_sizes(self.audio)
        sizes = [("text", self.text_size), ("control", len(CONTROL))]
        sizes += zip(block_names("image", len(image)), image, strict=True)
        sizes += zip(block_names("audio", len(audio)), audio, strict=True)
        blocks, start = [], 0
        for name, size in sizes:
            blocks.append(Block(name, start, size))
            start += size
        return tuple(blocks)

    @property
    def media_blocks(self) -> tuple[Block, ...]:
        """The codebooks' blocks."""
        return self.blocks[2:]

    @cached_property
    def _by_name(self) -> dict[str, Block]:
        return {block.name: block for block in self.blocks}

    @property
    def size(self) -> int:
        """Number of ids in all."""
        return self.blocks[-1].end

    @property
    def new_rows(self) -> int:
        """Number of ids that the base model doesn't have."""
        return self.size - self.text_size

    def block(self, name: str) -> Block:
        """Raises SpaceError for a name that isn't a block."""
        if name not in self._by_name:
            raise SpaceError(f"token space has no block '{name}'; expected one of {', '.join(self._by_name)}")
        return self._by_name[name]

    def control(self, token: str) -> int:
        """The id of a control token such as `<|img_start|>`."""
        if token not in CONTROL:
            raise SpaceError(f"'{token}' is no control token; expected one of {' '.join(CONTROL)}")
        return self.text_size + CONTROL.index(token)

    def to_ids(self, name: str, codes: Int[np.ndarray, ...]) -> Int[np.ndarray, ...]:
        """Codes of one block to ids. Raises SpaceError for a code outside 0…cardinality-1."""
        block, codes = self.block(name), np.asarray(codes, dtype=np.int64)
        if codes.size and not (codes.min() >= 0 and codes.max() < block.size):
            wrong = codes[(codes < 0) | (codes >= block.size)].flat[0]
            raise SpaceError(
                f"block '{name}' holds codes 0 to {block.size - 1}, got {wrong}; is this another codec's code?"
            )
        return codes + block.start

    def to_codes(self, name: str, ids: Int[np.ndarray, ...]) -> Int[np.ndarray, ...]:
        """Ids of one block to codes. Raises SpaceError for another block's id."""
        block, ids = self.block(name), np.asarray(ids, dtype=np.int64)
        outside = (ids < block.start) | (ids >= block.end)
        if outside.any():
            wrong = int(ids[outside].flat[0])
            raise SpaceError(
                f"block '{name}' holds ids {block.start} to {block.end - 1}, got {wrong} of {self.name_of(wrong)}; "
                "decode each span with its own block"
            )
        return ids - block.start

    def block_index(self, ids: Int[np.ndarray, ...]) -> Int[np.ndarray, ...]:
        """For each id the index of its block. Raises SpaceError for an id outside the space."""
        ids = np.asarray(ids, dtype=np.int64)
        if ids.size and not (ids.min() >= 0 and ids.max() < self.size):
            raise SpaceError(f"token space holds ids 0 to {self.size - 1}, got {ids.min()} to {ids.max()}")
        return np.searchsorted([block.end for block in self.blocks], ids, side="right")

    def name_of(self, token: int) -> str:
        """A single id in words, for messages and displays."""
        if not 0 <= token < self.size:
            return "no block"
        block = self.blocks[int(self.block_index(np.array(token)))]
        return CONTROL[token - block.start] if block.name == "control" else f"block '{block.name}'"

    # --- as a document ------------------------------------------------------------------------------------------------

    def as_dict(self) -> dict[str, Any]:
        return {
            "version": 1,
            "blocks": [{"name": b.name, "start": b.start, "size": b.size} for b in self.blocks],
            "control": list(CONTROL),
            "text_size": self.text_size,
            "text": self.text,
            "image": self.image,
            "audio": self.audio,
        }

    @cached_property
    def sha256(self) -> str:
        """Hash of the canonical JSON: sorted keys, no spaces."""
        canonical = json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def save(self, folder: Path) -> Path:
        return write_atomically(
            folder / "token_space.json", json.dumps(self.as_dict(), indent=2, sort_keys=True) + "\n"
        )

    @classmethod
    def load(cls, folder: Path) -> TokenSpace:
        """Raises SpaceError when the file is missing, isn't JSON, or its blocks are not the ones its own sizes give."""
        path = folder / "token_space.json"
        try:
            content = json.loads(path.read_text())
            space = cls(*(content[key] for key in ("text_size", "text", "image", "audio")))
            same = space.as_dict() == content
        except FileNotFoundError:
            raise SpaceError(
                f"{path}: missing, expected the token space; this folder wasn't written whole, make it again"
            ) from None
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise SpaceError(f"{path}: not a token space ({error!r}); make this folder again") from error
        if not same:
            raise SpaceError(
                f"{path}: field {_difference(space.as_dict(), content)}; the file was edited, make it again"
            )
        return space

    def check_same(self, other: TokenSpace, where: str) -> None:
        """Raises SpaceError naming the first field in which `other`, found at `where`, differs from this space."""
        if self.sha256 != other.sha256:
            difference = _difference(self.as_dict(), other.as_dict())
            raise SpaceError(
                f"{where}: another token space ({other.sha256[:12]}, this run has {self.sha256[:12]}); "
                f"field {difference}; make it again with this profile, or go back to the profile that made it"
            )


def _difference(expected: Any, got: Any, path: str = "") -> str:
    """The first field that differs: `audio.cardinality is 512, expected 256`."""
    if isinstance(expected, dict) and isinstance(got, dict):
        # the codecs and the tokenizer first: block starts merely follow from them
        for key in sorted(expected.keys() | got.keys(), key=lambda key: (key == "blocks", key == "text_size", key)):
            # compared as the hash sees them: in JSON 1 is not 1.0, and a tuple is a list
            if json.dumps(expected.get(key), sort_keys=True) != json.dumps(got.get(key), sort_keys=True):
                return _difference(expected.get(key), got.get(key), f"{path}.{key}".lstrip("."))
    if isinstance(expected, list) and isinstance(got, list):
        if len(got) != len(expected):
            return f"'{path}' has {len(got)} entries, expected {len(expected)}"
        for place, pair in enumerate(zip(expected, got, strict=True)):
            if json.dumps(pair[0], sort_keys=True) != json.dumps(pair[1], sort_keys=True):
                return _difference(*pair, f"{path}.{place}")
    return f"'{path}' is {_shown(got)}, expected {_shown(expected)}"


def _shown(value: Any) -> str:
    """A value in a line; of a long one the ends."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:60]} … {text[-30:]}"
