"""Audits: what must be true of a token space and of a model before its figures mean anything.

Axes: n token.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lumo.datasets.fitting import Adoption, for_codecs
from lumo.fidelity import MEASURES, spread
from lumo.generation import Grammar, Sampling, generate
from lumo.media import Audio, Image
from lumo.model import LumoModel
from lumo.tasks import TASKS
from lumo.tokenizer import UnifiedTokenizer

MUSTS = ("deterministic", "in_blocks", "sizes_match")


def audit_space(tokenizer: UnifiedTokenizer, media: Iterable[Image | Audio], texts: Sequence[str]) -> dict[str, Any]:
    """What must be true of encoding, over all media and texts; under `codecs`, each codec's own findings."""
    items: dict[str, list[Image | Audio]] = {"image": [], "audio": []}
    for item in media:
        items["image" if isinstance(item, Image) else "audio"].append(item)
    codecs = {modality: audit_codec(tokenizer, modality, items[modality]) for modality in items if items[modality]}
    encoded = [tokenizer.encode_text(text) for text in texts]
    block = tokenizer.space.block("text")
    stays = all(((ids >= block.start) & (ids < block.end)).all() for ids in encoded)
    return {
        **{name: all(found[name] for found in codecs.values()) for name in MUSTS},
        "text_round_trips": stays and [tokenizer.decode_text(ids) for ids in encoded] == list(texts),
        "codecs": codecs,
    }


def audit_codec(tokenizer: UnifiedTokenizer, modality: str, media: Sequence[Image | Audio]) -> dict[str, Any]:
    """MUSTS over all media, and what round trips keep: of codes, when they are made again from what was decoded (idempotence),
    and of pictures or clips, by the measures of `fidelity`. `not_decoded` says why there are none."""
    trips = [_round_trip(tokenizer, modality, item) for item in media]
    worsts = {"codes_kept": np.min} | {measure.__name__: worst for measure, worst in MEASURES[modality].items()}
    reason = tokenizer.codecs[modality].cannot_decode
    return {
        **{name: all(trip[name] for trip in trips) for name in MUSTS},
        "round_trips": {name: spread([trip.get(name) for trip in trips], worst) for name, worst in worsts.items()},
        **({"not_decoded": reason} if reason else {}),
    }


def _round_trip(tokenizer: UnifiedTokenizer, modality: str, item: Image | Audio) -> dict[str, Any]:
    """One medium's findings. What isn't placed and sized as the token space says doesn't decode, and is a finding, not an error."""
    space, names = tokenizer.space, tokenizer.blocks(modality)
    card = {"image": space.image, "audio": space.audio}[modality]
    first, second = tokenizer.encode(modality, [item])[0], tokenizer.encode(modality, [item])[0]
    placed = all(space.blocks[b].name == names[n % len(names)] for n, b in enumerate(space.block_index(first)))
    sized = len(first) == card["frames"] * card["codebooks"]
    found = {"deterministic": bool(np.array_equal(first, second)), "in_blocks": placed, "sizes_match": sized}
    if placed and sized and not tokenizer.codecs[modality].cannot_decode:
        (made,) = tokenizer.decode(modality, first[None])
        # a decoder that paints anew, such as SEED-2's, may give more pixels than its encoder reads
        if isinstance(made, Image):
            made = for_codecs(made, Adoption.of(tokenizer.codecs))
        found["codes_kept"] = float(np.mean(tokenizer.encode(modality, [made])[0] == first))
        found |= {measure.__name__: measure(item, made) for measure in MEASURES[modality]}
    return found


@torch.no_grad()
def text_logits(model: LumoModel, tokenizer: UnifiedTokenizer, sentences: Sequence[str]) -> list[Tensor]:
    """Logits over the base vocabulary, [n v] for each sentence: what must not change while only rows train."""
    model.eval()
    logits = []
    for sentence in sentences:
        ids = torch.from_numpy(tokenizer.encode_text(sentence))[None].to(model.new_rows.device)
        steps = torch.arange(ids.shape[1], device=ids.device)
        hidden = model.hidden(ids, steps[None], (steps[:, None] >= steps)[None, None])
        logits.append(model.logits(hidden[0])[:, : tokenizer.space.text_size].cpu())
    return logits


class HostileModel(nn.Module):
    """A model whose hidden states are replaced: what no training would ever give. It has what generation asks for, and no more."""

    def __init__(self, model: LumoModel, kind: str, seed: int):
        super().__init__()
        self.model, self.kind, self.rng = model, kind, torch.Generator().manual_seed(seed)
        self.space = model.space

    @property
    def device(self) -> torch.device:
        return self.model.device

    def decoding(self, room: int) -> AbstractContextManager[None]:
        return nullcontext()

    def hidden(self, ids: Tensor, position_ids: Tensor, mask: Tensor, cache: Any = None) -> Tensor:
        noise = torch.randn((*ids.shape, self.model.new_rows.shape[1]), generator=self.rng).to(self.device)
        return {"random": noise, "huge": noise * 1e30, "not a number": noise * float("nan")}[self.kind]

    def head_rows(self, ids: Tensor) -> Tensor:
        return self.model.head_rows(ids)


def hostile_decoding(
    model: LumoModel, tokenizer: UnifiedTokenizer, max_text_tokens: int, cases: int, seed: int
) -> list[dict[str, Any]]:
    """For each task and each kind of bad logits, how many answers are valid and decode; of a codec that only reads there are none."""
    table = []
    for name, task in TASKS.items():
        if task.target != "text" and tokenizer.codecs[task.target].cannot_decode:
            continue
        grammar: Grammar = task.grammar(tokenizer, max_text_tokens)
        for kind in ("random", "huge", "not a number"):
            given = {modality: np.array([tokenizer.space.block("text").start]) for modality in task.inputs}
            prompts = [task.prompt(given, tokenizer.space)] * cases
            answers = generate(HostileModel(model, kind, seed), prompts, grammar, Sampling(1.0, seed))
            decoded = 0
            for ids in answers:
                assert grammar.accepts([*ids, grammar.end])
                tokenizer.decode_text(ids) if task.target == "text" else tokenizer.decode(task.target, ids[None])
                decoded += 1
            table.append({"task": name, "logits": kind, "cases": cases, "decoded": decoded})
    return table
