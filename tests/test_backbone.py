"""Backbones: of Qwen3's sizes the published shapes, of other kinds the stock model's own logits."""

from __future__ import annotations

import shutil

import pytest
import torch
from backbones import REDUCED, WORK, make, profile_of
from peft import PeftModel
from refusals import refused
from test_generation import prompts_of
from toys import logits_of, make_samples, with_lora
from transformers import AutoModelForCausalLM, GenerationConfig, Qwen3Config

from lumo import backbone, storage
from lumo.backbone import check_logits, load_base, load_model, skeleton
from lumo.batches import pack
from lumo.bench.generation import Stock
from lumo.generation import generate
from lumo.model import LumoModel
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
