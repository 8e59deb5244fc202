"""The plan: what it says of tokens, drops and shards is what the run then has."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from refusals import check_line, refused
from torch.autograd.graph import saved_tensors_hooks
from transformers import DacConfig, DacModel, EncodecConfig, Qwen3Config

from lumo import plan, preview
from lumo.__main__ import main
from lumo.backbone import load_model, skeleton
from lumo.codecs import CodecError, load_audio_codec, load_codecs
from lumo.codecs.sizes import audio_sizes, image_sizes
from lumo.datasets import manifest_of, world
from lumo.footprint import activation_bytes
from lumo.model import ModelError
from lumo.params import MINIATURE, AudioCodec, ImageCodec, load_profile
from lumo.shards import Plan, read_shards, write_shards
from lumo.space import TokenSpace
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
    write_shards(manifest_of(profile, folder / "world"), folder / "shards", tokenizer, Plan.of(profile.data))
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
    assert said.steps["stage4"].tokens == pytest.approx(sum(b.tokens for b in batches) / len(batches))
    assert plan.seconds(said, profile, plan.rates(said, 1000.0))["stage4"] == pytest.approx(
        sum(b.tokens for b in batches) / 1000
    )
    assert said.media == {"image": 32, "audio": 50}


def test_shards_and_the_worlds_files_are_as_large_as_was_said(said, run):
    for part, folder in (("shards", "shards"), ("the world's files", "world")):
        true = sum(file.stat().st_size for file in (run / folder).rglob("*") if file.suffix in (".tar", ".png", ".wav"))
        assert said.disk_bytes[part] == pytest.approx(true, rel=0.15)


def test_activations_are_those_of_a_real_step(profile, tokenizer, said):
    """Fast against slow: the same hooks on the model with its weights, over a real batch of that shape."""
    model = load_model(profile, tokenizer.space)
    model.add_lora(profile.stage4.lora_rank)
    rows, length = said.steps["stage4"].rows, said.steps["stage4"].length
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
    rows, adapters = (sum(p.numel() for p in part) for part in (model.row_parameters(), model.lora_parameters()))
    assert said.memory_bytes["new rows and their gradient"] == 8 * rows
    assert said.memory_bytes["LoRA and its gradient"] == 8 * adapters
    assert said.memory_bytes["optimiser"] == 8 * (rows + adapters)
    assert said.generation_bytes["new rows, LoRA"] == 4 * (rows + adapters)
    frozen = sum(p.numel() for p in model.base.parameters() if not p.requires_grad)
    assert said.memory_bytes["base"] == 4 * frozen


def test_keys_and_values_are_those_of_a_real_cache(profile, tokenizer, said):
    """The most that generation can come to: the longest sequence as a prompt, and a clip."""
    model = load_model(profile, tokenizer.space)
    longest = max(task["longest"] for task in said.tasks.values())
    steps = 50 + max(profile.golden.max_text_tokens, int(longest))
    with torch.no_grad(), model.decoding(steps) as cache:
        ids = torch.zeros(profile.golden.cases, 1, dtype=torch.long)  # fewer than golden.batch_size
        model.hidden(ids, torch.zeros_like(ids), torch.ones(len(ids), 1, 1, 1, dtype=torch.bool), cache)
        held = sum(
            part.untyped_storage().nbytes() for layer in cache.past.layers for part in (layer.keys, layer.values)
        )
    assert said.generation_bytes["cache of keys and values"] == pytest.approx(held, rel=0.01)


def test_the_peak_is_that_of_what_takes_more(said):
    assert said.memory_bytes == said.training_bytes
    longer = replace(said, generation_bytes={"cache of keys and values": 2**50})
    assert longer.memory_bytes == longer.generation_bytes


def test_a_plan_that_cant_fit_is_refused(said, tmp_path):
    need = sum(said.memory_bytes.values())
    with refused(plan.PlanError, "plan: needs", "of memory", "most goes to program", "lower stage4.tokens_per_batch"):
        plan.check(said, need - 1, tmp_path)
    for enough in (need, None):
        plan.check(said, enough, tmp_path)


def test_a_plan_that_the_disk_cant_hold_is_refused(said, tmp_path, monkeypatch):
    need = sum(said.disk_bytes.values())
    usage = type("Usage", (), {"free": need - 1})
    monkeypatch.setattr(plan.shutil, "disk_usage", lambda folder: usage if folder == tmp_path else pytest.fail(folder))
    with refused(plan.PlanError, "plan: needs", f"of disk, 0.0 are free at {tmp_path}", "set LUMO_REPORTS"):
        plan.check(said, None, tmp_path / "not" / "yet")
    usage.free = need
    plan.check(said, None, tmp_path)


def test_a_run_may_take_what_its_watchdog_leaves(profile, monkeypatch):
    monkeypatch.setattr(plan, "held_bytes", lambda device: 100)
    monkeypatch.setattr(plan, "free_bytes", lambda device: 2**30)
    assert plan.budget(profile) == 2**30 + 100 - profile.stage4.memory_floor_mib * 2**20
    monkeypatch.setattr(plan, "free_bytes", lambda device: None)
    assert plan.budget(profile) is None


@pytest.mark.parametrize(("here", "shared", "floor"), [(True, True, 1), (True, False, 0), (False, False, 1)])
def test_a_floor_is_taken_off_what_the_watchdog_looks_at(profile, monkeypatch, here, shared, floor):
    """The system's memory, which a GPU here either shares or doesn't; of one elsewhere that isn't known."""
    monkeypatch.setattr(plan, "planned_device", lambda wanted: "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: here)
    monkeypatch.setattr(plan, "shares_memory", lambda device: shared)
    assert plan.budget(profile, 2**35) == 2**35 - floor * profile.stage4.memory_floor_mib * 2**20


def test_nothing_is_trained_for_a_plan_that_cant_fit(monkeypatch, capsys):
    monkeypatch.setattr(plan, "load_model", lambda *_: pytest.fail("weights were read"))
    assert main(["plan", "--profile", "smoke", "--memory", "0.01"]) == 1
    written = capsys.readouterr()
    assert "memory at the peak" in written.out and "\nPlanError: plan: needs" in "\n" + written.err


# --- before anything is fetched ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def descriptions(tmp_path_factory):
    """The small files alone: configs of the published sizes, and the miniature's tokenizer for Qwen3's."""
    folder = tmp_path_factory.mktemp("descriptions")
    EncodecConfig(target_bandwidths=[2.2], sampling_rate=32000, upsampling_ratios=[8, 5, 4, 4], codebook_size=2048,
                  num_filters=64, norm_type="weight_norm", use_causal_conv=False).save_pretrained(folder / "encodec")  # fmt: skip
    for name, width, inner, layers, heads in (("spark", 4096, 12288, 36, 32), ("gpu24", 2048, 6144, 28, 16)):
        Qwen3Config(vocab_size=151_936, hidden_size=width, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
                    num_key_value_heads=8, head_dim=128, tie_word_embeddings=name != "spark", dtype="bfloat16").save_pretrained(folder / name)  # fmt: skip
        for file in (MINIATURE / "backbone").glob("tokenizer*"):
            shutil.copy(file, folder / name)
    return folder


def arguments(name: str, folder: Path) -> list[str]:
    parts = {"backbone.path": folder / name, "codecs.audio.path": folder / "encodec", "codecs.image.path": folder / "seed2",
             "data.manifest": folder / "manifest.jsonl", "world.images": 40, "world.clips": 40}  # fmt: skip
    return ["plan", "--profile", name, *(word for key, value in parts.items() for word in ("-p", key, str(value)))]


@pytest.mark.skipif(torch.cuda.is_available(), reason="the plan is for a machine without a GPU")
@pytest.mark.parametrize(("name", "gib"), [("spark", "119"), ("gpu24", "24")])
def test_the_big_profiles_are_planned_from_small_files(descriptions, name, gib, capsys):
    assert main([*arguments(name, descriptions), "--memory", gib, "--rate", "1000"]) == 0
    written = capsys.readouterr()
    for line in ("tokens of one image  32", "tokens of one audio  1000", "optimiser", "activations", "logits",
                 "cache of keys and values", "backbone, to be fetched", "seconds a step of stage4", "stage4, minutes"):  # fmt: skip
        assert line in written.out
    for line in ("manifest.jsonl isn't there", "codecs.image has no weights", "codecs.audio has no weights",
                 "backbone has no weights", "no GPU here"):  # fmt: skip
        assert written.err.count(line) == 1
    weights = {"spark": "15.3 GiB", "gpu24": "3.2 GiB"}[name]
    assert f"backbone, to be fetched                             {weights}" in written.out


@pytest.mark.skipif(torch.cuda.is_available(), reason="the plan is for a machine without a GPU")
def test_without_a_rate_time_is_asked_for_and_the_rest_said(descriptions, capsys, monkeypatch):
    monkeypatch.setattr(preview, "ROWS_LOOKED_AT", 100)
    assert main(arguments("gpu24", descriptions)) == 0
    written = capsys.readouterr()
    assert "give --rate" in written.err and "tokens a second" not in written.out
    assert main([*arguments("gpu24", descriptions), "--memory", "8"]) == 1
    check_line(
        capsys.readouterr().err.splitlines()[-1], "PlanError: plan: needs", "7.5 may be taken", "networks of codecs"
    )


def test_a_run_refuses_what_a_plan_is_made_from(descriptions):
    small = load_profile("smoke", {"backbone": {"path": str(descriptions / "gpu24")}})
    with refused(ModelError, "gpu24: no causal language model that can be read"):
        load_model(
            small, TokenSpace(151_936, {}, {"codebooks": 1, "cardinality": 8}, {"codebooks": 1, "cardinality": 8})
        )
    audio = {"name": "encodec", "path": str(descriptions / "encodec"), "bandwidth_kbps": 2.2, "clip_s": 5.0}
    with refused(CodecError, "encodec: no EnCodec that can be read", "fetch"):
        load_codecs(load_profile("smoke", {"codecs": {"audio": audio}}).codecs)


@pytest.mark.parametrize("kind", ["encodec", "dac"])
def test_sizes_without_weights_are_those_with_them(kind, toy_folder, tmp_path):
    audio = {"name": kind, "path": str(tmp_path), "clip_s": 1.3}
    if kind == "encodec":
        shutil.copytree(toy_folder / "encodec", tmp_path, dirs_exist_ok=True)
        audio["bandwidth_kbps"] = 0.4
    else:
        config = DacConfig(
            encoder_hidden_size=4, decoder_hidden_size=16, downsampling_ratios=[2, 4], upsampling_ratios=[4, 2]
        )
        DacModel(config).save_pretrained(tmp_path)
        audio["codebooks"] = 3
    params = AudioCodec(**audio)
    with_weights = load_audio_codec(params)
    (tmp_path / "model.safetensors").unlink()
    without = audio_sizes(params)
    for size in ("name", "codebooks", "cardinalities", "frames"):
        assert getattr(without, size) == getattr(with_weights, size)


@pytest.mark.parametrize(
    ("params", "kind", "words"),
    [
        ({"name": "encodec", "bandwidth_kbps": 24.0}, CodecError, ("no bandwidth of 24 kbit/s",)),
        ({"name": "dac", "codebooks": 2}, CodecError, ("config.json says model_type encodec, expected dac",)),
        (
            {"name": "spectral", "bandwidth_kbps": 0.35},
            CodecError,
            ("codecs.audio", "holds no weights", "make them first"),
        ),
    ],
)
def test_sizes_that_cant_be_known_are_one_line(descriptions, params, kind, words):
    with refused(kind, *words):
        audio_sizes(AudioCodec(**params, path=str(descriptions / "encodec"), clip_s=1.0))


def test_only_seed2_has_sizes_without_a_config(tmp_path):
    assert image_sizes(ImageCodec(name="seed2", path=str(tmp_path))).codebooks == 1
    with refused(CodecError, "codecs.image", "holds no weights", "twotone", "make them first"):
        image_sizes(ImageCodec(name="twotone", path=str(tmp_path)))


# --- what can't be planned --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [192, 512, 100])
def test_a_row_as_long_as_the_model_is_wide_hides_no_activations(profile, length):
    bare = skeleton(profile)
    near = [activation_bytes(bare.model, 2, around) / around for around in (length - 1, length, length + 1)]
    assert near[1] == pytest.approx((near[0] + near[2]) / 2, rel=0.01)


def test_rows_that_cant_be_used_are_counted(tmp_path):
    made = list(world.rows(seed=0, images=40, clips=40))
    for row in made[:-3]:
        for content in row["modalities"].values():
            (tmp_path / content["path"]).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / content["path"]).touch()
    made[0]["task"] = "x2y"
    lines = [json.dumps(row) for row in made] + ["{"]
    (tmp_path / "manifest.jsonl").write_text("\n".join(lines))
    said = plan.forecast(load_profile("smoke", {"data": {"manifest": str(tmp_path / "manifest.jsonl")}}))
    assert said.left_out == 5  # and so for shards, see test_shards


def test_data_without_a_task_is_one_line(tmp_path):
    made = world.rows(seed=0, images=40)
    (tmp_path / "manifest.jsonl").write_text("\n".join(json.dumps(row) for row in made if "image" in row["modalities"]))
    for row in world.rows(seed=0, images=40):
        for content in row["modalities"].values():
            (tmp_path / content["path"]).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / content["path"]).touch()
    with refused(TaskError, "no sequence for a2t", "add such rows to the data, or set the rate to 0"):
        plan.forecast(load_profile("smoke", {"data": {"manifest": str(tmp_path / "manifest.jsonl")}}))
    with refused(TaskError, "no sequence for", "raise max_seq_len, or set the rate to 0"):
        plan.forecast(load_profile("smoke", {"stage4": {"max_seq_len": 20}, "warm_start": {"max_seq_len": 20}}))


def test_a_rate_is_measured(monkeypatch):
    small = {"tokens_per_batch": 320}
    quick = load_profile(
        "smoke", {"world": {"images": 20, "clips": 20, "pairs": 1}, "warm_start": small, "stage4": small}
    )
    said = plan.forecast(quick)
    rates = plan.measured_tokens_per_s(said, quick, steps=2)
    for stage in ("warm_start", "stage4"):
        expected = getattr(quick, stage).steps * said.steps[stage].tokens / rates[stage]
        assert rates[stage] > 0 and plan.seconds(said, quick, rates)[stage] == pytest.approx(expected)


def test_a_given_rate_is_stage_4s_and_the_warm_starts_follows(profile, tokenizer, said):
    model = load_model(profile, tokenizer.space)
    before = model.step_flops_per_token()
    model.add_lora(profile.stage4.lora_rank)
    rates = plan.rates(said, 1000.0)
    assert rates["stage4"] == 1000.0
    assert rates["warm_start"] == pytest.approx(1000.0 * model.step_flops_per_token() / before)


@pytest.mark.parametrize("rate", ["0", "-5", "nan", "inf", "fast"])
def test_a_rate_that_is_none_is_wrong_usage(rate, capsys):
    with pytest.raises(SystemExit) as left:
        main(["plan", "--profile", "smoke", "--rate", rate])
    assert left.value.code == 2 and "--rate" in capsys.readouterr().err
