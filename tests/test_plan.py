"""The plan: what it says of tokens, drops and shards is what the run then has."""

from __future__ import annotations

import pytest
import torch
from refusals import refused
from torch.autograd.graph import saved_tensors_hooks

from lumo import plan
from lumo.datasets import manifest_of
from lumo.model import load_model
from lumo.params import load_profile
from lumo.shards import Plan, read_shards, write_shards
from lumo.tasks import Mixture, build_pools
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
    return plan.forecast(profile, rate=1000.0)


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
    assert said.seconds["stage4"] == pytest.approx(sum(b.tokens for b in batches) / 1000)
    assert said.media == {"image": 32, "audio": 50}


def test_shards_and_the_worlds_files_are_as_large_as_was_said(said, run):
    for part, folder in (("shards", "shards"), ("the world's files", "world")):
        true = sum(file.stat().st_size for file in (run / folder).rglob("*") if file.suffix in (".tar", ".png", ".wav"))
        assert said.disk[part] == pytest.approx(true, rel=0.15)


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
    assert said.memory["activations"] == pytest.approx(sum(s.nbytes() for s in kept.values()), rel=0.15)


def test_what_is_trained_is_counted_exactly(profile, tokenizer, said):
    model = load_model(profile, tokenizer.space)
    model.add_lora(profile.stage4.lora_rank)
    assert said.memory["new rows"] == 16 * sum(p.numel() for p in model.row_parameters())
    assert said.memory["LoRA"] == 16 * sum(p.numel() for p in model.lora_parameters())
    frozen = sum(p.numel() for p in model.base.parameters() if not p.requires_grad)
    assert said.memory["base"] == 4 * frozen


def test_a_plan_that_cant_fit_is_refused(said, monkeypatch):
    monkeypatch.setattr(plan, "free_bytes", lambda device: said.peak_bytes - 1)
    with refused(plan.PlanError, "plan: needs", "most goes to program", "lower tokens_per_batch"):
        plan.check(said, "cpu")
    for enough in (said.peak_bytes, None):
        monkeypatch.setattr(plan, "free_bytes", lambda device, enough=enough: enough)
        plan.check(said, "cpu")


def test_a_rate_is_measured_where_none_is_given():
    quick = load_profile("smoke", {"world": {"images": 20, "clips": 20, "pairs": 1}})
    measured = plan.forecast(quick)
    assert measured.rate > 0 and measured.seconds["stage4"] == pytest.approx(
        quick.stage4.steps * measured.steps["stage4"]["tokens"] / measured.rate
    )
    assert plan.forecast(quick, measure=False).seconds == {}
