"""Tasks: one declaration gives sequence, prompt and grammar, and the three agree."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toys import make_samples

from lumo.params import TaskName
from lumo.shards import Sample
from lumo.space import CONTROL
from lumo.tasks import TASKS, Mixture, build_pools

# SPEC, section 3, word for word; ia2t is made alike
SPEC = {
    "a2t": "<|aud_start|> AUD <|aud_end|> <|gen_text|> <|text_start|> TEXT <|text_end|>",
    "i2t": "<|img_start|> IMG <|img_end|> <|gen_text|> <|text_start|> TEXT <|text_end|>",
    "t2a": "<|text_start|> TEXT <|text_end|> <|gen_aud|> <|aud_start|> AUD <|aud_end|>",
    "t2i": "<|text_start|> TEXT <|text_end|> <|gen_img|> <|img_start|> IMG <|img_end|>",
    "ia2t": "<|img_start|> IMG <|img_end|> <|aud_start|> AUD <|aud_end|> <|gen_text|> <|text_start|> TEXT <|text_end|>",
}
MODALITY = {"AUD": "audio", "IMG": "image", "TEXT": "text"}
SHARED_FIXTURES = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def samples(tokenizer) -> list[Sample]:
    return make_samples(tokenizer, images=3, clips=3, pairs=2)


def a_sample(samples, name) -> Sample:
    return next(sample for sample in samples if TASKS[name].fits(sample))


@pytest.mark.parametrize("name", SPEC)
def test_sequence_is_the_specs(samples, space, name):
    sample = a_sample(samples, name)
    expected, flags = [], []
    words = SPEC[name].split()
    for place, word in enumerate(words):
        part = [space.control(word)] if word in CONTROL else sample.ids[MODALITY[word]].tolist()
        expected += part
        flags += [place >= len(words) - 2] * len(part)  # the last content and its end token
    sequence = TASKS[name].sequence(sample.ids, space)
    assert sequence.ids.tolist() == expected
    assert sequence.is_target.tolist() == flags


@pytest.mark.parametrize("name", SPEC)
def test_prompt_is_a_prefix_the_rest_is_target_and_fits_the_grammar(samples, tokenizer, name):
    task, space = TASKS[name], tokenizer.space
    grammar = task.grammar(tokenizer, max_text_tokens=64)
    for sample in filter(task.fits, samples):
        sequence = task.sequence(sample.ids, space)
        prompt = task.prompt({modality: sample.ids[modality] for modality in task.inputs}, space)
        assert sequence.ids[: len(prompt)].tolist() == prompt.tolist()
        assert not sequence.is_target[: len(prompt)].any()
        assert sequence.is_target[len(prompt) :].all()
        assert grammar.accepts(sequence.ids[len(prompt) :])


@given(text=st.text(min_size=1, max_size=60) | st.sampled_from(CONTROL) | st.just("a <|img_start|><|endoftext|> cat"))
@SHARED_FIXTURES
def test_text_of_people_stays_text(tokenizer, samples, text):
    sample = a_sample(samples, "t2i")
    ids = tokenizer.encode_text(text)
    sequence = TASKS["t2i"].sequence(sample.ids | {"text": ids}, tokenizer.space)
    words = [name for name in SPEC["t2i"].split() if name in CONTROL]
    blocks = tokenizer.space.block_index(sequence.ids)
    control = sequence.ids[blocks == 1]
    assert control.tolist() == [tokenizer.space.control(word) for word in words]
    assert (blocks[1 : 1 + len(ids)] == 0).all()
    assert not set(ids.tolist()) & set(tokenizer.text.all_special_ids)
    assert tokenizer.decode_text(ids) == text


def test_a_sample_with_picture_and_sound_is_for_the_task_that_reads_both(samples, space):
    both = [sample for sample in samples if {"image", "audio"} <= sample.modalities]
    assert len(both) == 2
    assert [name for sample in both for name, task in TASKS.items() if task.fits(sample)] == ["ia2t", "ia2t"]
    pools = build_pools(samples, list(TASKS), space, max_seq_len=10_000)
    assert {name: len(pool.sequences) for name, pool in pools.items()} == dict.fromkeys(TASKS, 3) | {"ia2t": 2}


def test_every_name_of_a_task_can_stand_in_a_profile():
    assert set(get_args(TaskName)) == TASKS.keys()
    assert {name: task.media for name, task in TASKS.items()} == {
        "a2t": ("audio",), "i2t": ("image",), "t2a": ("audio",), "t2i": ("image",), "ia2t": ("image", "audio")}  # fmt: skip


# --- what doesn't fit -------------------------------------------------------------------------------------------------


def at_length(sample: Sample, length: int) -> Sample:
    """The sample with a caption of this many tokens."""
    return replace(sample, ids=sample.ids | {"text": np.resize(sample.ids["text"], length)})


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=8),
    limit=st.integers(60, 140),
    name=st.sampled_from([*TASKS]),
)
@SHARED_FIXTURES
def test_overlong_sequences_are_dropped_whole_and_counted(samples, space, lengths, limit, name):
    given_samples = [at_length(a_sample(samples, name), length) for length in lengths]
    whole = [TASKS[name].sequence(sample.ids, space) for sample in given_samples]
    pool = build_pools(given_samples, [name], space, limit)[name]
    kept = [line for line in whole if len(line) <= limit]
    assert [line.ids.tolist() for line in pool.sequences] == [line.ids.tolist() for line in kept]
    assert (pool.dropped, pool.shortened) == (len(whole) - len(kept), 0)


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=8),
    limit=st.integers(60, 140),
    name=st.sampled_from([*TASKS]),
)
@SHARED_FIXTURES
def test_shortening_touches_input_text_alone(samples, space, lengths, limit, name):
    given_samples = [at_length(a_sample(samples, name), length) for length in lengths]
    pool = build_pools(given_samples, [name], space, limit, shorten_inputs=True)[name]
    assert len(pool.sequences) + pool.dropped == len(lengths)
    whole = [TASKS[name].sequence(sample.ids, space) for sample in given_samples]
    fixed = [len(line) - length for line, length in zip(whole, lengths, strict=True)]
    if TASKS[name].target == "text":  # a target is never cut
        assert pool.shortened == 0
        assert pool.dropped == sum(len(line) > limit for line in whole)
        return
    fitting = [i for i in range(len(lengths)) if fixed[i] < limit]  # at least one token of text stays
    assert pool.dropped == len(lengths) - len(fitting)
    assert pool.shortened == sum(len(whole[i]) > limit for i in fitting)
    for i, line in zip(fitting, pool.sequences, strict=True):
        assert line.ids[line.is_target].tolist() == whole[i].ids[whole[i].is_target].tolist()
        assert len(line) == min(limit, len(whole[i]))
        text = line.ids[1 : 1 + len(line) - fixed[i]]
        assert text.tolist() == given_samples[i].ids["text"][: len(text)].tolist()


def test_building_pools_leaves_the_samples_alone(samples, space):
    before = json.dumps([{name: line.tolist() for name, line in sample.ids.items()} for sample in samples])
    build_pools(samples, list(TASKS), space, max_seq_len=80, shorten_inputs=True)
    assert json.dumps([{name: line.tolist() for name, line in sample.ids.items()} for sample in samples]) == before


# --- mixtures ---------------------------------------------------------------------------------------------------------

RATES = st.dictionaries(st.sampled_from([*TASKS]), st.floats(0.01, 1), min_size=1)


@given(rates=RATES, ramp=st.integers(0, 50), step=st.integers(0, 200))
def test_shares_add_up_and_nothing_is_written_before_the_ramp(rates, ramp, step):
    reading = [name for name in rates if TASKS[name].target == "text"]
    mixture = Mixture(rates, ramp)
    if not reading and ramp and step <= ramp:
        with pytest.raises(ValueError, match=f"nothing to draw at step {step} .* give a text task a rate"):
            mixture.at(step)
        return
    shares = mixture.at(step)
    assert shares.keys() == rates.keys()
    assert sum(shares.values()) == pytest.approx(1)
    assert all(share >= 0 for share in shares.values())
    if ramp and step <= ramp:
        assert all(shares[name] == 0 for name in rates.keys() - set(reading))
    if not ramp or step >= 2 * ramp:
        total = sum(rates.values())
        assert shares == pytest.approx({name: rate / total for name, rate in rates.items()})


@given(ramp=st.integers(1, 50), step=st.integers(0, 120))
def test_writing_grows_step_by_step(ramp, step):
    mixture = Mixture({"a2t": 0.4, "t2a": 0.6}, ramp)
    assert mixture.at(step)["t2a"] <= mixture.at(step + 1)["t2a"] + 1e-12
