"""Codecs that transformers has: reading them from a folder, strictly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import PreTrainedModel

from lumo.codecs import CodecError

Model = TypeVar("Model", bound=PreTrainedModel)


def load_pretrained(kind: type[Model], folder: Path, what: str, bare: bool = False) -> Model:
    """A model from config.json and model.safetensors. Raises CodecError for another model's, and for weights that lack something.

    bare: from config.json alone, with shapes and no values, on the device "meta"
    """
    try:
        # without a config transformers would go on with its default, one of the published models
        said = json.loads((folder / "config.json").read_text())["model_type"]
        if said != kind.config_class.model_type:
            raise ValueError(f"config.json says model_type {said}, expected {kind.config_class.model_type}")
        if bare:
            with torch.device("meta"):
                return kind(kind.config_class.from_pretrained(folder, local_files_only=True))
        model, loaded = kind.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
        if loaded["missing_keys"]:  # transformers would fill them with random numbers
            raise ValueError(f"model.safetensors lacks {min(loaded['missing_keys'])}")
        if loaded["unexpected_keys"]:
            raise ValueError(f"model.safetensors has {min(loaded['unexpected_keys'])}, which the model hasn't")
        if model.config.sampling_rate <= 0:
            raise ValueError(f"config.json says sampling_rate {model.config.sampling_rate}")
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
        reason = " ".join(str(error).split())[:200]
        raise CodecError(f"{folder}: no {what} that can be read ({reason}); fetch or make it again") from error
    return model.eval()
