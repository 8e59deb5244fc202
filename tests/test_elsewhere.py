"""The training step on a device of its own: nothing meets across devices, and what waits for it stands where it has no work yet."""

from __future__ import annotations

import pytest
import torch
from elsewhere import DEVICE, Elsewhere
from toys import with_lora

from lumo.batches import pack
from lumo.bench.training import base_of, stage3_mix
from lumo.model import LumoModel
from lumo.space import TokenSpace
from lumo.training import task_weights

SPACE = TokenSpace(1000, {}, {"codebooks": 1, "cardinality": 16}, {"codebooks": 4, "cardinality": 8})
TRUNK = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
         "num_key_value_heads": 1, "head_dim": 8, "tie_word_embeddings": False}  # fmt: skip


@pytest.fixture
def model(monkeypatch) -> LumoModel:
    monkeypatch.setattr(LumoModel, "skips", True)
    return with_lora(LumoModel(base_of(TRUNK, SPACE.text_size), SPACE))


@pytest.fixture
def batch():
    return pack(stage3_mix(SPACE, 2, 0), SPACE.control("<|pad_mm|>"), [0, 0, 1, 1])


def step(model: LumoModel, batch) -> tuple[torch.Tensor, list[torch.Tensor]]:
    loss, _, _ = model.loss(batch, lambda groups: task_weights(groups, 2))
    return loss, torch.autograd.grad(loss, model.trained_parameters())


def test_a_step_gives_the_same_loss_there(model, batch):
    loss, _ = step(model, batch)
    with Elsewhere():
        found, _ = step(model.to(DEVICE), batch)
        assert torch.equal(found.cpu(), loss)


def test_from_the_first_layer_on_nothing_waits(model, batch):
    with Elsewhere() as there:
        model.to(DEVICE)
        there.order.clear()
        step(model, batch)
    waits = [n for n, name in enumerate(there.order) if name == "wait"]
    products = [n for n, name in enumerate(there.order) if name.startswith(("aten.mm", "aten.addmm", "aten.bmm"))]
    assert waits and max(waits) < min(products)


def test_tensors_of_both_devices_are_found():
    with Elsewhere(), pytest.raises(AssertionError, match="both devices"):
        torch.ones(2).to(DEVICE) + torch.ones(2)
