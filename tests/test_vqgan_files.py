"""VQGAN's files: a config or a checkpoint that isn't one is refused, and no pickle of theirs runs."""

from __future__ import annotations

import math
import os
import pickle

import numpy as np
import pytest
import torch
import yaml
from refusals import refused
from slow_vqgan import (  # noqa: F401 - fixtures
    TOY,
    config_of,
    fixture_codec,
    fixture_folder,
    fixture_pictures,
    fixture_state,
    fixture_whole,
    lightning,
    save,
)

from lumo.codecs import CodecError
from lumo.codecs.vqgan import VqganCodec

# --- configs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "value", "fault"),
    [
        ("ddconfig.ch", None, "model.params.ddconfig.ch: field required"),
        ("ddconfig.ch", "many", "model.params.ddconfig.ch: input should be a valid integer"),
        ("ddconfig.ch", 48, "ch 48 is no multiple of 32"),
        ("ddconfig.ch_mult", [], "model.params.ddconfig.ch_mult: "),
        ("ddconfig.resolution", 66, "resolution 66 can't be halved 2 times"),
        ("ddconfig.in_channels", 1, "model.params.ddconfig.in_channels: input should be 3"),
        ("ddconfig.double_z", True, "model.params.ddconfig.double_z: input should be False"),
        ("ddconfig.attn_type", "linear", "model.params.ddconfig.attn_type: extra inputs are not permitted"),
        ("n_embed", None, "model.params.n_embed: field required"),
        ("remap", "used.npy", "model.params.remap: input should be None"),
        ("kl_weight", 1e-8, "model.params.kl_weight: extra inputs are not permitted"),
    ],
)
def test_a_config_with_other_keys_or_values_is_refused(folder, where, value, fault):
    config = yaml.safe_load((folder / "model.yaml").read_text())
    section, _, key = f"params.{where}".rpartition(".")
    inner = config["model"]
    for part in section.split("."):
        inner = inner[part]
    inner.pop(key, None)
    if value is not None:
        inner[key] = value
    (folder / "model.yaml").write_text(yaml.safe_dump(config))
    with refused(CodecError, f"{folder / 'model.yaml'}: no VQGAN config that can be read", fault, "take model.yaml of"):
        VqganCodec(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"a: b", b"model: 3", b"\xff\xfe", b"model: {params: {}}"])
def test_a_config_that_is_none_is_refused(folder, content):
    (folder / "model.yaml").write_bytes(content)
    with refused(CodecError, f"{folder / 'model.yaml'}: no VQGAN config that can be read", "take model.yaml of"):
        VqganCodec(folder)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("taming.models.vqgan.GumbelVQ", "scores its codes by a layer of their own"),
        ("ldm.models.autoencoder.VQModel", "expected taming"),
    ],
)
def test_another_kind_of_model_is_refused(folder, target, reason):
    config = config_of(TOY, 24, 6)
    config["model"]["target"] = target
    (folder / "model.yaml").write_text(yaml.safe_dump(config))
    with refused(CodecError, f"model.target: got {target}" if "ldm" in target else f"model.target: {target}", reason):
        VqganCodec(folder)


# --- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_of_either_format_is_read(folder, state, codec, pictures, zipped):
    """torch before 1.6 wrote no zip."""
    save(folder, state, zipped=zipped)
    assert np.array_equal(VqganCodec(folder).encode(pictures), codec.encode(pictures))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.99])
def test_a_cut_checkpoint_is_refused(folder, state, zipped, kept):
    save(folder, state, zipped=zipped)
    data = (folder / "last.ckpt").read_bytes()
    (folder / "last.ckpt").write_bytes(data[: kept if kept in (0, 1, 100) else int(kept * len(data))])
    with refused(CodecError, f"{folder / 'last.ckpt'}: no VQGAN checkpoint that can be read", "fetch it again"):
        VqganCodec(folder)


@pytest.mark.parametrize("content", ["state", [1], torch.zeros(3), {"state_dict": None}, {"state_dict": {"a": 1}}])
def test_what_is_no_lightning_checkpoint_is_refused(folder, state, content):
    torch.save(state if isinstance(content, str) else content, folder / "last.ckpt")
    with refused(CodecError, f"{folder / 'last.ckpt'}: no VQGAN checkpoint that can be read", "fetch it again"):
        VqganCodec(folder)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"decoder.mid.attn_1.k.bias": None}, "lacks decoder.mid.attn_1.k.bias;"),
        ({"model_ema.decay": torch.zeros(1)}, "has model_ema.decay, which the model hasn't;"),
        ({"lossy.weight": torch.zeros(1)}, "has lossy.weight, which the model hasn't;"),
        ({"quantize.embedding.weight": torch.zeros(16, 6)}, "quantize.embedding.weight is (16, 6), model.yaml says (24, 6);"),
        ({f"a{n}": torch.zeros(1) for n in range(5)}, "has a2, which the model hasn't; and 2 faults more;"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit_are_named(folder, state, change, fault):
    save(folder, {key: value for key, value in (state | change).items() if value is not None})
    with refused(CodecError, f"{folder / 'last.ckpt'}: ", fault, "take model.yaml and last.ckpt of one VQGAN"):
        VqganCodec(folder)


@pytest.mark.parametrize(
    "damage",
    [lambda it: it.fill_(math.nan), lambda it: it.to(torch.int32), lambda it: it.to("meta"), lambda it: it * 1j],
)
def test_weights_that_are_no_finite_numbers_are_refused(folder, state, damage):
    """NaN would give code 0 in every cell, and black pictures, without a word."""
    state = {name: value.clone() for name, value in state.items()}
    state["quantize.embedding.weight"] = damage(state["quantize.embedding.weight"])
    save(folder, state)
    with refused(
        CodecError,
        "last.ckpt: no VQGAN checkpoint that can be read (quantize.embedding.weight holds no finite numbers)",
    ):
        VqganCodec(folder)


# --- pickles that want more than tensors ------------------------------------------------------------------------------


class Calls:
    """Pickled as a call; unpickled, it would make it."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["state_dict", "callbacks", "optimizer_states"])
@pytest.mark.parametrize("function", [open, os.mkdir, exec])
def test_a_pickle_that_runs_code_is_refused(folder, state, tmp_path, zipped, place, function):
    ran = tmp_path / "ran"
    arguments = {open: (str(ran), "w"), os.mkdir: (str(ran),), exec: (f"open({str(ran)!r}, 'w')",)}[function]
    evil = Calls(function, *arguments)
    save(
        folder, state, zipped=zipped, **{place: state | {"quant_conv.bias": evil} if place == "state_dict" else [evil]}
    )
    with refused(
        CodecError,
        "no VQGAN checkpoint",
        f"{function.__name__}, which could run code",
        "save {'state_dict': ...} alone",
    ):
        VqganCodec(folder)
    assert not ran.exists()
    pickle.loads(pickle.dumps(evil))
    assert ran.exists()  # so it would have run


def test_lightnings_own_class_does_nothing_here(folder, state, monkeypatch):
    """Its name alone is known, for as long as the file is read; whatever it is called with, there is no code to run."""
    kind, known = lightning(monkeypatch), torch.serialization.get_safe_globals()
    torch.save({"state_dict": state, "callbacks": [Calls(kind)]}, folder / "last.ckpt")
    VqganCodec(folder)
    torch.save({"state_dict": state, "callbacks": [Calls(kind, "an argument")]}, folder / "last.ckpt")
    with refused(CodecError, "no VQGAN checkpoint that can be read"):
        VqganCodec(folder)
    assert torch.serialization.get_safe_globals() == known


def test_another_class_of_lightnings_is_refused_by_its_name(folder, state, monkeypatch):
    kind = lightning(monkeypatch, "Other")
    torch.save({"state_dict": state, "callbacks": {kind: {}}}, folder / "last.ckpt")
    with refused(CodecError, "pytorch_lightning.callbacks.model_checkpoint.Other", "save {'state_dict': ...} alone"):
        VqganCodec(folder)
