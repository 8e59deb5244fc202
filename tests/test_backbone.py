"""Backbones: of Qwen3's sizes the published shapes, of other kinds the stock model's own logits, or a refusal before hours are spent."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from refusals import refused
from safetensors.torch import load_file, save_file
from test_generation import prompts_of
from toys import logits_of, make_samples, with_lora
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, Qwen3Config

from lumo import backbone, storage
from lumo.backbone import check_logits, load_base, load_model, skeleton
from lumo.batches import pack
from lumo.bench.generation import Stock
from lumo.codecs import CodecError
from lumo.generation import generate
from lumo.lora import LoraError
from lumo.model import LumoModel, ModelError
from lumo.params import load_profile
from lumo.plan import PlanError, check, forecast
from lumo.tasks import TASKS
from lumo.tokenizer import UnifiedTokenizer, load_text_tokenizer, make_space
from lumo.training import task_weights

# config.json of the published checkpoints; base and chat differ in max_position_embeddings and eos_token_id alone
QWEN3 = {"vocab_size": 151936, "head_dim": 128, "num_key_value_heads": 8, "max_position_embeddings": 32768,
         "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "eos_token_id": 0}  # fmt: skip
# hidden size, intermediate size, layers, heads, tied; parameters; in billions, of the model card: all, and without embeddings
PUBLISHED = {
    "0.6B": (1024, 3072, 28, 16, True, 596_049_920, 0.6, 0.44),
    "1.7B": (2048, 6144, 28, 16, True, 1_720_574_976, 1.7, 1.4),
    "4B": (2560, 9728, 36, 32, True, 4_022_468_096, 4.0, 3.6),
    "8B": (4096, 12288, 36, 32, False, 8_190_735_360, 8.2, 6.95),
}

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


def tokenizer_of(folder, codecs) -> UnifiedTokenizer:
    return UnifiedTokenizer(make_space(folder, codecs), load_text_tokenizer(folder), codecs)


def train_a_step(model: LumoModel, tokenizer: UnifiedTokenizer) -> None:
    sample = make_samples(tokenizer, images=1, clips=1)[0]
    task = next(task for task in TASKS.values() if task.fits(sample))
    batch = pack([task.sequence(sample.ids, tokenizer.space)], tokenizer.space.control("<|pad_mm|>"))
    optimiser = torch.optim.AdamW([*model.row_parameters(), *model.lora_parameters()], lr=0.01, weight_decay=0.1)
    model.loss(batch, lambda groups: task_weights(groups, 1))[0].backward()
    assert all(p.grad.abs().sum() > 0 for p in optimiser.param_groups[0]["params"])
    optimiser.step()


# --- Qwen3 at its published sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("size", PUBLISHED)
def test_published_sizes_have_the_published_numbers(tmp_path, monkeypatch, size, device):
    hidden, inner, layers, heads, tied, parameters, all_b, body_b = PUBLISHED[size]
    Qwen3Config(**QWEN3, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers,
                num_attention_heads=heads, tie_word_embeddings=tied, dtype="bfloat16").save_pretrained(tmp_path)  # fmt: skip
    monkeypatch.setattr(backbone, "planned_device", lambda _: device)
    profile = profile_of(tmp_path)
    bare, rank = skeleton(profile), profile.stage4.lora_rank
    assert bare.base_bytes == parameters * (4 if device == "cpu" else 2)
    assert round(parameters / 1e9, 1) == all_b
    assert (parameters - bare.tables * 151936 * hidden) / 1e9 == pytest.approx(body_b, abs=0.05)
    assert (bare.width, bare.tables) == (hidden, 1 if tied else 2)
    q, kv = heads * 128, 8 * 128
    thin = [(hidden, q), (hidden, kv), (hidden, kv), (q, hidden), (hidden, inner), (hidden, inner), (inner, hidden)]
    assert bare.adapters == layers * rank * sum(a + b for a, b in thin)
    assert bare.model.get_input_embeddings().weight.shape == (151936, hidden)


def test_the_plan_of_8b_counts_its_weights(tmp_path, toy_folder):
    shutil.copytree(toy_folder / "backbone", tmp_path, dirs_exist_ok=True)
    hidden, inner, layers, heads, tied, parameters, *_ = PUBLISHED["8B"]
    Qwen3Config(**QWEN3, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers,
                num_attention_heads=heads, tie_word_embeddings=tied).save_pretrained(tmp_path)  # fmt: skip
    said = forecast(profile_of(tmp_path, world={"images": 20, "clips": 20, "pairs": 0}))
    assert said.memory_bytes["base"] == 4 * parameters
    with refused(PlanError, "plan: needs 6", "GiB of memory", "16.0 may be taken", "take a smaller backbone"):
        check(said, 16 * 2**30, tmp_path)


def test_a_plan_of_experts_is_refused(tmp_path, toy_folder):
    folder = make(tmp_path, toy_folder, *WORK["qwen3_moe"])
    with refused(PlanError, "activations of Qwen3MoeModel can't be counted", "run without a plan"):
        forecast(profile_of(folder, world={"images": 20, "clips": 20, "pairs": 0}))


# --- what works, as the stock model ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", WORK)
def test_trained_saved_exported_it_is_the_stock_model(tmp_path, toy_folder, codecs, kind):
    folder = make(tmp_path / "backbone", toy_folder, *WORK[kind])
    tokenizer = tokenizer_of(folder, codecs)
    model = load_model(profile_of(folder), tokenizer.space)
    assert len(tokenizer.text) < 768 == tokenizer.space.text_size
    before = model.base_sha256()
    train_a_step(with_lora(model), tokenizer)
    assert model.base_sha256() == before
    assert {p.dtype for p in model.row_parameters()} == {torch.float32}
    line = torch.arange(3, tokenizer.space.size, 19)
    with torch.no_grad():
        ours = logits_of(model, line)
        storage.save(model, tmp_path / "saved")
        again = load_model(profile_of(folder), tokenizer.space)
        storage.load(again, tmp_path / "saved")
        assert torch.equal(logits_of(again, line), ours)

        storage.export(model, tmp_path / "export", tokenizer.text)
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "export", local_files_only=True).eval()
        assert plain.config.vocab_size == tokenizer.space.size
        torch.testing.assert_close(plain(line[None]).logits[0], ours, rtol=0, atol=2e-5 * ours.std().item())

        text = line[line < 768]
        adapted = PeftModel.from_pretrained(load_base(folder), str(tmp_path / "saved" / "adapter")).eval()
        expected = logits_of(model, text)[:, :768]
        torch.testing.assert_close(
            adapted(input_ids=text[None]).logits[0], expected, rtol=0, atol=2e-5 * ours.std().item()
        )

    for task in ("t2i", "i2t"):
        grammar, prompts = TASKS[task].grammar(tokenizer, max_text_tokens=6), prompts_of(task, tokenizer)
        answers = [answer.tolist() for answer in generate(model, prompts, grammar)]
        stock = Stock.__new__(Stock)
        stock.model, stock.pad = plain, tokenizer.space.control("<|pad_mm|>")
        assert answers == stock(prompts, grammar)


@pytest.mark.parametrize("kind", WORK)
def test_with_attention_by_segment_it_is_the_stock_model_too(tmp_path, toy_folder, codecs, monkeypatch, kind):
    """What a GPU does in place of masks."""
    folder = make(tmp_path / "backbone", toy_folder, *WORK[kind])
    tokenizer = tokenizer_of(folder, codecs)
    model = LumoModel(load_base(folder, torch.float32), tokenizer.space)
    assert model._trunk._supports_attention_backend
    monkeypatch.setattr(LumoModel, "skips", True)
    check_logits(model, "here")
    train_a_step(with_lora(model), tokenizer)


@pytest.mark.parametrize("kind", ["qwen3", "qwen3 untied", "llama", "gpt2", "qwen3_moe"])
def test_in_bf16_within_its_rounding(tmp_path, toy_folder, codecs, kind):
    folder = make(tmp_path / "backbone", toy_folder, *WORK[kind], dtype=torch.bfloat16)
    tokenizer = tokenizer_of(folder, codecs)
    model = LumoModel(load_base(folder), tokenizer.space)
    check_logits(model, "here")
    before = model.base_sha256()
    train_a_step(with_lora(model), tokenizer)
    assert model.base_sha256() == before
    assert {p.dtype for p in [*model.row_parameters(), *model.lora_parameters()]} == {torch.float32}
    line = torch.arange(3, tokenizer.space.size, 19)
    with torch.no_grad():
        ours = logits_of(model, line)
        storage.save(model, tmp_path / "saved")
        again = LumoModel(load_base(folder), tokenizer.space)
        storage.load(again, tmp_path / "saved")
        assert torch.equal(logits_of(again, line), ours)
        storage.export(model, tmp_path / "export", tokenizer.text)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "export", local_files_only=True).eval()
    assert plain.dtype == torch.bfloat16
    text = line[line < 768]
    adapted = PeftModel.from_pretrained(load_base(folder), str(tmp_path / "saved" / "adapter")).eval()
    assert adapted.base_model.model.dtype == torch.bfloat16
    with torch.no_grad():
        expected = logits_of(model, text)[:, :768]
        assert gap(plain(line[None]).logits[0], ours) < 0.05
        assert gap(adapted(input_ids=text[None]).logits[0], expected) < 0.05
        assert gap(load_base(folder)(text[None]).logits[0], expected) > 0.2, "this LoRA does nothing"


def gap(logits: torch.Tensor, expected: torch.Tensor) -> float:
    """Their difference, as a share of how far they spread."""
    return ((logits.float() - expected).std() / expected.std()).item()


CHAT = "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"


def test_base_and_chat_read_and_write_the_same_sequences(tmp_path, toy_folder, codecs):
    """lumo marks where a text begins and ends with tokens of its own, so what a checkpoint ends with, or a chat's template, isn't used."""
    made = {}
    for name, end in (("base", "<|endoftext|>"), ("chat", "<|im_end|>")):
        folder = make(tmp_path / name, toy_folder, *WORK["qwen3"])
        text = load_text_tokenizer(folder)
        text.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
        text.add_tokens(["<think>"])
        text.eos_token, text.chat_template = end, CHAT if name == "chat" else None
        text.save_pretrained(folder)
        eos = text.convert_tokens_to_ids(end)
        Qwen3Config(**REDUCED | {"tie_word_embeddings": True, "eos_token_id": eos}).save_pretrained(folder)
        GenerationConfig(eos_token_id=eos).save_pretrained(folder)
        made[name] = (tokenizer_of(folder, codecs), load_model(profile_of(folder), tokenizer_of(folder, codecs).space))
    (base, of_base), (chat, of_chat) = made["base"], made["chat"]
    assert base.space.sha256 == chat.space.sha256
    caption = "a <|im_end|> b<|endoftext|><think>"
    ids = base.encode_text(caption)
    assert ids.tolist() == chat.encode_text(caption).tolist() and base.decode_text(ids) == caption
    special = set(base.text.convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]))
    assert not special & set(ids.tolist()) and not special & set(base.text_ids.tolist())
    assert base.text_ids.tolist() == chat.text_ids.tolist()
    prompts, grammar = prompts_of("i2t", base), TASKS["i2t"].grammar(base, 6)
    answers = [[answer.tolist() for answer in generate(model, prompts, grammar)] for model in (of_base, of_chat)]
    assert answers[0] == answers[1]
    storage.export(of_chat, tmp_path / "out", chat.text)
    there = GenerationConfig.from_pretrained(tmp_path / "out")
    assert there.eos_token_id == chat.text.convert_tokens_to_ids("<|im_end|>")


def test_special_tokens_that_the_tokenizers_config_forgot_are_special(tmp_path, toy_folder, codecs):
    """Llama 3's vocabulary marks 256 of them, its config names two."""
    folder = make(tmp_path, toy_folder, *WORK["llama"])
    text = load_text_tokenizer(folder)
    text.backend_tokenizer.add_special_tokens(["<|reserved_7|>"])
    text.save_pretrained(folder)
    tokenizer = tokenizer_of(folder, codecs)
    (token,) = tokenizer.text.convert_tokens_to_ids(["<|reserved_7|>"])
    assert token == 599 and token not in tokenizer.text_ids


# --- what is refused ------------------------------------------------------------------------------------------------------


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
