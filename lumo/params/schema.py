"""What a profile may say: all its keys, their types and what they are if not given. This file is their reference."""

from __future__ import annotations

import unicodedata
import warnings
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator


class ParamsError(ValueError):
    """A profile that can't be used; the message is one line for each fault."""


def _number(value: Any) -> Any:
    """YAML 1.1 reads `1e-4` as text (it wants `1.0e-4`); it is taken as the number that was meant, and said."""
    if isinstance(value, bool):
        raise ValueError("expected a number, not true or false")
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            raise ValueError("expected a number") from None
        warnings.warn(f"read the text '{value}' as the number {number:g}; in YAML write {number:.1e}", stacklevel=2)
        return number
    return value


Number = Annotated[float, BeforeValidator(_number)]
Positive = Annotated[float, BeforeValidator(_number), Field(gt=0, allow_inf_nan=False)]
Negative = Annotated[float, BeforeValidator(_number), Field(lt=0, allow_inf_nan=False)]
Share = Annotated[float, BeforeValidator(_number), Field(ge=0, le=1)]
MOST = 2**53  # what a float holds exactly: far beyond any run, and torch and numpy can still count with it
Count = Annotated[int, Field(gt=0, le=MOST, strict=True)]
CountOrZero = Annotated[int, Field(ge=0, le=MOST, strict=True)]
# no layer of a model is wider, and a rank that isn't lower saves nothing
Rank = Annotated[int, Field(gt=0, le=2**16, strict=True)]
ClipSeconds = Annotated[float, BeforeValidator(_number), Field(gt=0, le=300)]  # a clip is one sequence
TaskName = Literal["a2t", "i2t", "t2a", "t2i", "ia2t"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)

    @field_validator("*")
    @classmethod
    def _one_line(cls, value: Any) -> Any:
        """Names and paths: no system takes a null byte, and an error line stays one line."""
        if isinstance(value, str) and any(unicodedata.category(c) == "Cc" or "\ud800" <= c < "\udc80" for c in value):
            raise ValueError("expected text of one line, without control characters")
        return value


class World(Section):
    """How much of the generated world to write; `manifest` in the data section takes its place.

    held_out_pairs: of held-out pictures with held-out sounds, which the golden suite of ia2t is made of
    """

    images: CountOrZero
    clips: CountOrZero
    pairs: CountOrZero
    held_out_pairs: Annotated[int, Field(ge=0, le=10_000, strict=True)] = 0  # a suite takes some


class Data(Section):
    """manifest: path of a JSONL manifest of one's own, relative to the project; null writes the miniature's world.

    golden_source: rows of this source are kept for the golden suites, as are those that say `split: golden`
    engine: who makes the shards; local: threads of this process; processes: each with codecs of its own; ray: the same
        on several machines
    workers: how many threads read and pack while the codec works, or how many processes there are
    """

    manifest: str | None = None
    golden_source: str = "world-held-out"
    eval_share: Share = 0.05
    samples_per_shard: Count = 1000
    workers: CountOrZero = 2
    engine: Literal["local", "processes", "ray"] = "local"


class ImageCodec(Section):
    """path: a folder with weights; null is the miniature's own, a two-tone.

    adapter: of a codec of one's own (`name: own`), the Python file that loads it, see `codecs.own`
    steps: of drawing a picture, see `Seed2Codec`
    """

    name: Literal["twotone", "seed2", "vqgan", "own"] = "twotone"
    path: str | None = None
    adapter: str | None = None
    steps: Count | None = None

    @model_validator(mode="after")
    def _explicit(self) -> ImageCodec:
        if self.path is None and self.name in ("seed2", "vqgan"):
            raise ValueError(f"{self.name} wants path, the folder with its weights")
        _check_adapter(self.name, self.adapter)
        if self.steps is not None and self.name != "seed2":
            raise ValueError(f"{self.name} has no steps; remove it")
        return self


class AudioCodec(Section):
    """How many codebooks is always explicit, because the default differs between releases: by `bandwidth_kbps`, for DAC by `codebooks`.

    scale: what EnCodec 48 kHz decodes every segment to, see `EncodecCodec`
    adapter: as of `ImageCodec`; such a codec looks at `clip_s` and whichever of the others it wants
    """

    name: Literal["spectral", "encodec", "dac", "own"]
    path: str | None = None
    adapter: str | None = None
    bandwidth_kbps: Positive | None = None
    codebooks: Count | None = None
    clip_s: ClipSeconds
    scale: Positive | None = None

    @model_validator(mode="after")
    def _explicit(self) -> AudioCodec:
        _check_adapter(self.name, self.adapter)
        if self.name == "own":
            return self
        wanted, other = ("codebooks", "bandwidth_kbps") if self.name == "dac" else ("bandwidth_kbps", "codebooks")
        if getattr(self, wanted) is None or getattr(self, other) is not None:
            raise ValueError(f"{self.name} wants {wanted}, and not {other}")
        if self.scale is not None and self.name != "encodec":
            raise ValueError(f"{self.name} has no scale; remove it")
        return self


def _check_adapter(name: str, adapter: str | None) -> None:
    if (name == "own") != (adapter is not None):
        raise ValueError("name own wants adapter, the Python file that loads it, and no other codec does")


class Codecs(Section):
    image: ImageCodec
    audio: AudioCodec


class Backbone(Section):
    """path: a folder in Hugging Face's format, or `hub:OWNER/NAME`, see `lumo.hub_cache`; null is the miniature's own."""

    path: str | None = None


class Training(Section):
    """What the warm start and stage 4 share.

    memory_floor_mib: below so much available memory a run ends with a checkpoint, see `lumo.watchdog`; 0 lets it go on
    """

    steps: Count
    tokens_per_batch: Count
    max_seq_len: Count
    rows_learning_rate: Positive
    rates: dict[TaskName, Share]
    warmup_steps: CountOrZero = 20
    checkpoint_every: Count = 200
    log_every: Count = 20
    memory_floor_mib: CountOrZero = 512


class Stage4(Training):
    """tune: beside the rows, LoRA or the full backbone, see `lumo.full`; the latter has a learning rate of its own, and LoRA's keys rest
    corruption: the share of an answer's codes that the model reads drawn anew, see `training.corrupted`
    """

    tune: Literal["lora", "full"] = "lora"
    lora_rank: Rank
    lora_learning_rate: Positive
    backbone_learning_rate: Positive | None = None
    ramp_steps: CountOrZero  # until then reading only; over as many steps again writing is mixed in
    corruption: Share = 0.0
    shorten_inputs: bool = False  # shorten input text that doesn't fit, instead of dropping the sample

    @model_validator(mode="after")
    def _has_its_rate(self) -> Stage4:
        if self.tune == "full" and self.backbone_learning_rate is None:
            raise ValueError("tune full wants backbone_learning_rate, such as 1.0e-5")
        return self


class Golden(Section):
    cases: Count = 64
    batch_size: Count = 64
    max_text_tokens: Count = 64


class Ablation(Section):
    cases: Count
    resamples: Count = 2000


class Profile(Section):
    """One whole run."""

    profile: str
    seed: CountOrZero = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[int, Field(ge=0, le=1024, strict=True)] = 0  # 0 leaves torch's own choice
    processes: Count = 1  # that share stage 4, on this machine; on cuda each takes a GPU
    world: World
    data: Data = Data()
    codecs: Codecs
    backbone: Backbone = Backbone()
    warm_start: Training
    stage4: Stage4
    golden: Golden = Golden()
    ablation: Ablation

    @property
    def tasks(self) -> list[str]:
        """What stage 4 trains, and what is then measured: one's own data may have no pictures, or no sounds."""
        return [name for name, rate in self.stage4.rates.items() if rate]
