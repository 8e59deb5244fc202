"""What taming-transformers writes for a VQGAN: `model.yaml`, the sizes, and `last.ckpt`, a checkpoint of PyTorch Lightning.

Source: both layouts, github.com/CompVis/taming-transformers, as published for vqgan_imagenet_f16_1024 and _16384.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from torch import Tensor

from lumo.codecs import CodecError
from lumo.codecs.pickles import DAMAGED, read_pickle, reason, unusable
from lumo.params import Count, Number, Section, read_yaml
from lumo.wording import in_short

GROUPS = 32  # of channels, in every normalisation


class NetworkSizes(Section):
    """`ddconfig`: of encoder and decoder alike.

    ch: channels at full resolution; ch_mult: their multiples, after each halving
    num_res_blocks: at each resolution; attn_resolutions: heights at which there is attention besides
    resolution: height and width of a picture in pixels; z_channels: of what the encoder gives
    dropout: training's
    """

    ch: Count
    ch_mult: Annotated[tuple[Count, ...], Field(min_length=1, max_length=16)]
    num_res_blocks: Annotated[int, Field(gt=0, le=64, strict=True)]  # made one by one; published ones have 2
    attn_resolutions: tuple[Count, ...]
    resolution: Count
    z_channels: Count
    in_channels: Literal[3]
    out_ch: Literal[3]
    double_z: Literal[False]
    dropout: Number = 0.0

    @model_validator(mode="after")
    def _whole(self) -> NetworkSizes:
        if self.resolution % 2 ** (len(self.ch_mult) - 1):
            raise ValueError(f"resolution {self.resolution} can't be halved {len(self.ch_mult) - 1} times")
        if self.ch % GROUPS:
            raise ValueError(f"ch {self.ch} is no multiple of {GROUPS}, the groups of its normalisation")
        return self

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at each resolution, the highest first."""
        return tuple(self.ch * times for times in self.ch_mult)

    @property
    def heights(self) -> tuple[int, ...]:
        """In pixels, the highest resolution first; the last one is that of the codes."""
        return tuple(self.resolution >> halvings for halvings in range(len(self.ch_mult)))


class VqganConfig(Section):
    """`model.params`. n_embed: codes in the book; embed_dim: length of its vectors.

    remap, colorize_nlabels: codes by another table, pictures of labels; neither is read here
    sane_index_shape: only whether taming hands out codes as a square or as a line
    All else is training's.
    """

    ddconfig: NetworkSizes
    n_embed: Count
    embed_dim: Count
    remap: None = None
    colorize_nlabels: None = None
    sane_index_shape: bool = False
    lossconfig: Any = None
    monitor: Any = None
    image_key: Any = None
    ckpt_path: Any = None
    ignore_keys: Any = None


class _Model(Section):
    target: str
    params: VqganConfig
    base_learning_rate: Any = None

    @field_validator("target")
    @classmethod
    def _vector_quantised(cls, target: str) -> str:
        if target.endswith(".GumbelVQ"):
            raise ValueError(
                f"{target} scores its codes by a layer of their own instead of looking for the nearest, and isn't read here"
            )
        if target != "taming.models.vqgan.VQModel":
            raise ValueError(f"got {target}, expected taming.models.vqgan.VQModel")
        return target


class _File(BaseModel):
    model_config = ConfigDict(extra="ignore")  # data and trainer stand beside the model
    model: _Model


def read_config(path: Path) -> VqganConfig:
    """The sizes that `model.yaml` says. Raises CodecError, which names what is unknown, missing or wrong."""
    try:
        return _File.model_validate(read_yaml(path)).model.params
    except ValueError as error:  # ParamsError is one
        reason = _fault(error) if isinstance(error, ValidationError) else in_short(error)
        raise CodecError(
            f"{path}: no VQGAN config that can be read ({reason}); take model.yaml of vqgan_imagenet_f16_1024 or _16384"
        ) from error


def _fault(error: ValidationError) -> str:
    first = error.errors()[0]
    reason = first["msg"].removeprefix("Value error, ")
    return f"{'.'.join(map(str, first['loc']))}: {reason[0].lower()}{reason[1:]}"


class _Inert:
    """Stands where Lightning pickled a class of its own. Nothing is read from it."""


# the key of Lightning's own notes in a checkpoint, before its version 1.5
STANDINS = [(_Inert, "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint")]


def read_state(path: Path) -> dict[str, Tensor]:
    """The weights in fp32, without those of the loss. Raises CodecError for anything else, a pickle that runs code included."""
    try:
        with torch.serialization.safe_globals(STANDINS):
            checkpoint = read_pickle(path)
        state = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
        if not isinstance(state, dict):
            raise ValueError("no state_dict in it")
        state = {key: value for key, value in state.items() if not key.startswith("loss.")}
        if fault := unusable(state):
            raise ValueError(fault)
        return {key: value.float() for key, value in state.items()}
    except DAMAGED as error:
        raise CodecError(
            f"{path}: no VQGAN checkpoint that can be read ({reason(error)}); fetch it again, or, if its source is trusted, "
            "load it where its code is and save {'state_dict': ...} alone"
        ) from error


def check_state(path: Path, state: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Raises CodecError unless the weights are those that the sizes ask for, by name and by shape."""
    shapes = [(key, *(tuple(side[key].shape) for side in (state, wanted))) for key in sorted(state.keys() & wanted)]
    faults = [f"lacks {key}" for key in sorted(wanted.keys() - state)]
    faults += [f"has {key}, which the model hasn't" for key in sorted(state.keys() - wanted)]
    faults += [f"{key} is {got}, model.yaml says {expected}" for key, got, expected in shapes if got != expected]
    if faults:
        more = f"; and {len(faults) - 3} faults more" if len(faults) > 3 else ""
        raise CodecError(f"{path}: {'; '.join(faults[:3])}{more}; take model.yaml and last.ckpt of one VQGAN")
