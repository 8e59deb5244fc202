"""How much memory a run takes at its peak, part by part, before it runs.

Weights, rows and moments are counted; activations too, on a model that has shapes and no values.

Axes: b row · s step in a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from lumo.backbone import Skeleton, trunk_of
from lumo.codecs import CodecSet
from lumo.codecs.memory import audio_memory, image_memory
from lumo.codecs.sizes import CodecSizes
from lumo.loss import CHUNK_BYTES
from lumo.machine import planned_device, shares_memory, status_bytes
from lumo.params import Profile
from lumo.shards.jobs import BATCH
from lumo.space import TokenSpace
from lumo.static import whole_windows
from lumo.tasks import TASKS
from lumo.tokenizer import UnifiedTokenizer
from lumo.wording import in_short

FP32 = 4  # bytes of a number


class PlanError(ValueError):
    """A run that can't be planned, or doesn't fit; the message is one line."""


# Of the activations: gradients in flight, and freed blocks that don't fit what comes next. Measured with glibc on the mini profile with 768 to
# 6,144 tokens a batch, where it put the peak within 4 % each time; for CUDA's own allocator it is a guess.
SLACK = {"cpu": 1.1, "cuda": 0.3}


@dataclass(frozen=True)
class Steps:
    """A stage's steps, as far as their memory and their time depend on them.

    tokens: real ones of a step, in the mean; rows, length: of a process's part of the largest batch that was looked at
    supervised: the most tokens of such a part that the loss looks at; processes: how many share a batch
    times: how many times as large the run's batches are as those that were looked at; `tokens` and `supervised` are the run's
    """

    tokens: float
    rows: int
    length: int
    supervised: int
    times: float
    processes: int


@dataclass(frozen=True)
class CodecMemory:
    """standing_bytes: of codecs' networks, beside a model; encoding_bytes, decoding_bytes: of the largest batch, beside that"""

    standing_bytes: int
    encoding_bytes: int
    decoding_bytes: int


def codec_memory(profile: Profile, codecs: CodecSet) -> CodecMemory:
    """Raises ParamsError or CodecError."""
    needs = {
        "image": image_memory(profile.codecs.image, planned_device(profile.device)),
        "audio": audio_memory(profile.codecs.audio),
    }
    shared = shares_memory(planned_device(profile.device))
    # a network that this process has read by now is in `held_bytes`
    read = [medium for medium in needs if shared and not isinstance(codecs[medium], CodecSizes)]
    targets = {TASKS[name].target for name in profile.tasks}
    written = [need for medium, need in needs.items() if medium in targets]  # what is only read is never drawn
    weights = sum(need.weights_bytes for medium, need in needs.items() if medium not in read)
    return CodecMemory(
        standing_bytes=weights + sum(need.late_bytes for need in written),
        encoding_bytes=max(need.encoding(BATCH) for need in needs.values()),
        decoding_bytes=max((need.decoding(_golden_batch(profile)) for need in written), default=0),
    )


def new_numbers(space: TokenSpace, bare: Skeleton) -> int:
    """Numbers in the new rows, with those of a head that isn't tied."""
    return space.new_rows * bare.width * bare.tables


@dataclass(frozen=True)
class Footprint:
    """A run's memory, in bytes by part, at the peak of each kind of work.

    bare: the backbone; memory: of the codecs
    """

    profile: Profile
    tokenizer: UnifiedTokenizer
    bare: Skeleton
    memory: CodecMemory

    def training(self, steps: Steps) -> dict[str, int]:
        """The peak of a stage's step. For the warm start LoRA is counted too, which that stage hasn't.

        Of several processes on shared memory all are counted; GPUs each have their own, and the first one holds the notebook's model besides.
        """
        bare, rows = self.bare, self._rows
        activations = round(activation_bytes(bare.model, steps.rows, steps.length) * steps.times)
        own = bare.tuned // steps.processes  # of layers that train each process keeps its part
        parts = (
            self._standing
            | _tuned_bytes(bare, own, steps.processes)
            | {
                "new rows and their gradient": 2 * rows * FP32,
                "LoRA and its gradient": 2 * bare.adapters * FP32,
                "optimiser": 2 * (rows + bare.adapters + own) * FP32,  # AdamW's two moments
                "activations": activations,
                "gradients in flight, allocator": round(SLACK[self._device] * activations),
                "logits": 2 * min(CHUNK_BYTES, steps.supervised * self.tokenizer.space.size * FP32),
            }
        )
        copies = _copied_bytes(bare, self._device, steps.processes)
        if steps.processes == 1:
            return parts | copies
        beside = sum(self._standing.values()) + (rows + bare.adapters) * FP32
        holders = steps.processes if shares_memory(self._device) else 1
        shared = {name: holders * size for name, size in parts.items()}
        return shared | copies | {"notebook beside the processes": beside}

    def generation(self, longest: int) -> dict[str, int]:
        """The peak of the golden suites. longest: tokens of the longest sequence of stage 4"""
        bare, golden = self.bare, self.profile.golden
        text, dtype = bare.model.config.get_text_config(), next(bare.model.parameters()).dtype
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        media = max(self.tokenizer.tokens_of(medium) for medium in ("image", "audio"))
        steps = media + max(golden.max_text_tokens, longest)
        steps = whole_windows(steps) if self._device == "cuda" else steps
        cases = _golden_batch(self.profile)
        return self._standing | {
            "new rows, LoRA": (self._rows + bare.adapters) * FP32,
            "cache of keys and values": 2 * text.num_hidden_layers * heads * head * steps * cases * dtype.itemsize,
            # of text, the largest set that an answer is chosen from
            "head rows": len(self.tokenizer.text_ids) * bare.width * FP32,
            "weights with LoRA": bare.base_bytes if dtype == torch.float32 else 0,  # see lumo.decoder and lumo.lora
        }

    def coding(self, shards: int) -> dict[str, int]:
        """The peak of a codec's work: when shards are made, without a model, or when golden cases are decoded beside it.

        shards: how many there are to make. Each of the processes that share them holds what the run itself does, which then makes none
        """
        data, standing = self.profile.data, self._standing
        makers = min(max(1, data.workers), shards) if data.engine == "processes" else 0
        encoding = standing | {"base": 0, f"{BATCH} of a medium to codes": max(1, makers) * self.memory.encoding_bytes}
        if makers:
            encoding["processes that make shards"] = makers * (sum(standing.values()) - self.bare.base_bytes)
        decoding = standing | {
            "new rows, LoRA": (self._rows + self.bare.adapters) * FP32,
            "a batch of golden cases to media": self.memory.decoding_bytes,
        }
        return max(encoding, decoding, key=lambda parts: sum(parts.values()))

    @property
    def _device(self) -> str:
        return planned_device(self.profile.device)

    @property
    def _rows(self) -> int:
        return new_numbers(self.tokenizer.space, self.bare)

    @property
    def _standing(self) -> dict[str, int]:
        """What is there all the time."""
        held = held_bytes(self._device)
        return {
            "program, codecs, data": held,
            "networks of codecs": self.memory.standing_bytes,
            "base": self.bare.base_bytes,
        }


def _copied_bytes(bare: Skeleton, device: str, processes: int) -> dict[str, int]:
    """With full tuning, what the first process holds besides while it writes a checkpoint: weights and both moments, whole, see `full.gathered`.

    One process on a CPU writes its own tensors. Of a GPU with memory of its own the copies lie in the machine's, which isn't planned. They are
    added to a step's peak: what that frees the allocators keep.
    """
    if not bare.tuned or not shares_memory(device) or (device == "cpu" and processes == 1):
        return {}
    frozen = bare.frozen_bytes if device == "cuda" else 0
    return {"copies for a checkpoint": 3 * bare.tuned * FP32 + frozen}


def _tuned_bytes(bare: Skeleton, own: int, processes: int) -> dict[str, int]:
    """With full tuning: the base without its layers, and the layers. own: numbers of them that this process keeps"""
    if not bare.tuned:
        return {}
    compute, layers = bare.model.dtype.itemsize, bare.model.config.get_text_config().num_hidden_layers
    if processes > 1:  # one computes, the next comes in, the last one's gradient goes out
        passing = bare.tuned // layers * (2 * compute + FP32)
    else:  # what autocast makes of all of them
        passing = bare.tuned * compute if compute < FP32 else 0
    return {
        "base": bare.frozen_bytes,
        "layers in fp32 and their gradient": 2 * own * FP32,
        "layers gathered, or in half precision": passing,
    }


def _golden_batch(profile: Profile) -> int:
    return min(profile.golden.batch_size, profile.golden.cases)


def held_bytes(device: str) -> int:
    """What this process holds by now, codecs and samples among it; nothing of it lies in a GPU's own memory."""
    return (status_bytes("VmRSS") or 0) if shares_memory(device) else 0


def activation_bytes(model: nn.Module, rows: int, length: int) -> int:
    """Bytes that a forward pass keeps for the backward one, counted on tensors that have a shape and no values.

    Raises PlanError for layers whose shapes depend on values.
    """
    kept: dict[int, Any] = {}
    trunk = trunk_of(model)
    weights = {p.untyped_storage()._cdata for p in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        # without a device attention is the slow kind, which keeps its weights [b h s s]; no device makes those
        is_attention = tensor.shape[-2:] == (length, length) and tensor.shape[:-2].numel() > rows
        if storage._cdata not in weights and not is_attention:
            kept[storage._cdata] = storage  # held, or its address would be given away again
        return tensor

    embedded = torch.empty(
        rows, length, model.config.get_text_config().hidden_size, device="meta", dtype=next(model.parameters()).dtype
    )
    positions = torch.zeros(rows, length, dtype=torch.long, device="meta")
    mask = torch.ones(rows, 1, length, length, dtype=torch.bool, device="meta")
    try:
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            trunk(
                inputs_embeds=embedded.requires_grad_(),
                attention_mask=mask,
                position_ids=positions,
                use_cache=False,
            )
    except RuntimeError as error:  # torch 2.13 knows no shapes of a mixture of experts in fp32
        raise PlanError(
            f"plan: activations of {type(trunk).__name__} can't be counted without its weights ({in_short(error)}); "
            "expected layers whose shapes are known, run without a plan"
        ) from error
    return sum(storage.nbytes() for storage in kept.values())
