"""Profiles from YAML: read, merged with what overrides them, and checked, each fault in one line that names its key."""

from __future__ import annotations

import reprlib
import warnings
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from lumo.params.places import PARAMS
from lumo.params.schema import ParamsError, Profile
from lumo.wording import in_short, perhaps


class _Strict(yaml.SafeLoader):
    """YAML in which a key that appears twice is an error: the second would take the place of the first in silence."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        # as it is written: once `<<` has brought in another mapping's keys, one that appears twice may be meant
        node = super().compose_mapping_node(anchor)
        keys = [key.value for key, _ in node.value]
        twice = [key for place, key in enumerate(keys) if key in keys[:place]]
        if twice:
            raise yaml.composer.ComposerError(None, None, f"'{twice[0]}' appears twice", node.start_mark)
        return node


def parse_yaml(text: str, where: str) -> Any:
    """Raises ParamsError for what isn't YAML."""
    try:
        return yaml.load(text, _Strict)
    # a date or a number that can't be, a key that is a list, nesting without end, a tag over what isn't of its kind
    except (yaml.YAMLError, ValueError, TypeError, RecursionError, LookupError, AttributeError) as error:
        raise ParamsError(f"{where}: not YAML ({in_short(error)}); mend it") from error


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


def dotted(key: str, value: Any) -> dict:
    """An override as the command line gives it.

    >>> dotted("stage4.steps", 10)
    {'stage4': {'steps': 10}}
    """
    for name in reversed(key.split(".")):
        value = {name: value}
    return value


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
    both = deep_merge(content, overrides or {}) if isinstance(content, dict) else content
    return check_profile(both, str(path))


def check_profile(content: Any, where: str) -> Profile:
    """What YAML gave as a Profile; `where` is named in errors. Raises ParamsError."""
    if not isinstance(content, dict):
        raise ParamsError(f"{where}: got {type(content).__name__}, expected keys and values; see params/mini.yaml")
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
        return f"{where}: unknown key '{key}'{meant}; remove it, or look up its name in lumo/params/schema.py"
    if fault["type"] == "missing":
        return f"{where}: key '{key}' is missing; see params/mini.yaml for one that works"
    message, given = fault["msg"].removeprefix("Value error, "), fault["input"]
    return f"{where}: {key} is {_shown(given)}; {message[0].lower()}{message[1:]}"


def _shown(given: Any) -> str:
    # aliases make a few lines of YAML a list of billions, which repr would write out
    if isinstance(given, list | dict):
        whole = reprlib.repr(given)
    elif isinstance(given, int) and given.bit_length() > 4096:  # beyond 4,300 digits Python refuses
        whole = hex(given)
    else:
        whole = repr(given)
    return whole if len(whole) <= 200 else f"{whole[:200]}…"


def _keys_in(section: tuple[int | str, ...]) -> list[str]:
    """The keys that a section of a profile knows."""
    model: Any = Profile
    for name in section:
        model = model.model_fields[name].annotation
    return list(model.model_fields)
