"""The model: new rows beside a frozen base are the same as resized embeddings, and go to disk and back whole."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace

import pytest
import torch
from conftest import make_base
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import PeftModel
from torch.nn import functional as F
from toys import logits_of, make_samples, with_lora
from transformers import AutoModelForCausalLM, AutoTokenizer

from lumo import storage
from lumo.audit import text_logits
from lumo.backbone import load_base
from lumo.batches import IGNORE, Batch, pack
from lumo.model import LumoModel, ModelError
from lumo.space import SpaceError, TokenSpace
from lumo.storage import whole_folder
from lumo.tasks import TASKS

SENTENCES = ["a small red circle", "we hear C4 from a flute: two notes", "7"]


@pytest.fixture
def batch(tokenizer) -> Batch:
    samples = make_samples(tokenizer, images=2, clips=2)
    pairs = [(task, s) for task in TASKS.values() for s in samples if task.fits(s)]
    sequences = [task.sequence(s.ids, tokenizer.space) for task, s in pairs]
    return pack(sequences, tokenizer.space.control("<|pad_mm|>"), [list(TASKS).index(task.name) for task, _ in pairs])


def a_line(space: TokenSpace, rows: int, length: int = 40) -> torch.Tensor:
    """Random ids, of all that exist."""
    ids = torch.randint(0, rows + space.new_rows, (length,), generator=torch.Generator().manual_seed(0))
    return torch.where(ids < rows, ids, ids - rows + space.text_size)


def resized(model: LumoModel) -> torch.nn.Module:
    """The naive way: a copy of the base with resized embeddings and the new rows copied in."""
    plain = copy.deepcopy(model.base)
    plain.resize_token_embeddings(model.space.size, mean_resizing=False)
    first = model.space.text_size
    with torch.no_grad():
        plain.get_input_embeddings().weight[first:] = model.new_rows
        if not model.tied:
            plain.get_output_embeddings().weight[first:] = model.new_head_rows
    return plain.requires_grad_(True)


@pytest.mark.parametrize("gap", [0, 32])
@pytest.mark.parametrize("tied", [True, False])
def test_losses_and_gradients_are_those_of_resized_embeddings(tokenizer, batch, tied, gap):
    space = replace(tokenizer.space, text_size=tokenizer.space.text_size + gap)
    rows = tokenizer.space.text_size
    model = LumoModel(make_base(tied).double(), space)
    assert model.new_rows.dtype == torch.float32

    def shifted(ids):
        return torch.where(ids >= rows, ids + gap, ids)

    batch = replace(batch, input_ids=shifted(batch.input_ids), labels=shifted(batch.labels))
    naive = resized(model)
    logits = naive(
        input_ids=batch.input_ids, position_ids=batch.position_ids, attention_mask=batch.attention_mask()
    ).logits
    logits = logits.index_fill(-1, torch.arange(rows, rows + gap), float("-inf"))  # ids that don't exist
    naive_losses = F.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten(), ignore_index=IGNORE, reduction="none"
    )
    naive_losses = naive_losses[batch.labels[:, 1:].flatten() != IGNORE]
    total, losses, groups = model.loss(batch, lambda groups: torch.full(groups.shape, 1 / len(groups)))
    assert total.item() == pytest.approx(losses.mean().item())
    torch.testing.assert_close(losses.double(), naive_losses, rtol=0, atol=1e-5)
    assert groups.tolist() == batch.groups[:, 1:][batch.labels[:, 1:] != IGNORE].tolist()

    total.backward()
    naive_losses.mean().backward()
    grown = naive.get_input_embeddings().weight.grad[space.text_size :]
    torch.testing.assert_close(model.new_rows.grad.double(), grown, rtol=1e-4, atol=1e-7)
    if not tied:
        grown = naive.get_output_embeddings().weight.grad[space.text_size :]
        torch.testing.assert_close(model.new_head_rows.grad.double(), grown, rtol=1e-4, atol=1e-7)


def test_what_trains_is_the_rows_and_then_lora(model):
    def trained():
        return {name for name, value in model.named_parameters() if value.requires_grad}

    rows = {"new_rows"} if model.tied else {"new_rows", "new_head_rows"}
    assert trained() == rows
    assert model.new_rows.shape == (model.space.new_rows, 32)
    assert model.new_rows.dtype == torch.float32
    assert model.lora_parameters() == []
    model.add_lora(2)
    assert {name for name in trained() if "lora_" not in name} == rows
    assert len(model.lora_parameters()) == len(trained() - rows) == 2 * 7 * 2  # A and B, 7 projections, 2 layers
    with pytest.raises(ModelError, match="has LoRA already"):
        model.add_lora(2)


def test_training_with_weight_decay_leaves_base_and_text_logits_bit_identical(model, batch, tokenizer):
    before, rows, logits = (
        model.base_sha256(),
        model.new_rows.detach().clone(),
        text_logits(model, tokenizer, SENTENCES),
    )
    # the harshest try: every parameter goes to the optimiser, with decay
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(3):
        model.loss(batch, torch.ones_like)[0].backward()
        optimiser.step()
        optimiser.zero_grad()
    assert model.base_sha256() == before
    assert not torch.equal(model.new_rows, rows)
    for now, then in zip(text_logits(model, tokenizer, SENTENCES), logits, strict=True):
        assert torch.equal(now, then)
    model.add_lora(2)
    assert model.base_sha256() == before, "the hash must look through peft's names"
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    model.loss(batch, torch.ones_like)[0].backward()
    optimiser.step()
    assert model.base_sha256() == before


@pytest.mark.parametrize(
    "name", ["model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight", "model.norm.weight"]
)
@pytest.mark.parametrize("lora", [False, True])
def test_base_hash_sees_one_changed_bit(tokenizer, name, lora):
    model = LumoModel(make_base(), tokenizer.space)
    weight = model.base.get_parameter(name)
    if lora:
        model.add_lora(2)
    before = model.base_sha256()
    weight.data.view(torch.int32).view(-1)[-1] ^= 1
    assert model.base_sha256() != before


@pytest.mark.parametrize("lora", [False, True])
def test_hash_of_text_rows_sees_one_changed_bit_of_either_table_and_nothing_else(model, lora):
    before = model.text_rows_sha256()
    if lora:
        with_lora(model)
    with torch.no_grad():
        model.new_rows += 1
        model.base.get_parameter(f"{'base_model.model.' if lora else ''}model.norm.weight").add_(1)
    assert model.text_rows_sha256() == before
    for table in (model.base.get_input_embeddings(), model.base.get_output_embeddings()):
        last = table.weight.data.view(torch.int32).view(-1)[-1]
        last ^= 1
        assert model.text_rows_sha256() != before
        last ^= 1
    assert model.text_rows_sha256() == before


def test_fresh_rows_differ_from_each_other_and_follow_the_seed(tokenizer):
    one, same, other = (LumoModel(make_base(False), tokenizer.space, seed) for seed in (0, 0, 1))
    assert torch.equal(one.new_rows, same.new_rows)
    assert not torch.equal(one.new_rows, other.new_rows)
    assert not torch.equal(one.new_rows, one.new_head_rows)
    assert len(one.new_rows.unique(dim=0)) == tokenizer.space.new_rows
    spread = make_base().get_input_embeddings().weight.std()
    assert 0.5 < one.new_rows.std() / spread < 2


# --- ids that don't exist ---------------------------------------------------------------------------------------------


def test_gap_ids_are_never_predicted(tokenizer):
    space = replace(tokenizer.space, text_size=800)
    model = LumoModel(make_base(), space)
    logits = logits_of(model, a_line(space, 768))
    assert logits.shape == (40, space.size)
    assert torch.isneginf(logits[:, 768:800]).all()
    assert torch.isfinite(logits[:, :768]).all()
    assert torch.isfinite(logits[:, 800:]).all()
    head = model.head_rows(torch.tensor([0, 767, 800, space.size - 1]))
    assert torch.equal(head[2:], model.new_rows[[0, -1]])


def test_a_backbone_larger_than_the_space_is_refused(tokenizer):
    with pytest.raises(
        ModelError, match=r"backbone has 768 embedding rows, the token space leaves 700 .*01_token_space"
    ):
        LumoModel(make_base(), replace(tokenizer.space, text_size=700))


@torch.no_grad()
def test_head_rows_are_rows_of_the_head(model):
    ids = torch.tensor([0, 5, 767, 768, model.space.size - 1, 3])
    line = a_line(model.space, 768)
    steps = torch.arange(len(line))
    hidden = model.hidden(line[None], steps[None], (steps[:, None] >= steps)[None, None])[0]
    torch.testing.assert_close(hidden @ model.head_rows(ids).T, model.logits(hidden)[:, ids])


# --- to disk and back -------------------------------------------------------------------------------------------------


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
    ids = torch.from_numpy(tokenizer.encode_text(SENTENCES[0]))[None]
    text_rows = logits_of(model, ids[0])[:, :768]
    torch.testing.assert_close(plain(input_ids=ids).logits[0], text_rows, rtol=0, atol=1e-5)
    assert not torch.allclose(make_base(model.tied)(ids).logits[0], text_rows, atol=1e-3), "this LoRA does nothing"
