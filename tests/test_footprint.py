"""What codecs and several processes add to a plan's memory, and how far a backbone must reach."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from refusals import refused
from torch import nn
from toys import make_samples
from transformers import DacConfig, EncodecConfig

from lumo import full as full_tuning
from lumo import plan, reach
from lumo.codecs import memory
from lumo.codecs.memory import audio_memory, image_memory, peak_bytes
from lumo.generation import generate
from lumo.media import Audio
from lumo.model import ModelError
from lumo.params import AudioCodec, ImageCodec, deep_merge, load_profile
from lumo.tasks import TASKS

QUICK = {"world": {"images": 20, "clips": 20, "pairs": 1}}


def test_the_peak_is_what_lives_at_once():
    """Layer by layer: a layer's input may go when its output is there, and weights don't count."""
    model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(5)))
    given = torch.zeros(1000, 64)
    assert peak_bytes(model, lambda: model(given)) == pytest.approx(2 * given.nbytes, rel=0.05)


def test_a_codecs_memory_without_values_is_that_with_them(toy_folder, codecs):
    """Fast against slow: the same count on the codec with its weights, over a real batch."""
    params = AudioCodec(name="encodec", path=str(toy_folder / "encodec"), bandwidth_kbps=0.4, clip_s=1.0)
    said, codec = audio_memory(params), codecs.audio
    clips = [Audio(np.zeros((1, 16000), np.float32), 16000)] * 8
    codes = codec.encode(clips)
    assert 8 * said.encoding_bytes == pytest.approx(peak_bytes(codec.model, lambda: codec.encode(clips)), rel=0.35)
    assert 8 * said.decoding_bytes == pytest.approx(peak_bytes(codec.model, lambda: codec.decode(codes)), rel=0.35)
    assert said.weights_bytes == pytest.approx(sum(p.nbytes for p in codec.model.parameters()), rel=0.05)


@pytest.mark.parametrize(
    ("params", "numbers"),
    [
        ({"name": "encodec", "bandwidth_kbps": 2.2}, EncodecConfig(target_bandwidths=[2.2], sampling_rate=32000, upsampling_ratios=[8, 5, 4, 4], codebook_size=2048, num_filters=64, use_causal_conv=False)),
        ({"name": "dac", "codebooks": 9}, DacConfig()),
    ],
)  # fmt: skip
def test_a_published_codec_takes_some_tensors_of_full_rate(params, numbers, tmp_path):
    """Four or five of the widest at the clip's own rate, 64 channels, in fp32; as many times more as a clip is longer."""
    numbers.save_pretrained(tmp_path)
    one, four = (audio_memory(AudioCodec(path=str(tmp_path), clip_s=s, **params)) for s in (1.0, 4.0))
    widest = 64 * numbers.sampling_rate * 4
    assert 3 * widest < one.encoding_bytes < 6 * widest
    assert (
        four.encoding_bytes == pytest.approx(4 * one.encoding_bytes, rel=0.01)
        and four.weights_bytes == one.weights_bytes
    )


def test_seed2_and_its_unclip_take_what_their_numbers_do():
    need = image_memory(ImageCodec(name="seed2", path="nowhere"), "cpu")
    assert need.weights_bytes + need.late_bytes == pytest.approx(11.4 * 2**30, rel=0.02)
    assert image_memory(ImageCodec(), "cpu") == memory.Memory()


def test_each_process_holds_a_base_and_the_notebook_one_more():
    one, two = (plan.forecast(load_profile("smoke", QUICK | {"processes": n})) for n in (1, 2))
    for part in ("base", "new rows and their gradient", "optimiser"):
        assert two.training_bytes[part] == 2 * one.training_bytes[part]
    assert two.training_bytes["notebook beside the processes"] > one.training_bytes["base"]
    assert two.training_bytes["activations"] == pytest.approx(one.training_bytes["activations"], rel=0.3)


def test_each_process_that_makes_shards_holds_codecs_and_no_more_start_than_there_are_shards():
    several = {"engine": "processes", "samples_per_shard": 10}
    one, four, few, local = (
        plan.forecast(load_profile("smoke", QUICK | {"data": data})).coding_bytes
        for data in (several | {"workers": 1}, several | {"workers": 4}, several | {"workers": 9, "samples_per_shard": 9999}, {})
    )  # fmt: skip
    part, near = "processes that make shards", partial(pytest.approx, rel=0.1)  # this process grows a little meanwhile
    assert one[part] == near(one["program, codecs, data"] + one["networks of codecs"]) and part not in local
    assert four[part] == near(4 * one[part]) and few[part] == near(3 * one[part])  # train, eval and golden


def test_full_tuning_counts_the_copies_of_a_checkpoint_once():
    """Weights and two moments, whole, in the first of several processes; a single one on a CPU writes its own tensors."""
    full = deep_merge(QUICK, {"stage4": {"tune": "full", "backbone_learning_rate": 1.0e-5}})
    one, two = (plan.forecast(load_profile("smoke", full | {"processes": n})).training_bytes for n in (1, 2))
    assert "copies for a checkpoint" not in one
    assert two["copies for a checkpoint"] == 3 * one["layers in fp32 and their gradient"] // 2


def test_a_single_process_copies_nothing():
    model = nn.Linear(8, 8)
    mine = {value.data_ptr() for value in model.parameters()}
    assert {value.data_ptr() for value in full_tuning.gathered(model).values()} == mine


@pytest.mark.parametrize("name", list(TASKS))
def test_reach_is_what_generation_asks_for(name, model, tokenizer, monkeypatch):
    rooms, decoding = [], type(model).decoding
    monkeypatch.setattr(type(model), "decoding", lambda self, room: rooms.append(room) or decoding(self, room))
    held = [sample for sample in make_samples(tokenizer, 4, 4, pairs=4) if TASKS[name].fits(sample)]
    prompts = [TASKS[name].prompt(sample.ids, tokenizer.space) for sample in held]
    generate(model, prompts, TASKS[name].grammar(tokenizer, 60))
    assert reach.longest(name, tokenizer, held, 60) == max(rooms)
    assert reach.longest(name, tokenizer, [], 60) <= max(rooms)


def test_a_backbone_that_doesnt_reach_is_refused_by_the_plan(tokenizer):
    far = load_profile("smoke", deep_merge(QUICK, {"golden": {"max_text_tokens": 1000}}))
    for check in (lambda: plan.forecast(far), lambda: reach.check(far, tokenizer)):
        with refused(ModelError, "golden and ablation: max_position_embeddings", "1024", "golden.max_text_tokens"):
            check()
