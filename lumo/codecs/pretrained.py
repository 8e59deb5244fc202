"""Codecs that transformers has: reading them from a folder, strictly."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import PreTrainedConfig, PreTrainedModel

from lumo.codecs import CodecError
from lumo.wording import in_short

Model = TypeVar("Model", bound=PreTrainedModel)
MOST = 2**20  # of any number in a config; the published ones' largest is a sampling rate
MOST_MODULES = 1024  # of one kind; the published ones have 32 codebooks at the most
COUNTED = ("num_residual_layers", "num_lstm_layers", "num_quantizers", "n_codebooks")
RATIOS = ("upsampling_ratios", "downsampling_ratios")


def load_pretrained(kind: type[Model], folder: Path, what: str, bare: bool = False) -> Model:
    """A model from config.json and model.safetensors. Raises CodecError for another model's, and for weights that lack something.

    bare: from config.json alone, with shapes and no values, on the device "meta"
    """
    try:
        # without a config transformers would go on with its default, one of the published models
        said = json.loads((folder / "config.json").read_text())
        if said["model_type"] != kind.config_class.model_type:
            raise ValueError(
                f"config.json says model_type {said['model_type']}, expected {kind.config_class.model_type}"
            )
        _check_numbers(said)
        config = kind.config_class.from_pretrained(folder, local_files_only=True)
        _check_sizes(config)
        with torch.device("meta"):
            shapes = kind(config)
        if bare:
            return shapes
        _check_room(shapes, folder / "model.safetensors")
        model, loaded = kind.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
        if loaded["missing_keys"]:  # transformers would fill them with random numbers
            raise ValueError(f"model.safetensors lacks {min(loaded['missing_keys'])}")
        if loaded["unexpected_keys"]:
            raise ValueError(f"model.safetensors has {min(loaded['unexpected_keys'])}, which the model hasn't")
    # a wrong type in config.json has an error class of its own, far away; a wrong number may end anywhere
    except (
        StrictDataclassError,
        OSError,
        RuntimeError,
        ValueError,
        TypeError,
        LookupError,
        ArithmeticError,
        SafetensorError,
    ) as error:
        reason = in_short(error)
        raise CodecError(f"{folder}: no {what} that can be read ({reason}); fetch or make it again") from error
    return model.eval()


def _check_numbers(said: dict[str, Any]) -> None:
    """Raises ValueError for a number, or a list, that no codec has."""
    for name, value in said.items():
        values = value if isinstance(value, list) else [value]
        if len(values) > MOST_MODULES:
            raise ValueError(f"config.json says {name} of {len(values)} parts, expected {MOST_MODULES} at the most")
        for number in values:
            if isinstance(number, int | float) and abs(number) > MOST:
                raise ValueError(f"config.json says {name} {number:.4g}, expected {MOST} at the most")


def _check_sizes(config: PreTrainedConfig) -> None:
    """Raises ValueError for more layers than can be made one by one, and for clips that have no frames."""
    for name in COUNTED:
        if (count := getattr(config, name, 0)) > MOST_MODULES:
            raise ValueError(f"config.json asks for {name} {count}, expected {MOST_MODULES} at the most")
    hops = {math.prod(getattr(config, name)) for name in RATIOS if hasattr(config, name)}
    if hops != {config.hop_length} or min(hops) < 1:
        raise ValueError(f"config.json says hop_length {config.hop_length}, its ratios make {sorted(hops)}")
    if config.sampling_rate <= 0:
        raise ValueError(f"config.json says sampling_rate {config.sampling_rate}")


def _check_room(shapes: PreTrainedModel, weights: Path) -> None:
    """Raises ValueError for more numbers than the file can hold: transformers would take memory for all of them first."""
    numbers, size = sum(value.numel() for value in shapes.state_dict().values()), weights.stat().st_size
    if numbers > size:
        raise ValueError(f"config.json asks for {numbers:,} numbers, model.safetensors has {size:,} bytes")
