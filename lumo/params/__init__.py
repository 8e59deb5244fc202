"""Profiles: everything that a run can be told, typed and frozen.

A profile is a YAML file in `params/`. It is checked by the sections of `schema`: an unknown key or a wrong type is one error line
that names it. Overrides are merged deeply, so `{"stage4": {"steps": 10}}` changes one number and keeps the rest.
"""

from lumo.params.places import MINIATURE, PARAMS, ROOT, has_weights, weights_folder
from lumo.params.reading import (
    check_profile,
    deep_merge,
    dotted,
    load_profile,
    parse_yaml,
    profile_path,
    read_yaml,
)
from lumo.params.schema import (
    AudioCodec,
    Codecs,
    Count,
    Data,
    ImageCodec,
    Negative,
    Number,
    ParamsError,
    Positive,
    Profile,
    Section,
    Stage4,
    TaskName,
    Training,
)

__all__ = [
    "MINIATURE",
    "PARAMS",
    "ROOT",
    "AudioCodec",
    "Codecs",
    "Count",
    "Data",
    "ImageCodec",
    "Negative",
    "Number",
    "ParamsError",
    "Positive",
    "Profile",
    "Section",
    "Stage4",
    "TaskName",
    "Training",
    "check_profile",
    "deep_merge",
    "dotted",
    "has_weights",
    "load_profile",
    "parse_yaml",
    "profile_path",
    "read_yaml",
    "weights_folder",
]
