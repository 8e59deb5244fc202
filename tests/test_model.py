"""The model: new rows beside a frozen base are the same as resized embeddings."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from conftest import make_base
from torch.nn import functional as F
from toys import a_line, logits_of, make_samples, with_lora

from lumo.audit import text_logits
from lumo.batches import IGNORE, Batch, pack
from lumo.model import LumoModel, ModelError
from lumo.tasks import TASKS

SENTENCES = ["a small red circle", "we hear C4 from a flute: two notes", "7"]


@pytest.fixture
def batch(tokenizer) -> Batch:
    samples = make_samples(tokenizer, images=2, clips=2)
    pairs = [(task, s) for task in TASKS.values() for s in samples if task.fits(s)]
    sequences = [task.sequence(s.ids, tokenizer.space) for task, s in pairs]
    return pack(sequences, tokenizer.space.control("<|pad_mm|>"), [list(TASKS).index(task.name) for task, _ in pairs])


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
