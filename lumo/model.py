"""A text language model with new rows: the base stays as it is, what is new is a parameter of its own.

The base's embedding is never resized. A new id looks its row up in `new_rows`; the head has two parts, the base's own rows and
the new ones. So the frozen base is bit-identical by construction, with tied and untied heads alike, and the optimiser holds
state for new rows alone. LoRA comes from peft. What goes to disk and back is in `lumo.storage`.

Axes: b row · s step in a row · d hidden · v vocabulary · m supervised position.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from peft import PeftModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig

from lumo import full
from lumo.batches import IGNORE, Batch
from lumo.cache import RoomyCache, Step
from lumo.decoder import short_step
from lumo.lora import merged, with_lora
from lumo.loss import split_cross_entropy
from lumo.segments import Segments, attention_within
from lumo.space import TokenSpace
from lumo.static import can_be_static, static_step, whole_windows

# what bounds how far a step may look, by the names that configs have for it
REACHES = ("max_position_embeddings", "sliding_window", "attention_chunk_size", "window_size")


class ModelError(ValueError):
    """A backbone or a checkpoint that can't be used; the message is one line."""


@dataclass(frozen=True)
class Decoding:
    """past: keys and values so far; short_step: for one token a case, where there is a shorter way than transformers', or one that a GPU
    replays."""

    past: RoomyCache
    short_step: Step | None


class LumoModel(nn.Module):
    """base: a causal language model of transformers, frozen here; space: where the new ids lie.

    new_rows: fp32 [new d], the embeddings of ids from `space.text_size` on
    new_head_rows: fp32 [new d], their rows of the head; None where the base ties its head to its embedding
    """

    def __init__(self, base: nn.Module, space: TokenSpace, seed: int = 0):
        super().__init__()
        rows = base.get_input_embeddings().weight
        if rows.shape[0] > space.text_size:
            raise ModelError(
                f"backbone has {rows.shape[0]} embedding rows, the token space leaves {space.text_size} for text; "
                "make the token space from this backbone (run 01_token_space)"
            )
        self.space, self.base = space, base.requires_grad_(False)
        self.tied = base.get_output_embeddings().weight is rows
        generator = torch.Generator().manual_seed(seed)
        self.new_rows = nn.Parameter(_fresh_rows(rows, space.new_rows, generator))
        head = base.get_output_embeddings().weight
        self.new_head_rows = None if self.tied else nn.Parameter(_fresh_rows(head, space.new_rows, generator))
        self.begun: dict[Path, str] = {}  # folders of the runs that trained these weights, and their hash before each

    # --- forward ------------------------------------------------------------------------------------------------------

    def embed(self, ids: Int[Tensor, "b s"]) -> Float[Tensor, "b s d"]:
        table = self.base.get_input_embeddings().weight
        is_new = ids >= self.space.text_size
        old = F.embedding(ids.masked_fill(is_new, 0), table)
        new = F.embedding((ids - self.space.text_size).clamp(min=0), self.new_rows).to(old.dtype)
        return torch.where(is_new[..., None], new, old)

    def hidden(
        self,
        ids: Int[Tensor, "b s"],
        position_ids: Int[Tensor, "b s"],
        mask: Bool[Tensor, "b 1 s past"] | Segments,
        cache: Decoding | None = None,
    ) -> Float[Tensor, "b s d"]:
        """Last hidden states. mask: true where a step may look, over what is in the cache and these steps; or the segments of one row,
        without a cache.

        cache: what `decoding` gave, or none
        """
        if cache is not None and cache.short_step and ids.shape[1] == 1:
            return cache.short_step(self.embed(ids), position_ids, mask)
        return self._read(self.embed(ids), position_ids, mask, None if cache is None else cache.past)

    def _read(
        self,
        x: Float[Tensor, "b s d"],
        position_ids: Int[Tensor, "b s"],
        mask: Bool[Tensor, "b 1 s past"] | Segments,
        past: RoomyCache | None,
    ) -> Float[Tensor, "b s d"]:
        """transformers' own layers."""
        how: dict[str, Any] = {"position_ids": position_ids, "past_key_values": past, "use_cache": past is not None}
        within = attention_within(self._trunk) if isinstance(mask, Segments) else nullcontext()
        how |= {"segments" if isinstance(mask, Segments) else "attention_mask": mask}
        with within, self._in_type_of(x):
            return self._trunk(inputs_embeds=x, **how).last_hidden_state.to(x.dtype)

    def _in_type_of(self, x: Float[Tensor, "b s d"]) -> AbstractContextManager:
        """Layers that train in fp32 beside rows in half precision compute as the rows are."""
        is_half = x.dtype.itemsize == 2
        mixed = is_half and any(p.dtype == torch.float32 for p in self.backbone_parameters()[:1])
        # without the cache, which a CUDA graph mustn't meet and a weight that is used once doesn't need
        return torch.autocast(x.device.type, x.dtype, cache_enabled=False) if mixed else nullcontext()

    @contextmanager
    def decoding(self, room: int) -> Iterator[Decoding]:
        """Gives what `hidden` remembers by, with room for so many steps.

        While it lasts LoRA costs no products of its own in fp32, and nothing is trained.
        Raises ModelError where the backbone doesn't reach so far.
        """
        check_reach(self._causal.config, room, "generation")
        layers = self._causal.config.get_text_config().num_hidden_layers
        past = RoomyCache(layers, whole_windows(room) if self.replays else room)
        step = short_step(self._trunk, past)
        with nullcontext() if step else merged(self.base):
            if self.replays:
                step = static_step(step or partial(self._read, past=past), past, self.new_rows.device)
            yield Decoding(past, step)

    @property
    def device(self) -> torch.device:
        return self.new_rows.device

    @property
    def replays(self) -> bool:
        """Whether a token's step keeps its shapes and addresses, as a CUDA graph wants. On a CPU it would read what isn't filled."""
        return self.new_rows.is_cuda and can_be_static(self._trunk)

    @property
    def _causal(self) -> nn.Module:
        return self.base.get_base_model() if isinstance(self.base, PeftModel) else self.base

    @property
    def _trunk(self) -> nn.Module:
        return self._causal.base_model

    def head_rows(self, ids: Int[Tensor, "a"]) -> Float[Tensor, "a d"]:
        """The head's rows of some ids, in fp32: what generation needs instead of the whole head."""
        old, new = self._causal.get_output_embeddings().weight, self._new_head()
        is_new = ids >= self.space.text_size
        rows = torch.empty(len(ids), new.shape[1], dtype=torch.float32, device=new.device)
        rows[~is_new] = old[ids[~is_new]].float()
        rows[is_new] = new[ids[is_new] - self.space.text_size].float()
        return rows

    def _new_head(self) -> Tensor:
        return self.new_rows if self.new_head_rows is None else self.new_head_rows

    def logits(self, hidden: Float[Tensor, "m d"]) -> Float[Tensor, "m v"]:
        """Logits over the base's rows and the new ones. Ids between the base's last row and the first new one don't exist: -inf."""
        old = self._causal.get_output_embeddings()(hidden).float()
        gap = self.space.text_size - old.shape[1]
        new = hidden.float() @ self._new_head().T
        return torch.cat([F.pad(old, (0, gap), value=float("-inf")) if gap else old, new], -1)

    @property
    def skips(self) -> bool:
        """Whether attention leaves out padding and what lies between segments. On a CPU a mask over rows of middling length is faster."""
        return self.new_rows.is_cuda and self._trunk._supports_attention_backend

    def computed_tokens(self, batch: Batch) -> int:
        """Tokens that `loss` computes for a batch: its padding too, unless attention leaves that out."""
        return batch.tokens if self.skips else batch.input_ids.numel()

    def loss(
        self, batch: Batch, weigh: Callable[[Int[Tensor, "m"]], Float[Tensor, "m"]]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "m"], Int[Tensor, "m"]]:
        """The weighted sum of cross-entropies to be differentiated; each supervised token's own, in nats; and its group.

        weigh: from groups to weights. The head sees supervised positions alone, a few at a time.
        """
        device = self.new_rows.device
        if self.skips:
            batch = batch.in_one_row()
            mask = Segments.of(batch.segment_lengths(), device)
        else:
            mask = batch.attention_mask().to(device)
        # the label of a step is predicted one step before; a segment's first token is never a target
        wanted = batch.labels[:, 1:] != IGNORE
        places = tuple(axis.to(device) for axis in wanted.nonzero(as_tuple=True))
        labels, groups = (part[:, 1:][wanted].to(device) for part in (batch.labels, batch.groups))
        old, new = self._causal.get_output_embeddings().weight, self._new_head()
        weights = weigh(groups).to(new)
        # all that has to wait for a GPU stands above: from here to the gradients it is never left without work
        hidden = self.hidden(batch.input_ids.to(device), batch.position_ids.to(device), mask)
        total, losses = split_cross_entropy(hidden[places], old, new, labels, weights, self.space.text_size)
        return total, losses, groups

    @torch.no_grad()
    def token_losses(self, batch: Batch) -> tuple[Float[Tensor, "m"], Int[Tensor, "m"]]:
        """Cross-entropy in nats of each supervised token, and its group."""
        return self.loss(batch, torch.ones_like)[1:]

    # --- what trains --------------------------------------------------------------------------------------------------

    def add_lora(self, rank: int, seed: int = 0) -> None:
        """LoRA on every linear layer but the head, see `lumo.lora`.

        Raises ModelError when the model has LoRA already, LoraError where there is nothing to adapt.
        """
        if isinstance(self.base, PeftModel):
            raise ModelError(
                "model has LoRA already, expected none; load a checkpoint without an adapter, or train this one"
            )
        torch.manual_seed(seed)  # peft draws its A matrices from the global generator
        self.base = with_lora(self.base, rank)

    def train_backbone(self) -> None:
        """Let the backbone's layers train, in place of LoRA; see `lumo.full`. Raises ModelError when the model has LoRA."""
        if isinstance(self.base, PeftModel):
            raise ModelError("model has LoRA, expected none; load a checkpoint without an adapter, or train this one")
        full.unfreeze(self.base)

    def row_parameters(self) -> list[nn.Parameter]:
        return [p for p in (self.new_rows, self.new_head_rows) if p is not None]

    def lora_parameters(self) -> list[nn.Parameter]:
        return [p for name, p in self.base.named_parameters() if "lora_" in name and p.requires_grad]

    def backbone_parameters(self) -> list[nn.Parameter]:
        """The backbone's own that train: none but in full tuning."""
        return full.tuned_parameters(self.base)

    def trained_parameters(self) -> list[nn.Parameter]:
        return [*self.row_parameters(), *self.lora_parameters(), *self.backbone_parameters()]

    def step_flops_per_token(self) -> float:
        """Operations of a training step, for each token: twice the frozen weights forward and twice back, six times what trains. Attention and
        the head are left out, so it is a lower bound; but of a mixture of experts all are counted, though a token meets few."""
        table = self.base.get_input_embeddings().weight.numel()
        trained = sum(p.numel() for p in [*self.lora_parameters(), *self.backbone_parameters()])
        frozen = sum(p.numel() for p in self.base.parameters()) - trained - table * (1 if self.tied else 2)
        return 4.0 * frozen + 6.0 * trained

    def base_sha256(self) -> str:
        """Hash of every weight of the base, LoRA aside: equal before and after, unless the backbone was trained, or something that mustn't."""
        digest = hashlib.sha256()
        for name, value in sorted(self.base.state_dict().items()):
            if "lora_" not in name:
                digest.update(name.removeprefix("base_model.model.").replace(".base_layer", "").encode())
                digest.update(raw_bytes(value))
        return digest.hexdigest()

    def text_rows_sha256(self) -> str:
        """Hash of the text's own rows, embedding and head: they stay as they were, whatever trains."""
        digest = hashlib.sha256()
        for rows in (self.base.get_input_embeddings(), self.base.get_output_embeddings()):
            digest.update(raw_bytes(rows.weight))
        return digest.hexdigest()


def raw_bytes(value: Tensor) -> np.ndarray:
    """A tensor's bytes as they lie in memory: what hashes are made of."""
    return value.detach().cpu().contiguous().view(torch.uint8).numpy()


def check_reach(config: PreTrainedConfig, tokens: int, where: str) -> None:
    """Raises ModelError for sequences longer than a backbone has positions, or than its windows, which lumo's masks don't have."""
    text = config.get_text_config()
    for name in REACHES:
        reach = getattr(text, name, None)
        if reach and tokens > reach:
            raise ModelError(
                f"{where}: {name} of the backbone is {reach}, got sequences of up to {tokens} tokens; "
                "lower max_seq_len or golden.max_text_tokens, or take another backbone"
            )


def _fresh_rows(like: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Rows around the mean of the base's, with its spread: of its size, and different from each other."""
    like = like.detach().float()
    drawn = torch.randn(count, like.shape[1], generator=generator).to(like.device)
    return like.mean(0) + drawn * like.std(0)
