"""What the tests of the model side share: samples of the world with random codes, and slow ways to the same numbers."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from lumo.batches import IGNORE, Batch
from lumo.datasets import world
from lumo.datasets.manifest import check_row
from lumo.model import LumoModel
from lumo.sequence import TokenSequence
from lumo.shards import Sample
from lumo.space import TokenSpace
from lumo.tokenizer import UnifiedTokenizer


def sample_of(row: dict, tokenizer: UnifiedTokenizer, rng: np.random.Generator) -> Sample:
    """A manifest row, as shards have it, with its caption's ids and random codes of the right blocks and number."""
    checked = check_row(row)
    ids = {"text": tokenizer.encode_text(checked.text.caption)}
    for modality, _ in checked.modalities.items():
        frames, blocks = tokenizer.codecs[modality].frames, tokenizer.blocks(modality)
        books = [tokenizer.space.block(name) for name in blocks]
        ids[modality] = np.stack([rng.integers(b.start, b.end, frames) for b in books], 1).reshape(-1)
    return Sample(checked.id, ids, checked.model_dump(mode="json"))


def make_samples(
    tokenizer: UnifiedTokenizer, images: int, clips: int, pairs: int = 0, held_out: int | None = None, seed: int = 0
) -> list[Sample]:
    """Samples of the world, or all of its held-out rows, with `held_out` pairs among them."""
    rng = np.random.default_rng(seed)
    wanted = "world" if held_out is None else "world-held-out"
    rows = [
        row
        for row in world.rows(seed=seed, images=images, clips=clips, pairs=pairs, held_out_pairs=held_out or 0)
        if row["source"] == wanted
    ]
    return [sample_of(row, tokenizer, rng) for row in rows]


def with_lora(model: LumoModel, rank: int = 2, seed: int = 0) -> LumoModel:
    """LoRA that changes something: its B matrices, zero when fresh, get random values."""
    model.add_lora(rank, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.base.named_parameters():
            if "lora_B" in name:
                value.copy_(torch.randn(value.shape, generator=generator) * 0.3)
    return model


def a_line(space: TokenSpace, rows: int, length: int = 40) -> torch.Tensor:
    """Random ids, of all that exist."""
    ids = torch.randint(0, rows + space.new_rows, (length,), generator=torch.Generator().manual_seed(0))
    return torch.where(ids < rows, ids, ids - rows + space.text_size)


def logits_of(model: LumoModel, ids: torch.Tensor) -> torch.Tensor:
    """Logits [n v] of one line of ids, alone: no cache, no padding, no packing."""
    steps = torch.arange(len(ids))
    return model.logits(model.hidden(ids[None], steps[None], (steps[:, None] >= steps)[None, None])[0])


def sequences_of(batch: Batch) -> list[tuple[int, tuple[int, ...]]]:
    """A batch unpacked: the group and the ids of each of its sequences."""
    found = []
    for ids, marks, groups in zip(batch.input_ids, batch.segment_ids, batch.groups, strict=True):
        for mark in range(1, int(marks.max()) + 1):
            (group,) = groups[marks == mark].unique().tolist()
            found.append((group, tuple(ids[marks == mark].tolist())))
    return found


def loss_of(model: LumoModel, sequence: TokenSequence) -> torch.Tensor:
    """Losses of a sequence's target tokens, one sequence by itself."""
    ids, labels = torch.from_numpy(sequence.ids), torch.from_numpy(np.where(sequence.is_target, sequence.ids, IGNORE))
    losses = F.cross_entropy(logits_of(model, ids)[:-1], labels[1:], ignore_index=IGNORE, reduction="none")
    return losses[labels[1:] != IGNORE]


def tone(hz: float, seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    """[samples c]"""
    wave = 0.3 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)
    return np.repeat(wave[:, None], channels, axis=1)
