"""Weights and configs of codecs that aren't whole, or another model's, are refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from codec_toys import LOADERS, copied, fixture_clips, fixture_weights  # noqa: F401 - fixtures
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refusals import refused
from safetensors.torch import load_file, save_file

from lumo.codecs import CodecError
from lumo.codecs.spectral import SpectralCodec
from lumo.codecs.twotone import TwoToneCodec
from lumo.params import MINIATURE

# --- any codec --------------------------------------------------------------------------------------------------------


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**6))
@pytest.mark.parametrize("part", LOADERS)
def test_cut_weights_are_refused(weights, tmp_path, part, length):
    folder = copied(weights, tmp_path, part)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: length % len(whole)])
    with refused(CodecError, f"{folder}: ", "make it again"):
        LOADERS[part](folder)


@pytest.mark.parametrize("part", LOADERS)
@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_missing_file_is_refused(weights, tmp_path, part, file):
    folder = copied(weights, tmp_path, part)
    (folder / file).unlink()
    with refused(CodecError, f"{folder}: ", file, "make it again"):
        LOADERS[part](folder)


@pytest.mark.parametrize("part", LOADERS)
@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}"])
def test_a_config_that_is_none_is_refused(weights, tmp_path, part, content):
    folder = copied(weights, tmp_path, part)
    (folder / "config.json").write_text(content)
    with refused(CodecError, f"{folder}: ", "make it again"):
        LOADERS[part](folder)


@pytest.mark.parametrize("part", LOADERS)
@pytest.mark.parametrize("fault", ["missing", "other shape"])
def test_weights_that_do_not_fit_are_refused(weights, tmp_path, part, fault):
    """transformers alone would fill what is missing with random numbers, and go on."""
    folder = copied(weights, tmp_path, part)
    tensors = load_file(folder / "model.safetensors")
    name = sorted(tensors)[len(tensors) // 2]
    value = tensors.pop(name)
    if fault == "other shape":
        tensors[name] = torch.zeros(*value.shape, 2)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with refused(CodecError, f"{folder}: ", "make it again"):
        LOADERS[part](folder)


# --- one's own --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["encodec", "dac"])
@pytest.mark.parametrize(
    "wrong", [{"sampling_rate": "x"}, {"sampling_rate": -1}, {"sampling_rate": 0}, {"codebook_size": []},
              {"upsampling_ratios": 3, "downsampling_ratios": 3}],
)  # fmt: skip
def test_a_config_of_wrong_values_is_refused(weights, tmp_path, part, wrong):
    folder = copied(weights, tmp_path, part)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | wrong))
    with refused(CodecError, f"{folder}: no ", "make it again"):
        LOADERS[part](folder)


@pytest.mark.parametrize(
    ("part", "wrong"),
    [("twotone", {"resolution": "x"}), ("twotone", {"patch": 0}), ("twotone", {"flat": []}), ("twotone", {"depth": 3}),
     ("spectral", {"hop": 0}), ("spectral", {"window": "x"}), ("spectral", {"level_step_db": 0}), ("spectral", {"codebooks": -1})],
)  # fmt: skip
def test_a_miniature_config_of_wrong_values_is_refused(tmp_path, part, wrong):
    codec, folder = {"twotone": (TwoToneCodec, "image_codec"), "spectral": (SpectralCodec, "audio_codec")}[part]
    shutil.copytree(MINIATURE / folder, tmp_path / part)
    config = json.loads((tmp_path / part / "config.json").read_text())
    (tmp_path / part / "config.json").write_text(json.dumps(config | wrong))
    with refused(CodecError, f"{tmp_path / part}: no ", *wrong, "make it again"):
        codec(tmp_path / part, *([1.0, 2.0] if part == "spectral" else []))


@pytest.mark.parametrize(("part", "other"), [("encodec", "dac"), ("dac", "encodec")])
def test_weights_of_another_model_are_refused(weights, part, other):
    with refused(CodecError, f"config.json says model_type {other}, expected {part}"):
        LOADERS[part](weights / other)


@pytest.mark.parametrize("part", ["encodec", "segments", "dac"])
def test_weights_with_something_more_are_refused(weights, tmp_path, part):
    folder = copied(weights, tmp_path, part)
    tensors = load_file(folder / "model.safetensors") | {"and_one_more": torch.zeros(1)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with refused(CodecError, "model.safetensors has and_one_more, which the model hasn't"):
        LOADERS[part](folder)
