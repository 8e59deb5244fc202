"""Full tuning: the layers train, the text's rows don't; several processes, each with a part of every layer, give one's figures."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import time
from pathlib import Path

import backbones
import pytest
import runs
import torch
from conftest import make_base
from refusals import check_line, refused
from toys import logits_of
from transformers import AutoModelForCausalLM

from lumo import full, parallel, plan, storage
from lumo.backbone import load_model
from lumo.machine import MachineError
from lumo.model import LumoModel, ModelError
from lumo.params import ParamsError, load_profile
from lumo.tokenizer import load_text_tokenizer, load_tokenizer
from lumo.training import train

FULL = runs.TWICE.model_copy(update={"tune": "full", "backbone_learning_rate": 1e-3})


@pytest.fixture(scope="module")
def unbroken(tokenizer, samples, tmp_path_factory):
    """A run of one process: its folder and the trained model."""
    folder = tmp_path_factory.mktemp("full")
    return folder, runs.run(folder, samples, tokenizer.space, FULL)[0]


def text_rows(model: LumoModel) -> torch.Tensor:
    return torch.cat([model.base.get_input_embeddings().weight, model.base.get_output_embeddings().weight])


def some_ids(space) -> torch.Tensor:
    """Of the text, and new ones."""
    return torch.cat([torch.arange(40), torch.arange(space.text_size, space.size, 9)])


# --- one process ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_every_layer_trains_and_no_row_of_the_text(tokenizer, samples, tmp_path, tied):
    model, before = (LumoModel(make_base(tied), tokenizer.space) for _ in range(2))
    model.train_backbone()
    train(model, runs.make_feed(samples, tokenizer.space, FULL), FULL, tmp_path, 0)
    assert torch.equal(text_rows(model), text_rows(before)) and model.lora_parameters() == []
    # what notebook 04's gates look at
    assert model.text_rows_sha256() == before.text_rows_sha256() and model.base_sha256() != before.base_sha256()
    pairs = zip(model.base.base_model.layers.parameters(), before.base.base_model.layers.parameters(), strict=True)
    assert all(not torch.equal(one, other) for one, other in pairs)
    assert not torch.equal(model.base.base_model.norm.weight, before.base.base_model.norm.weight)
    assert not torch.equal(model.new_rows, before.new_rows)
    loaded = LumoModel(make_base(tied, seed=9), tokenizer.space)
    storage.load(loaded, tmp_path / "final")
    ids = some_ids(tokenizer.space)
    assert torch.equal(logits_of(loaded, ids), logits_of(model, ids))
    assert loaded.text_rows_sha256() == before.text_rows_sha256(), "what is saved has them too"


def test_what_is_left_is_a_standard_model_and_can_be_exported(tokenizer, toy_folder, unbroken, tmp_path):
    folder, model = unbroken
    stock = AutoModelForCausalLM.from_pretrained(folder / "final" / "backbone")
    assert all(torch.equal(value, stock.state_dict()[name]) for name, value in model.base.state_dict().items())
    storage.export(model, tmp_path / "export", load_text_tokenizer(toy_folder / "backbone"))
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "export").eval()
    ids = some_ids(tokenizer.space)
    ours, theirs = logits_of(model, ids), whole(input_ids=ids[None]).logits[0]
    real = torch.isfinite(ours)
    torch.testing.assert_close(ours[real], theirs[real], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cut", [2, 6])
def test_killed_and_resumed_equals_unbroken(tokenizer, samples, unbroken, tmp_path, cut):
    with pytest.raises(runs.Killed):
        runs.run(tmp_path, samples, tokenizer.space, FULL, show=runs.cut_at(cut))
    runs.run(tmp_path, samples, tokenizer.space, FULL)
    runs.assert_same(tmp_path, unbroken[0])


def test_layers_of_a_base_in_half_precision_train_in_single(tokenizer, samples, tmp_path):
    """A step of 1e-5 would be lost in bf16's 8 bits; the products are bf16's all the same."""
    model = LumoModel(make_base().bfloat16(), tokenizer.space)
    before = model.base.base_model.layers[0].mlp.up_proj.weight.detach().clone()
    model.train_backbone()
    small = FULL.model_copy(update={"backbone_learning_rate": 1e-6})
    seen = []
    layer = model.base.base_model.layers[1].mlp.up_proj
    layer.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    train(model, runs.make_feed(samples, tokenizer.space, FULL), small, tmp_path, 0)
    moved = model.base.base_model.layers[0].mlp.up_proj.weight
    assert moved.dtype == torch.float32 and 0 < (moved - before.float()).abs().max() < 1e-5
    assert set(seen) == {torch.bfloat16}
    loaded = LumoModel(make_base().bfloat16(), tokenizer.space)
    storage.load(loaded, tmp_path / "final")
    assert loaded.base.dtype == torch.bfloat16


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox", "opt"])
def test_the_layers_of_other_backbones_are_found(tmp_path, toy_folder, kind):
    base = AutoModelForCausalLM.from_pretrained(backbones.make(tmp_path, toy_folder, *backbones.WORK[kind]))
    full.unfreeze(base)
    layers = full._layers(base)
    assert len(layers) == base.config.num_hidden_layers
    inside = {p for layer in layers for p in layer.parameters()}
    assert all(p.requires_grad for p in inside) and len(inside) > 0.7 * len(full.tuned_parameters(base))


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_full_tuning_wants_a_learning_rate_of_its_own():
    with refused(ParamsError, "stage4", "tune full wants backbone_learning_rate"):
        load_profile("smoke", {"stage4": {"tune": "full"}})


def test_a_model_with_lora_is_not_tuned_fully(tokenizer):
    model = LumoModel(make_base(), tokenizer.space)
    model.add_lora(2)
    with refused(ModelError, "model has LoRA, expected none"):
        model.train_backbone()


def test_a_backbone_too_large_for_the_system_leaves_the_checkpoint_before(tokenizer, samples, unbroken, tmp_path):
    """The rows take 14 kB, the backbone 143."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def show(progress):
        if progress.step == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))

    try:
        with refused(ModelError, "checkpoint_000004: can't be written", "goes on where it stopped"):
            runs.run(tmp_path, samples, tokenizer.space, FULL, show=show)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint_000002", "log.jsonl"]
    runs.run(tmp_path, samples, tokenizer.space, FULL)
    runs.assert_same(tmp_path, unbroken[0])


@pytest.mark.parametrize("damage", ["half", "gone", "other"])
def test_a_damaged_backbone_is_one_line(tokenizer, samples, tmp_path, damage):
    with pytest.raises(runs.Killed):
        runs.run(tmp_path, samples, tokenizer.space, FULL, show=runs.cut_at(3))
    weights = tmp_path / "checkpoint_000002" / "backbone" / "model.safetensors"
    if damage == "half":
        weights.write_bytes(weights.read_bytes()[:20_000])
    elif damage == "gone":
        weights.unlink()
    else:
        config = json.loads(weights.with_name("config.json").read_text()) | {
            "num_hidden_layers": 1,
            "layer_types": None,
        }
        weights.with_name("config.json").write_text(json.dumps(config))
    with refused(ModelError, "checkpoint_000002: checkpoint can't be read", "makes it again"):
        runs.run(tmp_path, samples, tokenizer.space, FULL)


# --- several processes ------------------------------------------------------------------------------------------------


def cut_and_resumed(rank: int, port: int, folder: Path, samples, space) -> None:
    runs.join(rank, port)
    try:
        runs.run(folder, samples, space, FULL, show=runs.cut_at(4))
    except runs.Killed:
        parallel.wait()
    model, _ = runs.run(folder, samples, space, FULL)
    sharded = model.base.base_model.layers[0].mlp.up_proj.weight
    assert sharded.to_local().numel() * 2 == sharded.numel()


def test_two_processes_with_parts_of_each_layer_give_the_single_ones_figures(
    fresh, tokenizer, samples, unbroken, tmp_path
):
    processes = runs.start(fresh, cut_and_resumed, tmp_path, samples, tokenizer.space)
    for process in processes:
        process.join(timeout=240)
    assert [process.exitcode for process in processes] == [0, 0]
    (weights, log), (expected_weights, expected_log) = runs.outcome(tmp_path), runs.outcome(unbroken[0])
    for line, expected in zip(log, expected_log, strict=True):
        assert line["losses"] == pytest.approx(expected["losses"], rel=1e-4, abs=1e-4)
        assert line["gradient_norm"] == pytest.approx(expected["gradient_norm"], rel=1e-3)
    assert weights.keys() == expected_weights.keys()
    for name, value in expected_weights.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-2, atol=2e-3)  # Adam divides by small second moments
    # one process loads what two have left, and has nothing to train
    assert runs.run(tmp_path, samples, tokenizer.space, FULL, show=runs.cut_at(1))[0].backbone_parameters()


def orphaned(rank: int, port: int, folder: Path, samples, space) -> None:
    runs.join(rank, port)
    many = FULL.model_copy(update={"steps": 100_000, "checkpoint_every": 100_000})
    try:
        runs.run(folder, samples, space, many, show=lambda progress: (folder / f"trains_{rank}").touch())
    except MachineError as error:
        (folder / f"said_{rank}").write_text(str(error))


def launch(folder: Path, samples, space) -> None:
    forked = multiprocessing.get_context("fork")  # the launcher, who has no threads, is then their parent
    for process in runs.start(forked, orphaned, folder, samples, space):
        process.join()


def wait_for(files: list[Path]) -> None:
    for _ in range(600):
        if all(file.is_file() and (file.name.startswith("trains") or file.stat().st_size) for file in files):
            return
        time.sleep(0.1)
    raise AssertionError(f"not there: {files}")


def test_processes_whose_launcher_is_killed_end_with_a_checkpoint(fresh, tokenizer, samples, tmp_path):
    launcher = fresh.Process(target=launch, args=(tmp_path, samples, tokenizer.space))
    launcher.start()
    wait_for([tmp_path / f"trains_{rank}" for rank in range(2)])
    os.kill(launcher.pid, signal.SIGKILL)
    said = [tmp_path / f"said_{rank}" for rank in range(2)]
    wait_for(said)
    (checkpoint,) = tmp_path.glob("checkpoint_*")
    for file in said:
        check_line(file.read_text(), "the process that started this one is gone", checkpoint.name, "it goes on there")


# --- counted before ---------------------------------------------------------------------------------------------------


def test_a_step_of_full_tuning_is_counted(tokenizer):
    """Twice the weights forward and four times back, the rows' tables aside."""
    model = LumoModel(make_base(), tokenizer.space)
    model.train_backbone()
    table = model.base.get_input_embeddings().weight.numel()
    layers = sum(p.numel() for p in model.base.base_model.parameters()) - table
    assert model.step_flops_per_token() == 6 * layers


@pytest.mark.parametrize("processes", [1, 2])
def test_the_plan_counts_what_trains(tokenizer, processes):
    tuning = {"tune": "full", "backbone_learning_rate": 1e-4, "steps": 4}
    few = {"images": 40, "clips": 40, "pairs": 0}
    profile = load_profile("smoke", {"stage4": tuning, "processes": processes, "world": few})
    said = plan.forecast(profile)
    model = load_model(profile, load_tokenizer(profile).space)
    model.train_backbone()
    rows, tuned = (sum(p.numel() for p in part) for part in (model.row_parameters(), model.backbone_parameters()))
    frozen = sum(p.numel() for p in model.base.parameters()) - tuned
    # processes on a machine's one memory add up
    memory = {name: size // processes for name, size in said.training_bytes.items()}
    assert memory["base"] == 4 * frozen
    assert memory["layers in fp32 and their gradient"] == 8 * (tuned // processes)
    assert memory["optimiser"] == 8 * (rows + tuned // processes)
    assert (memory["layers gathered, or in half precision"] > 0) == (processes > 1)
    assert said.disk_bytes["warm start and stage 4, when finished"] == 4 * (2 * rows + tuned + frozen)
    assert said.disk_bytes["two checkpoints with the optimiser, while training"] == 8 * (3 * rows + 3 * tuned + frozen)


def test_a_gpu_of_several_holds_its_part_of_what_trains_in_both_stages():
    tuning = {"tune": "full", "backbone_learning_rate": 1e-4, "steps": 4}
    tuning |= {"tokens_per_batch": 4096}  # the warm start is smaller, whoever shares stage 4
    few = {"device": "cuda", "stage4": tuning, "world": {"images": 40, "clips": 40, "pairs": 0}}
    one, four = (plan.forecast(load_profile("smoke", few | {"processes": n})) for n in (1, 4))
    for part in ("layers in fp32 and their gradient", "optimiser"):
        assert four.training_bytes[part] < one.training_bytes[part]
    layers = "layers in fp32 and their gradient"
    assert four.training_bytes[layers] == pytest.approx(one.training_bytes[layers] / 4, rel=0.01)
    assert not plan.can_measure(load_profile("smoke", few | {"processes": 4}))
