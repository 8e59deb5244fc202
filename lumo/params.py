"""Profiles: everything that a run can be told, typed and frozen.

A profile is a YAML file in `params/`. It is checked by the models below: an unknown key or a wrong type is one error line
that names it. Overrides are merged deeply, so `{"stage4": {"steps": 10}}` changes one number and keeps the rest.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from lumo import hub_cache
from lumo.nearest import perhaps

ROOT = Path(__file__).resolve().parent.parent
PARAMS = ROOT / "params"
MINIATURE = Path(__file__).resolve().parent / "miniature" / "weights"


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
Share = Annotated[float, BeforeValidator(_number), Field(ge=0, le=1)]
MOST = 2**53  # what a float holds exactly: far beyond any run, and torch and numpy can still count with it
Count = Annotated[int, Field(gt=0, le=MOST, strict=True)]
CountOrNone = Annotated[int, Field(ge=0, le=MOST, strict=True)]
# no layer of a model is wider, and a rank that isn't lower saves nothing
Rank = Annotated[int, Field(gt=0, le=2**16, strict=True)]
ClipSeconds = Annotated[float, BeforeValidator(_number), Field(gt=0, le=300)]  # a clip is one sequence
TaskName = Literal["a2t", "i2t", "t2a", "t2i", "ia2t"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class World(Section):
    """How much of the generated world to write; `manifest` in the data section takes its place.

    held_out_pairs: of held-out pictures with held-out sounds, which the golden suite of ia2t is made of
    """

    images: CountOrNone
    clips: CountOrNone
    pairs: CountOrNone
    held_out_pairs: Annotated[int, Field(ge=0, le=10_000, strict=True)] = 0  # a suite takes some


class Data(Section):
    """manifest: path of a JSONL manifest of one's own, relative to the project; null writes the miniature's world.

    workers: that read and pack while the codec works, see `write_shards`; engine: ray shares shards among machines
    """

    manifest: str | None = None
    golden_source: str = (
        "world-held-out"  # rows of this source are kept for the golden suites, as are those that say `split: golden`
    )
    eval_share: Share = 0.05
    samples_per_shard: Count = 1000
    workers: CountOrNone = 2
    engine: Literal["local", "ray"] = "local"


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
    warmup_steps: CountOrNone = 20
    checkpoint_every: Count = 200
    log_every: Count = 20
    memory_floor_mib: CountOrNone = 512


class Stage4(Training):
    """tune: beside the rows, LoRA or the full backbone, see `lumo.full`; the latter has a learning rate of its own, and LoRA's keys rest
    corruption: the share of an answer's codes that the model reads drawn anew, see `training.corrupted`
    """

    tune: Literal["lora", "full"] = "lora"
    lora_rank: Rank
    lora_learning_rate: Positive
    backbone_learning_rate: Positive | None = None
    ramp_steps: CountOrNone  # until then reading only; over as many steps again writing is mixed in
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
    seed: CountOrNone = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: CountOrNone = 0  # 0 leaves torch's own choice
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


class _Strict(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error: the second would take the place of the first in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = [key for place, key in enumerate(keys) if key in keys[:place]]
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"'{twice[0]}' stands there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, where: str) -> Any:
    """Raises ParamsError for what isn't YAML."""
    try:
        return yaml.load(text, _Strict)
    # a date or a number that can't be, a key that is a list, nesting without end
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ParamsError(f"{where}: not YAML ({reason}); mend it") from error


def read_yaml(path: Path) -> Any:
    """Raises ParamsError for a file that can't be read, or isn't YAML."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: can't be read ({error}); expected YAML, mend the file") from error
    return parse_yaml(text, str(path))


def deep_merge(base: dict, overrides: dict) -> dict:
    """Overrides into base, dictionary by dictionary; neither is changed.

    >>> deep_merge({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}})
    {'a': {'b': 3, 'c': 2}}
    """
    merged = dict(base)
    for key, value in overrides.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = deep_merge(merged[key], value) if both else value
    return merged


def profile_path(name: str) -> Path:
    """`mini` → params/mini.yaml; a path to a YAML file is taken as it is."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else PARAMS / f"{name}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in PARAMS.glob("*.yaml"))
        raise ParamsError(
            f"profile '{name}'{perhaps(name, known)}: no file {path}; expected one of {', '.join(known)}, or a path to a YAML file"
        )
    return path


def load_profile(name: str, overrides: dict | None = None) -> Profile:
    """Read, merge and check a profile. Raises ParamsError with one line for each fault."""
    path = profile_path(name)
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise ParamsError(f"{path}: got {type(content).__name__}, expected keys and values; see params/mini.yaml")
    return check_profile(deep_merge(content, overrides or {}), str(path))


def check_profile(content: dict, where: str) -> Profile:
    """A dictionary as a Profile; `where` is named in errors."""
    try:
        with warnings.catch_warnings(record=True) as notes:
            warnings.simplefilter("always")
            profile = Profile.model_validate(content)
    except ValidationError as error:
        raise ParamsError("\n".join(_line(where, fault) for fault in error.errors())) from error
    for note in notes:
        warnings.warn(f"{where}: {note.message}", stacklevel=2)
    return profile


def _line(where: str, fault: dict) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        meant = perhaps(str(fault["loc"][-1]), _keys_in(fault["loc"][:-1]))
        return f"{where}: unknown key '{key}'{meant}; remove it, or look up its name in lumo/params.py"
    if fault["type"] == "missing":
        return f"{where}: key '{key}' is missing; see params/mini.yaml for one that works"
    message, given = fault["msg"].removeprefix("Value error, "), repr(fault["input"])
    shown = given if len(given) <= 200 else f"{given[:200]}…"
    return f"{where}: {key} is {shown}; {message[0].lower()}{message[1:]}"


def _keys_in(section: tuple[int | str, ...]) -> list[str]:
    """The keys that a section of a profile knows."""
    model: Any = Profile
    for name in section:
        model = model.model_fields[name].annotation
    return list(model.model_fields)


def weights_folder(path: str | None, miniature: str, files: tuple[str, ...] = ("config.json",)) -> Path:
    """Where a part's weights lie: a folder that the profile names, relative to the project or in the hub's cache (`hub:OWNER/NAME`,
    see `lumo.hub_cache`), or the miniature's own. Of EnCodec's, Meta's own `.th` file instead of a folder.

    files: what must lie there
    Raises ParamsError when one of them doesn't, or when there is no such `.th` file; HubError for what the cache hasn't.
    """
    folder = MINIATURE / miniature if path is None else _named(path)
    if folder.suffix == ".th":
        if not folder.is_file():
            raise ParamsError(f"{folder}: no such file; expected EnCodec's weights in Meta's format")
        return folder
    for file in files:
        if not (folder / file).is_file():
            more = (
                "; `lumo pull` fetches published ones, of which a plan needs the small files alone (params/README.md)"
                if file == "config.json"
                else ""
            )
            raise ParamsError(f"{folder}: no {file} there; expected a folder with {' and '.join(files)}{more}")
    return folder


def has_weights(path: str | None) -> bool:
    """Whether weights lie where a profile's `path` points. A plan can be made from a folder with config.json alone; nothing can be run."""
    if path is None:
        return True
    place = _named(path)
    return place.suffix == ".th" or any(file.suffix in (".safetensors", ".pt", ".ckpt") for file in place.glob("*"))


def _named(path: str) -> Path:
    return hub_cache.snapshot(path) if hub_cache.is_hub(path) else ROOT / Path(path).expanduser()


def dotted(key: str, value: Any) -> dict:
    """An override as the command line gives it.

    >>> dotted("stage4.steps", 10)
    {'stage4': {'steps': 10}}
    """
    head, _, tail = key.partition(".")
    return {head: dotted(tail, value) if tail else value}
