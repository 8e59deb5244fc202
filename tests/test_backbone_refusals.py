"""Backbones that lumo wouldn't compute as transformers does, or that are damaged: one line, before hours are spent."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from backbones import GPT2, REDUCED, ROWS, TINY, WORK, make, profile_of
from refusals import refused
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Qwen3Config

from lumo.backbone import check_logits, load_base, load_model, skeleton
from lumo.codecs import CodecError
from lumo.lora import LoraError
from lumo.model import LumoModel, ModelError
from lumo.tokenizer import make_space


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        ("gemma3_text", TINY | {"head_dim": 8, "sliding_window": 512}, ["its embedding is a Gemma3TextScaledWordEmbedding"]),
        ("gemma2", TINY | {"head_dim": 8, "sliding_window": 512}, ["config.json: final_logit_softcapping is 30.0"]),
        ("granite", TINY | {"logits_scaling": 4.0}, ["config.json: logits_scaling is 4.0"]),
        ("cohere", TINY, ["config.json: logit_scale is 0.0625"]),
        ("phi", TINY, ["PhiForCausalLM", "differ from transformers' own", "its head has a bias"]),
        ("gptj", GPT2 | {"rotary_dim": 4}, ["GPTJForCausalLM", "differ from transformers' own"]),
        ("bert", TINY, ["BertLMHeadModel", "packed into one row", "differ from transformers' own"]),
        ("mamba", ROWS | {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}, ["MambaForCausalLM can't be run"]),
        ("bloom", ROWS | {"hidden_size": 32, "n_layer": 2, "n_head": 4}, ["BloomForCausalLM can't be run"]),
        ("mistral", TINY | {"sliding_window": 319}, ["sliding_window of the backbone is 319", "up to 320 tokens"]),
        ("gpt2", GPT2 | {"n_positions": 64}, ["max_position_embeddings of the backbone is 64"]),
    ],
)  # fmt: skip
def test_another_kind_is_refused_with_the_reason(tmp_path, toy_folder, codecs, kind, values, words):
    folder = make(tmp_path, toy_folder, kind, values)
    space = make_space(folder, codecs)
    with refused(ModelError, str(folder), *words, "another backbone"):
        load_model(profile_of(folder), space)


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        ({"model_type": "t5"}, ModelError, ["is_encoder_decoder is True", "expected a decoder alone"]),
        ({"model_type": "vit"}, ModelError, ["model_type is 'vit'", "expected a causal language model"]),
        (TINY | {"model_type": "qwen3", "quantization_config": {"quant_method": "fp8"}}, ModelError, ["quantization_config is"]),
        ({"model_type": "qwen9"}, CodecError, ["no model config that can be read"]),
        ({}, CodecError, ["no model config that can be read"]),
        (TINY | {"model_type": "qwen3", "hidden_size": "wide"}, CodecError, ["no model config that can be read", "hidden_size"]),
        ({"model_type": "own", "auto_map": {"AutoConfig": "code.Config"}}, CodecError, ["no model config", "contains custom code"]),
    ],
)  # fmt: skip
def test_a_config_is_refused_before_weights_are_read(tmp_path, monkeypatch, space, content, error, words):
    (tmp_path / "config.json").write_text(json.dumps(content))
    (tmp_path / "code.py").write_text("import pathlib\npathlib.Path('ran').touch()")
    monkeypatch.chdir(tmp_path)
    for read in (skeleton, lambda profile: load_model(profile, space)):
        with refused(error, f"{tmp_path / 'config.json'}: ", *words):
            read(profile_of(tmp_path))
    assert not Path("ran").exists()


def test_generation_doesnt_go_beyond_the_backbones_reach(model):
    with model.decoding(512):
        pass
    reason = "generation: max_position_embeddings of the backbone is 512, got sequences of up to 513"
    with refused(ModelError, reason), model.decoding(513):
        pass


def test_layers_that_take_no_lora_are_refused(tokenizer):
    bare = AutoModelForCausalLM.from_config(Qwen3Config(**REDUCED | {"num_hidden_layers": 0}))
    with refused(LoraError, "backbone Qwen3ForCausalLM takes no LoRA", "expected linear layers"):
        LumoModel(bare, tokenizer.space).add_lora(2)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_a_pickle_runs_no_code(tmp_path, toy_folder, name):
    folder = make(tmp_path / "backbone", toy_folder, *WORK["qwen3"])
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps({"lm_head.weight": Bomb(str(tmp_path / "ran"))}))
    with refused(ModelError, f"{folder}: no causal language model that can be read", "safetensors"):
        load_base(folder)
    assert not (tmp_path / "ran").exists()


def test_a_foreign_checkpoint_is_refused_by_a_tensor(tmp_path, toy_folder):
    """transformers would fill what is missing with random numbers, and warn."""
    folder = make(tmp_path / "backbone", toy_folder, *WORK["qwen3"])
    path = folder / "model.safetensors"
    whole = load_file(path)
    norm, wide = "model.layers.1.self_attn.q_norm.weight", "model.embed_tokens.weight"
    for tensors, words in (
        ({name: value for name, value in whole.items() if name != norm}, f"1 tensors missing, such as '{norm}'"),
        (
            whole | {"model.layers.2.mlp.up_proj.weight": whole[norm].clone()},
            "1 tensors unexpected, such as 'model.layers.2",
        ),
        (whole | {wide: whole[wide][:500].clone()}, "no causal language model that can be read"),
    ):
        save_file(tensors, path, metadata={"format": "pt"})
        with refused(ModelError, str(folder), words):
            load_base(folder)
    # Qwen3-0.6B and 1.7B are tied, and have the head in their files all the same
    save_file(whole | {"lm_head.weight": whole[wide].clone()}, path, metadata={"format": "pt"})
    base = load_base(folder)
    assert base.get_output_embeddings().weight is base.get_input_embeddings().weight


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"vocab_size": 598}, "config.json: vocab_size is 598, the tokenizer beside it gives ids up to 598"),
        ({"eos_token_id": [0, 5]}, "config.json: eos_token_id is 5, the tokenizer beside it has no special token"),
        ({"bos_token_id": 700}, "config.json: bos_token_id is 700, the tokenizer beside it has no special token"),
    ],
)
def test_a_tokenizer_that_isnt_the_backbones_is_refused(tmp_path, toy_folder, codecs, values, words):
    shutil.copytree(toy_folder / "backbone", tmp_path, dirs_exist_ok=True)
    Qwen3Config(**REDUCED | values).save_pretrained(tmp_path)
    with refused(CodecError, str(tmp_path), words, "take the tokenizer and the weights of one model"):
        make_space(tmp_path, codecs)


@torch.no_grad()
def test_weights_that_are_no_numbers_are_refused(model):
    model.base.get_input_embeddings().weight[0, 0] = float("nan")
    with refused(ModelError, "here: logits of Qwen3ForCausalLM", "differ from transformers' own by nan"):
        check_logits(model, "here")


@pytest.mark.parametrize("way", ["packed into one row", "read token by token"])
def test_the_comparison_sees_either_way(model, monkeypatch, way):
    """One position too far, in one of the two."""
    hidden = LumoModel.hidden

    def wrong(self, ids, positions, mask, cache=None):
        if (cache is None) == (way == "packed into one row"):
            positions = positions + (positions == 4)
        return hidden(self, ids, positions, mask, cache)

    check_logits(model, "here")
    monkeypatch.setattr(LumoModel, "hidden", wrong)
    with refused(ModelError, f"with lines {way} differ"):
        check_logits(model, "here")
