"""A model to disk and back: a checkpoint of what trains, and an export for those who don't have lumo.

A checkpoint holds the new rows and, where there is one, LoRA in peft's format (`adapter/`) or the tuned backbone in transformers'
(`backbone/`). The frozen base is never in it.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lumo import full
from lumo.files import write_atomically
from lumo.lora import load_adapter
from lumo.model import LumoModel, ModelError
from lumo.space import TokenSpace
from lumo.wording import in_short

ADAPTER, BACKBONE = "adapter", "backbone"  # folders of a checkpoint


def save(model: LumoModel, folder: Path) -> None:
    """Write `trainable_rows.safetensors`, `trainable_rows.json`, `token_space.json` and, if there is LoRA, `adapter/`, or of a backbone
    that trains `backbone/`.

    The folder appears whole or not at all. Raises ModelError when it can't be written.
    """
    with whole_folder(folder) as partial:
        write(model, partial, gathered(model))


def gathered(model: LumoModel) -> dict[str, Tensor]:
    """The backbone's weights where it trains, on the first process; all of them take part."""
    return full.gathered(model.base) if model.backbone_parameters() else {}


def write(model: LumoModel, folder: Path, backbone: dict[str, Tensor]) -> None:
    """What `save` writes, into a folder that is there; for a caller that writes more beside it. backbone: what `gathered` gave"""
    rows = {name: value.detach().cpu() for name, value in _rows(model).items()}
    save_file(rows, folder / "trainable_rows.safetensors")
    has_lora = isinstance(model.base, PeftModel)
    card = {
        "first_id": model.space.text_size,
        "rows": model.space.new_rows,
        "tied": model.tied,
        "space_sha256": model.space.sha256,
        "parts": [ADAPTER] if has_lora else [BACKBONE] if backbone else [],
    }
    write_atomically(folder / "trainable_rows.json", json.dumps(card, indent=2, sort_keys=True) + "\n")
    model.space.save(folder)
    if has_lora:
        # the base's config can't say that it grew, so peft must not look for resized embeddings
        model.base.save_pretrained(folder / ADAPTER, save_embedding_layers=False)
    if backbone:
        full.save(model.base, backbone, folder / BACKBONE)


def load(model: LumoModel, folder: Path) -> None:
    """Read rows and, where there is one, the adapter or the backbone. Raises SpaceError for another token space, ModelError for damage."""
    if not folder.is_dir():
        raise ModelError(f"{folder}: no checkpoint there; run the notebook that makes it")
    model.space.check_same(TokenSpace.load(folder), str(folder))
    try:
        parts = _parts(folder)
        _load_rows(model, folder / "trainable_rows.safetensors")
        if ADAPTER in parts:
            model.base = load_adapter(model.base, folder / ADAPTER)
        if BACKBONE in parts:
            full.load(model.base, folder / BACKBONE)
    except (torch.OutOfMemoryError, MemoryError, PermissionError):
        raise  # not the folder's fault
    except Exception as error:  # peft and transformers fail in whatever way a damaged file makes them
        raise ModelError(
            f"{folder}: checkpoint can't be read ({in_short(error)}); move it away: a run goes on from the checkpoint before, or makes it again"
        ) from error
    model.begun.clear()  # these weights are of no run that goes on


def _parts(folder: Path) -> list[str]:
    """The folders of a checkpoint. Raises ValueError where one is gone: a model without its adapter would go on as if it had none."""
    card = json.loads((folder / "trainable_rows.json").read_text())
    there = [name for name in (ADAPTER, BACKBONE) if (folder / name).is_dir()]
    if card.get("parts", there) != there:  # lumo didn't say so before 0.4
        raise ValueError(f"folders {there}, expected {card['parts']}")
    return there


def _rows(model: LumoModel) -> dict[str, nn.Parameter]:
    return dict(model.named_parameters(recurse=False))


@torch.no_grad()
def _load_rows(model: LumoModel, file: Path) -> None:
    """Raises ValueError for rows that aren't this model's: torch would spread a single one over all."""
    found, rows = load_file(file), _rows(model)
    if found.keys() != rows.keys():
        raise ValueError(f"tensors {sorted(found)}, expected {sorted(rows)}")
    for name, value in found.items():
        if value.shape != rows[name].shape:
            raise ValueError(f"{name} has shape {list(value.shape)}, expected {list(rows[name].shape)}")
        rows[name].copy_(value)


def export(model: LumoModel, folder: Path, text: Any) -> None:
    """Merge rows and LoRA into a standard checkpoint that `AutoModelForCausalLM.from_pretrained` loads with no lumo.

    A copy is merged, the model stays as it is; so the export takes the base's memory once more.
    text: the Hugging Face tokenizer, saved beside it
    Raises ModelError when it can't be written.
    """
    merged = copy.deepcopy(model.base)
    if isinstance(merged, PeftModel):
        merged = merged.merge_and_unload()
    merged.to(merged.get_input_embeddings().weight.dtype)  # layers that were trained are in fp32
    text_size = model.space.text_size
    merged.resize_token_embeddings(model.space.size, mean_resizing=False)
    with torch.no_grad():
        merged.get_input_embeddings().weight[text_size:] = model.new_rows.to(merged.dtype)
        if model.new_head_rows is not None:
            merged.get_output_embeddings().weight[text_size:] = model.new_head_rows.to(merged.dtype)
    with whole_folder(folder) as partial:
        merged.save_pretrained(partial)
        text.save_pretrained(partial)
        model.space.save(partial)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A neighbour of `folder` to write into: it takes its place when all is written, and goes away when that fails.

    Raises ModelError in one line for a full disk: safetensors and torch don't report it as OSError.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    except (OSError, SafetensorError, RuntimeError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise ModelError(
            f"{folder}: can't be written ({in_short(error)}); free some space, then run the same again: it goes on where it stopped"
        ) from error
