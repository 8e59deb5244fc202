"""A backbone: a text language model from a folder, read and checked before hours are spent on it.

lumo runs a model's layers on its own embeddings, masks and cache, and multiplies with the head's rows itself. That is what most models
do, and not what all do: some scale their embeddings, bound their logits, or have no attention to mask. What a config tells of that is
refused before weights are read; what it doesn't tell shows when both ways run over a few ids.

Axes: s step in a row · n token of all lines · d hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from peft import PeftModel
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM, PreTrainedConfig
from transformers.utils import logging

from lumo import full
from lumo.batches import pad_left
from lumo.lora import with_lora
from lumo.machine import device_of, planned_device
from lumo.model import LumoModel, ModelError, check_reach
from lumo.params import Profile, weights_folder
from lumo.segments import Segments
from lumo.space import TokenSpace
from lumo.tokenizer import load_config
from lumo.wording import in_short

# a bar that ends within a second is noise in a notebook's output
logging.disable_progress_bar()

_AFTER_HEAD = "the loss and generation take logits as they leave the head"
# a config's fields → the values that change nothing, and why others are refused
UNFIT = {
    "is_encoder_decoder": ((None, False), "expected a decoder alone"),
    "quantization_config": ((None,), "expected plain weights, which can be hashed, trained around and merged"),
    "final_logit_softcapping": ((None,), _AFTER_HEAD),
    "logits_scaling": ((None, 1), _AFTER_HEAD),
    "logit_scale": ((None, 1), _AFTER_HEAD),
}
PROBE = (9, 5)  # tokens of the lines that both ways read
HEAD_ROWS_COMPARED = 256
# Of the logits' spread. Ways that agree differ by about 1e-6 in fp32 and 0.01 in bf16, ways that don't by more than these.
ROUNDING = {torch.float32: 1e-3, torch.float64: 1e-3}
ROUNDING_OF_HALF = 0.1


@dataclass(frozen=True)
class Skeleton:
    """A model that has shapes and no values, on the device "meta"; with LoRA, or with layers that train.

    base_bytes: the base's weights; base_numbers: how many; tuned: those of them that train; adapters: LoRA's numbers
    width: of an embedding row; tables: of rows, two where the head is untied
    """

    model: nn.Module
    base_bytes: int
    base_numbers: int
    adapters: int
    width: int
    tables: int
    tuned: int = 0

    @property
    def frozen_bytes(self) -> int:
        return self.base_bytes - self.tuned * self.model.dtype.itemsize


def trunk_of(model: nn.Module) -> nn.Module:
    """A causal language model without its head, whether LoRA is around it or not."""
    return (model.get_base_model() if isinstance(model, PeftModel) else model).base_model


def skeleton(profile: Profile) -> Skeleton:
    """What `load_model` and `training.prepare` would make, without reading the weights.

    Raises ParamsError, CodecError, ModelError or LoraError.
    """
    config = _checked_config(profile)
    dtype = torch.float32 if planned_device(profile.device) == "cpu" else config.dtype or torch.bfloat16
    try:
        with torch.device("meta"):
            base = AutoModelForCausalLM.from_config(config, dtype=dtype).requires_grad_(False)
    except Exception as error:  # sizes that don't fit each other fail in whatever layer meets them
        reason = in_short(f"{type(error).__name__}: {error}")
        folder = weights_folder(profile.backbone.path, "backbone")
        raise ModelError(
            f"{folder / 'config.json'}: no model can be made by it ({reason}); take another backbone"
        ) from error
    table, head = base.get_input_embeddings().weight, base.get_output_embeddings().weight
    numbers = sum(p.numel() for p in base.parameters())
    sizes = {"base_bytes": numbers * dtype.itemsize, "base_numbers": numbers}
    sizes |= {"width": table.shape[1], "tables": 1 if head is table else 2}
    if profile.stage4.tune == "full":
        full.unfreeze(base)
        return Skeleton(base, adapters=0, tuned=sum(p.numel() for p in full.tuned_parameters(base)), **sizes)
    with torch.device("meta"):
        model = with_lora(base, profile.stage4.lora_rank)
    return Skeleton(model, adapters=sum(p.numel() for p in model.parameters() if p.requires_grad), **sizes)


def load_model(profile: Profile, space: TokenSpace) -> LumoModel:
    """The profile's backbone with fresh rows for a space, on the profile's device. Raises ParamsError, CodecError or ModelError."""
    device, folder = device_of(profile.device), weights_folder(profile.backbone.path, "backbone")
    _checked_config(profile)
    # bf16 is slower than fp32 on most CPUs (2.8 times in a training step, measured on Cascade Lake)
    base = load_base(folder, "auto" if device == "cuda" else torch.float32)
    model = LumoModel(base, space, profile.seed).to(device)
    check_logits(model, str(folder))
    return model


def load_base(folder: Path, dtype: torch.dtype | str = "auto") -> nn.Module:
    """A causal language model from a local folder: safetensors only, no code of the folder's own, every tensor in its place.

    Raises ModelError.
    """
    try:
        base, report = AutoModelForCausalLM.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=dtype,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, ImportError, KeyError, SafetensorError) as error:
        raise ModelError(
            f"{folder}: no causal language model that can be read ({in_short(error)}); "
            "expected a Hugging Face model folder with config.json and safetensors weights"
        ) from error
    # transformers fills what is missing with random numbers and goes on
    for fault in ("missing", "unexpected"):
        names = sorted(report[f"{fault}_keys"])
        if names:
            raise ModelError(
                f"{folder}: weights are not those of config.json ({len(names)} tensors {fault}, such as '{names[0]}'); "
                "take both from the same model"
            )
    return base.eval()


def check_logits(model: LumoModel, where: str) -> None:
    """Compare with the stock model's logits: two lines packed into one row, and padded to one length and read token by token.

    Raises ModelError where they differ by more than rounding, or where the backbone can't be run so.
    """
    rows = model.base.get_input_embeddings().weight
    lines = [torch.linspace(0, len(rows) - 1, length).long().to(rows.device) for length in PROBE]
    some = torch.linspace(0, len(rows) - 1, HEAD_ROWS_COMPARED).long().to(rows.device)
    name = type(model.base).__name__
    for way, run in (("packed into one row", _packed), ("read token by token", _by_token)):
        try:
            with torch.no_grad():
                stock = torch.cat([model.base(input_ids=line[None]).logits[0, :, some].float() for line in lines])
                ours = run(model, lines).float() @ model.head_rows(some).T
        except Exception as error:  # code that lumo doesn't know fails in whatever way it likes
            reason = in_short(f"{type(error).__name__}: {error}")
            raise ModelError(
                f"{where}: {name} can't be run with lines {way} ({reason}); "
                "expected attention that takes embeddings, a mask and a cache; take another backbone"
            ) from error
        gap = ((ours - stock).std() / stock.std()).item()
        limit = ROUNDING.get(rows.dtype, ROUNDING_OF_HALF)
        if not gap <= limit:  # NaN, too
            raise ModelError(
                f"{where}: logits of {name} with lines {way} differ from transformers' own by {gap:.2g} of their spread, "
                f"expected at most {limit:g} ({_oddities(model.base)}); take another backbone"
            )


def _packed(model: LumoModel, lines: list[Int[Tensor, "_"]]) -> Float[Tensor, "n d"]:
    device = lines[0].device
    block = torch.block_diag(*(torch.ones(len(line), len(line)).tril() for line in lines)).bool()
    mask = Segments.of([len(line) for line in lines], device) if model.skips else block[None, None].to(device)
    steps = torch.cat([torch.arange(len(line)) for line in lines])
    return model.hidden(torch.cat(lines)[None], steps[None].to(device), mask)[0]


def _by_token(model: LumoModel, lines: list[Int[Tensor, "_"]]) -> Float[Tensor, "n d"]:
    """Hidden states of lines that are padded on the left: all but two tokens are read at first, then one by one."""
    ids, positions, is_real, mask = (part.to(lines[0].device) for part in pad_left(lines, pad_id=0))
    width = ids.shape[1]
    parts = []
    with model.decoding(width) as cache:
        for start, stop in ((0, width - 2), (width - 2, width - 1), (width - 1, width)):
            here = slice(start, stop)
            parts.append(model.hidden(ids[:, here], positions[:, here], mask[:, :, here, :stop], cache))
    return torch.cat(parts, 1)[is_real]


def _oddities(base: nn.Module) -> str:
    """What is known to make logits differ, for the message."""
    table, head = base.get_input_embeddings(), base.get_output_embeddings()
    odd = [f"its embedding is a {type(table).__name__}"] if type(table) is not nn.Embedding else []
    odd += ["its head has a bias"] if getattr(head, "bias", None) is not None else []
    return ", ".join(odd) or "something in its layers is done otherwise"


def _checked_config(profile: Profile) -> PreTrainedConfig:
    """The backbone's config. Raises ModelError for what lumo wouldn't compute as transformers does."""
    folder = weights_folder(profile.backbone.path, "backbone")
    config = load_config(folder)
    for name, (fine, reason) in UNFIT.items():
        for part in (config, config.get_text_config()):
            value = getattr(part, name, None)
            if value not in fine:
                raise ModelError(f"{folder / 'config.json'}: {name} is {value}; {reason}; take another backbone")
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelError(
            f"{folder / 'config.json'}: model_type is '{config.model_type}', expected a causal language model; take another backbone"
        )
    longest = max(profile.warm_start.max_seq_len, profile.stage4.max_seq_len)
    check_reach(config, longest, str(folder / "config.json"))
    return config
