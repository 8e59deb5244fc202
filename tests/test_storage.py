"""A model to disk and back: whole or refused in one line, and loaded by others without lumo."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch
from conftest import make_base
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import PeftModel
from toys import a_line, logits_of, with_lora
from transformers import AutoModelForCausalLM, AutoTokenizer

from lumo import storage
from lumo.backbone import load_base
from lumo.model import LumoModel, ModelError
from lumo.space import SpaceError, TokenSpace
from lumo.storage import whole_folder


@pytest.mark.parametrize("lora", [False, True])
@torch.no_grad()
def test_save_and_load_round_trip(model, tmp_path, lora):
    if lora:
        with_lora(model)
    line, base = a_line(model.space, 768), model.base_sha256()
    before = logits_of(model, line)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")  # transformers about peft
        storage.save(model, tmp_path / "there")
        fresh = LumoModel(make_base(model.tied), model.space, seed=5)
        storage.load(fresh, tmp_path / "there")
    expected = {"trainable_rows.safetensors", "trainable_rows.json", "token_space.json"} | (
        {"adapter"} if lora else set()
    )
    assert {path.name for path in (tmp_path / "there").iterdir()} == expected
    assert [path.name for path in tmp_path.iterdir()] == ["there"], "something half-written stayed"
    assert torch.equal(logits_of(fresh, line), before)
    assert fresh.base_sha256() == base
    assert len(fresh.lora_parameters()) == len(model.lora_parameters())
    # once more, over LoRA that is there already: the parameters stay the optimiser's
    if lora:
        other = LumoModel(make_base(model.tied), model.space, seed=6)
        other.add_lora(2, seed=9)
        held = other.lora_parameters()
        storage.load(other, tmp_path / "there")
        assert torch.equal(logits_of(other, line), before)
        assert [id(p) for p in other.lora_parameters()] == [id(p) for p in held]
        assert other.base_sha256() == base


@torch.no_grad()
def test_lora_is_added_after_the_rows_of_a_warm_start_are_loaded(model, tmp_path):
    storage.save(model, tmp_path / "warm")
    line, before = a_line(model.space, 768), logits_of(model, a_line(model.space, 768))
    for first in ("load", "add"):
        stage4 = LumoModel(make_base(model.tied), model.space, seed=3)
        if first == "load":
            storage.load(stage4, tmp_path / "warm")
            stage4.add_lora(2)
        else:
            stage4.add_lora(2)
            storage.load(stage4, tmp_path / "warm")
        assert torch.equal(logits_of(stage4, line), before)  # fresh LoRA changes nothing
        assert len(stage4.lora_parameters()) == 28


def one_line(error) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture(scope="module")
def saved(tokenizer, tmp_path_factory):
    """A checkpoint with LoRA of a tied model."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoint"
    storage.save(with_lora(LumoModel(make_base(), tokenizer.space)), folder)
    return folder


@pytest.mark.parametrize(
    "name", ["trainable_rows.safetensors", "adapter/adapter_model.safetensors", "adapter/adapter_config.json"]
)
@given(share=st.floats(0, 0.999))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_truncated_files_are_refused_in_one_line(tokenizer, saved, name, share):
    path = saved / name
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(ModelError) as caught:
            storage.load(LumoModel(make_base(), tokenizer.space), saved)
    finally:
        path.write_bytes(whole)
    message = one_line(caught)
    assert str(saved) in message
    assert "makes it again" in message


def test_another_token_space_is_refused_by_the_field_that_differs(tokenizer, saved):
    other = replace(tokenizer.space, audio=tokenizer.space.audio | {"bandwidth_kbps": 6.0})
    with pytest.raises(SpaceError, match=r"field 'audio.bandwidth_kbps' is 0.4, expected 6.0") as caught:
        storage.load(LumoModel(make_base(), other), saved)
    assert str(saved) in one_line(caught)


def test_missing_and_unfitting_checkpoints_are_refused_in_one_line(tokenizer, saved, tmp_path):
    with pytest.raises(ModelError, match="no checkpoint there; run the notebook that makes it") as caught:
        storage.load(LumoModel(make_base(), tokenizer.space), tmp_path / "nowhere")
    one_line(caught)
    with pytest.raises(ModelError, match=r"tensors \['new_rows'\], expected \['new_head_rows', 'new_rows'\]") as caught:
        storage.load(LumoModel(make_base(False), tokenizer.space), saved)
    one_line(caught)
    wider = LumoModel(make_base(), tokenizer.space)
    wider.add_lora(4)
    with pytest.raises(ModelError, match="size mismatch") as caught:
        storage.load(wider, saved)
    one_line(caught)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SpaceError, match=r"token_space\.json: missing"):
        storage.load(LumoModel(make_base(), tokenizer.space), tmp_path / "empty")


def test_a_backbone_that_cannot_be_read_is_refused_in_one_line(toy_folder, tmp_path):
    assert load_base(toy_folder / "backbone").config.vocab_size == 768
    with pytest.raises(ModelError, match="no causal language model that can be read") as caught:
        load_base(tmp_path)
    one_line(caught)
    (tmp_path / "config.json").write_bytes((toy_folder / "backbone" / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes((toy_folder / "backbone" / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(ModelError, match="no causal language model that can be read") as caught:
        load_base(tmp_path)
    one_line(caught)


def test_a_folder_that_cannot_be_written_leaves_what_was_there(model, tmp_path, monkeypatch):
    storage.save(model, tmp_path / "there")
    before = {path.name: path.read_bytes() for path in (tmp_path / "there").iterdir()}

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lumo.storage.write_atomically", full)
    with torch.no_grad():
        model.new_rows += 1
    with pytest.raises(ModelError, match=r"there: can't be written \(.*No space left.*free some space") as caught:
        storage.save(model, tmp_path / "there")
    one_line(caught)
    assert {path.name: path.read_bytes() for path in (tmp_path / "there").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_whole_folder_replaces_what_was_there(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "old").touch()
    (tmp_path / ".there.partial").mkdir()  # of a run that was killed
    (tmp_path / ".there.partial" / "half").touch()
    with whole_folder(tmp_path / "there") as folder:
        (folder / "new").touch()
        assert (tmp_path / "there" / "old").exists()
    assert [path.name for path in tmp_path.rglob("*")] == ["there", "new"]


# --- for others -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("gap", [0, 32])
@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_export_loads_without_lumo_and_gives_the_same_logits(tokenizer, tmp_path, tied, gap, lora):
    space = replace(tokenizer.space, text_size=768 + gap)
    model = LumoModel(make_base(tied), space)
    if lora:
        with_lora(model)
    line, base = a_line(space, 768), model.base_sha256()
    before = logits_of(model, line)
    storage.export(model, tmp_path / "out", tokenizer.text)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out", local_files_only=True, use_safetensors=True).eval()
    assert plain.config.vocab_size == space.size
    assert plain.config.tie_word_embeddings == tied
    exists = torch.isfinite(before[0])
    assert int(exists.sum()) == space.size - gap
    torch.testing.assert_close(plain(line[None]).logits[0][:, exists], before[:, exists], rtol=0, atol=1e-5)
    assert len(AutoTokenizer.from_pretrained(tmp_path / "out")) == len(tokenizer.text)
    assert TokenSpace.load(tmp_path / "out").sha256 == space.sha256
    # and the model goes on as if nothing had been
    assert torch.equal(logits_of(model, line), before)
    assert model.base_sha256() == base
    assert len(model.lora_parameters()) == (28 if lora else 0)


@torch.no_grad()
def test_adapter_loads_in_plain_peft(model, tokenizer, tmp_path):
    storage.save(with_lora(model), tmp_path / "there")
    plain = PeftModel.from_pretrained(make_base(model.tied), str(tmp_path / "there" / "adapter")).eval()
    ids = torch.from_numpy(tokenizer.encode_text("a small red circle"))[None]
    text_rows = logits_of(model, ids[0])[:, :768]
    torch.testing.assert_close(plain(input_ids=ids).logits[0], text_rows, rtol=0, atol=1e-5)
    assert not torch.allclose(make_base(model.tied)(ids).logits[0], text_rows, atol=1e-3), "this LoRA does nothing"
