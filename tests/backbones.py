"""Backbones of all kinds that work, small and with random weights."""

from __future__ import annotations

import shutil

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lumo.params import load_profile

# 768 rows, of which the tokenizer uses 599; heads as wide in all as Qwen3-0.6B's are to its hidden size
ROWS = {"vocab_size": 768, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": None, "initializer_range": 0.2}
TINY = ROWS | {"hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
               "num_key_value_heads": 2, "max_position_embeddings": 512}  # fmt: skip
GPT2 = ROWS | {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}
REDUCED = TINY | {"hidden_size": 64, "head_dim": 32, "intermediate_size": 192}
WORK = {
    "qwen3": ("qwen3", REDUCED | {"tie_word_embeddings": True}),
    "qwen3 untied": ("qwen3", REDUCED),
    "qwen2": ("qwen2", TINY | {"tie_word_embeddings": True}),
    "llama": ("llama", TINY | {"attention_bias": True}),
    "smollm3": ("smollm3", TINY | {"no_rope_layers": [1, 0]}),
    "mistral": ("mistral", TINY | {"sliding_window": 512}),
    "mixtral": ("mixtral", TINY | {"num_local_experts": 4}),
    "phi3": ("phi3", TINY),
    "olmo2": ("olmo2", TINY),
    "gpt2": ("gpt2", GPT2),
    "gpt_neox": ("gpt_neox", TINY),
    "opt": ("opt", TINY | {"ffn_dim": 96, "word_embed_proj_dim": 32}),
    "starcoder2": ("starcoder2", TINY),
    "qwen3_moe": ("qwen3_moe", TINY | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}),
    "granite": ("granite", TINY | {"embedding_multiplier": 3.0, "logits_scaling": 1.0}),
}


def make(folder, toy_folder, kind, values, dtype=torch.float32):
    """A model folder with random weights, biases too, and the toys' tokenizer."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **values)).to(dtype)
    with torch.no_grad():
        for name, value in base.named_parameters():
            if "bias" in name:
                value.normal_(0, 0.3)
    base.save_pretrained(folder)
    for path in (toy_folder / "backbone").glob("*token*"):
        shutil.copy(path, folder)
    return folder


def profile_of(folder, **more):
    return load_profile("smoke", {"backbone": {"path": str(folder)}, "device": "cpu"} | more)
