"""The plan: what it says of tokens, drops and shards is what the run then has."""

from __future__ import annotations

import json

import pytest
import torch
from refusals import refused
from torch.autograd.graph import saved_tensors_hooks

from lumo import plan
from lumo.__main__ import main
from lumo.backbone import load_model, skeleton
from lumo.datasets import manifest_of, world
from lumo.params import load_profile
from lumo.shards import Plan, read_shards, write_shards
from lumo.tasks import Mixture, TaskError, build_pools
from lumo.tokenizer import load_tokenizer
from lumo.training import Feed


@pytest.fixture(scope="module", params=[320, 66], ids=["all fit", "some don't"])
def profile(request):
    return load_profile("smoke", {"stage4": {"max_seq_len": request.param}})


@pytest.fixture(scope="module")
def tokenizer(profile):
    return load_tokenizer(profile)


@pytest.fixture(scope="module")
def said(profile):
    return plan.forecast(profile)


@pytest.fixture(scope="module")
def run(profile, tokenizer, tmp_path_factory):
    """Shards of the real run, and their folder."""
    folder = tmp_path_factory.mktemp("run")
    data = profile.data
    write_shards(manifest_of(profile, folder / "world"), folder / "shards", tokenizer,
                 Plan(data.eval_share, data.golden_source, data.samples_per_shard))  # fmt: skip
    return folder


def test_tokens_lengths_and_drops_are_the_runs(profile, tokenizer, said, run):
    params, space = profile.stage4, tokenizer.space
    pools = build_pools(read_shards(run / "shards", "train", space), profile.tasks, space, params.max_seq_len)
    assert said.tasks.keys() == pools.keys()
    for name, pool in pools.items():
        lengths = [len(sequence) for sequence in pool.sequences]
        assert said.tasks[name]["sequences"] == len(lengths) and said.tasks[name]["longest"] == max(lengths)
        assert (said.tasks[name]["dropped"], said.tasks[name]["shortened"]) == (pool.dropped, pool.shortened)
    assert (params.max_seq_len < 70) == any(pool.dropped for pool in pools.values())
    feed = Feed(pools, Mixture(params.rates, params.ramp_steps), params.tokens_per_batch, space, profile.seed)
    batches = [feed.at(step) for step in range(params.steps)]
    assert said.steps["stage4"]["tokens"] == pytest.approx(sum(b.tokens for b in batches) / len(batches))
    assert plan.seconds(said, profile, 1000.0)["stage4"] == pytest.approx(sum(b.tokens for b in batches) / 1000)
    assert said.media == {"image": 32, "audio": 50}


def test_shards_and_the_worlds_files_are_as_large_as_was_said(said, run):
    for part, folder in (("shards", "shards"), ("the world's files", "world")):
        true = sum(file.stat().st_size for file in (run / folder).rglob("*") if file.suffix in (".tar", ".png", ".wav"))
        assert said.disk_bytes[part] == pytest.approx(true, rel=0.15)


def test_activations_are_those_of_a_real_step(profile, tokenizer, said):
    """Fast against slow: the same hooks on the model with its weights, over a real batch of that shape."""
    model = load_model(profile, tokenizer.space)
    model.add_lora(profile.stage4.lora_rank)
    look = said.steps["stage4"]
    rows, length = int(look["rows"]), int(look["row"])
    weights = {p.untyped_storage()._cdata for p in model.parameters()}
    kept = {}

    def keep(tensor):
        if tensor.untyped_storage()._cdata not in weights:
            kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    ids = torch.zeros(rows, length, dtype=torch.long)
    mask = torch.ones(rows, 1, length, length, dtype=torch.bool).tril()
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        model.hidden(ids, torch.arange(length).repeat(rows, 1), mask).sum()
    assert said.memory_bytes["activations"] == pytest.approx(sum(s.nbytes() for s in kept.values()), rel=0.15)


def test_what_is_trained_is_counted_exactly(profile, tokenizer, said):
    model = load_model(profile, tokenizer.space)
    model.add_lora(profile.stage4.lora_rank)
    assert said.memory_bytes["new rows"] == 16 * sum(p.numel() for p in model.row_parameters())
    assert said.memory_bytes["LoRA"] == 16 * sum(p.numel() for p in model.lora_parameters())
    frozen = sum(p.numel() for p in model.base.parameters() if not p.requires_grad)
    assert said.memory_bytes["base"] == 4 * frozen


def test_a_plan_that_cant_fit_is_refused(said, monkeypatch):
    need = sum(said.memory_bytes.values())
    monkeypatch.setattr(plan, "_held", lambda device: 100)
    monkeypatch.setattr(plan, "free_bytes", lambda device: need - 101)
    with refused(plan.PlanError, "plan: needs", "most goes to program", "lower stage4.tokens_per_batch"):
        plan.check(said, "cpu")
    for enough in (need - 100, None):
        monkeypatch.setattr(plan, "free_bytes", lambda device, enough=enough: enough)
        plan.check(said, "cpu")


def test_nothing_is_trained_for_a_plan_that_cant_fit(monkeypatch, capsys):
    monkeypatch.setattr(plan, "free_bytes", lambda device: 0)
    monkeypatch.setattr(plan, "_held", lambda device: 0)
    monkeypatch.setattr(plan, "load_model", lambda *_: pytest.fail("weights were read"))
    assert main(["plan", "--profile", "smoke"]) == 1
    written = capsys.readouterr()
    assert "memory at the peak" in written.out and "\nPlanError: plan: needs" in "\n" + written.err


@pytest.mark.parametrize("length", [192, 512, 100])
def test_a_row_as_long_as_the_model_is_wide_hides_no_activations(profile, length):
    bare = skeleton(profile).model
    near = [plan._activations(bare, 2, around) / around for around in (length - 1, length, length + 1)]
    assert near[1] == pytest.approx((near[0] + near[2]) / 2, rel=0.01)


def test_rows_that_cant_be_used_are_counted(tmp_path):
    made = list(world.rows(40, 40, 0, 0))
    for row in made[:-3]:
        for content in row["modalities"].values():
            (tmp_path / content["path"]).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / content["path"]).touch()
    lines = [json.dumps(row) for row in made] + ["{"]
    (tmp_path / "manifest.jsonl").write_text("\n".join(lines))
    said = plan.forecast(load_profile("smoke", {"data": {"manifest": str(tmp_path / "manifest.jsonl")}}))
    assert said.left_out == 4


def test_data_without_a_task_is_one_line(tmp_path):
    made = world.rows(40, 0, 0, 0)
    (tmp_path / "manifest.jsonl").write_text("\n".join(json.dumps(row) for row in made if "image" in row["modalities"]))
    for row in world.rows(40, 0, 0, 0):
        for content in row["modalities"].values():
            (tmp_path / content["path"]).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / content["path"]).touch()
    with refused(TaskError, "no sequence for a2t", "add such rows to the data, or set the rate to 0"):
        plan.forecast(load_profile("smoke", {"data": {"manifest": str(tmp_path / "manifest.jsonl")}}))
    with refused(TaskError, "no sequence for", "raise max_seq_len, or set the rate to 0"):
        plan.forecast(load_profile("smoke", {"stage4": {"max_seq_len": 20}, "warm_start": {"max_seq_len": 20}}))


def test_a_rate_is_measured(monkeypatch):
    quick = load_profile("smoke", {"world": {"images": 20, "clips": 20, "pairs": 1}})
    said = plan.forecast(quick)
    rate = plan.measured_tokens_per_s(said, quick, steps=2)
    assert rate > 0
    expected = quick.stage4.steps * said.steps["stage4"]["tokens"] / rate
    assert plan.seconds(said, quick, rate)["stage4"] == pytest.approx(expected)


@pytest.mark.parametrize("rate", ["0", "-5", "nan", "inf", "fast"])
def test_a_rate_that_is_none_is_wrong_usage(rate, capsys):
    with pytest.raises(SystemExit) as left:
        main(["plan", "--profile", "smoke", "--rate", rate])
    assert left.value.code == 2 and "--rate" in capsys.readouterr().err
