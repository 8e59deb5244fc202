"""Generation: valid for any logits, and equal to the slow way that has no cache, no padding and no batch."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toys import logits_of, make_samples, with_lora
from transformers import AutoModelForCausalLM

from lumo import storage
from lumo.generation import Grammar, Sampling, generate, media_grammar, text_grammar
from lumo.model import LumoModel
from lumo.space import Block
from lumo.tasks import TASKS

# beartype looks at a random item of each container, also while hypothesis draws
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")
SHARED_FIXTURES = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


def prompts_of(name: str, tokenizer, count: int = 3) -> list[np.ndarray]:
    """Prompts of different lengths."""
    task = TASKS[name]
    samples = [s for s in make_samples(tokenizer, images=8, clips=8, pairs=8) if task.fits(s)]
    prompts = [task.prompt(s.ids, tokenizer.space) for s in samples]
    if task.target == "text":  # pictures and clips are all of one length: cut some, which no grammar minds
        prompts = [prompt[5 * i :] for i, prompt in enumerate(prompts)]
    prompts = list({len(prompt): prompt for prompt in prompts}.values())[:count]
    assert len(prompts) == count
    return prompts


@torch.no_grad()
def slow(model: LumoModel, prompt: np.ndarray, grammar: Grammar) -> list[int]:
    """Greedy, one prompt, everything computed anew at each step from the full logits."""
    ids = list(prompt)
    for step in range(grammar.steps):
        logits = logits_of(model, torch.tensor(ids))[-1]
        masked = torch.full_like(logits, float("-inf"))
        masked[grammar.at(step)] = logits[grammar.at(step)]
        ids.append(int(masked.argmax()))
        if ids[-1] == grammar.end:
            break
    return ids[len(prompt) : -1]


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("name", TASKS)
def test_greedy_equals_the_slow_loop(model, tokenizer, name, lora):
    if lora:
        with_lora(model)
    grammar = TASKS[name].grammar(tokenizer, max_text_tokens=16)
    prompts = prompts_of(name, tokenizer)
    answers = generate(model, prompts, grammar)
    assert [answer.tolist() for answer in answers] == [slow(model, prompt, grammar) for prompt in prompts]
    assert len({tuple(answer) for answer in answers}) > 1 or not lora, "all answers alike: a weak test"


def test_answers_that_end_at_different_steps_equal_the_slow_loop(model, tokenizer):
    """Few codes, and large rows: the end token is often the best."""
    with_lora(model)
    end = tokenizer.space.control("<|aud_end|>")
    blocks = [Block("audio0", tokenizer.space.block("audio0").start, 2), tokenizer.space.block("audio1")]
    grammar = media_grammar(blocks, end, min_frames=1, max_frames=8)
    head = model.new_rows if model.new_head_rows is None else model.new_head_rows
    with torch.no_grad():
        head.normal_(std=1.0, generator=torch.Generator().manual_seed(0))
    prompts = [np.arange(3 + i, 8 + 3 * i) for i in range(12)]
    answers = [answer.tolist() for answer in generate(model, prompts, grammar)]
    assert answers == [slow(model, prompt, grammar) for prompt in prompts]
    assert len({len(answer) for answer in answers}) > 1, "they all end together: a weak test"


@pytest.mark.parametrize("name", TASKS)
def test_greedy_equals_transformers_generate_on_the_exported_model(model, tokenizer, tmp_path, name):
    with_lora(model)
    grammar = TASKS[name].grammar(tokenizer, max_text_tokens=16)
    prompts = prompts_of(name, tokenizer)
    storage.export(model, tmp_path / "out", tokenizer.text)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    for prompt, answer in zip(prompts, generate(model, prompts, grammar), strict=True):
        length = len(prompt)
        made = plain.generate(
            torch.from_numpy(prompt)[None],
            attention_mask=torch.ones(1, length, dtype=torch.long),
            do_sample=False,
            max_new_tokens=grammar.steps,
            eos_token_id=grammar.end,
            pad_token_id=grammar.end,
            prefix_allowed_tokens_fn=lambda _, ids, length=length: grammar.at(len(ids) - length).tolist(),
        )
        assert made[0, length:].tolist() == [*answer, grammar.end]


# --- any logits -------------------------------------------------------------------------------------------------------


class Scripted:
    """Hidden states that are told: `states(step)` gives [b d]. With `one_hot`, they are the logits of all ids themselves."""

    def __init__(self, model: LumoModel, states, one_hot: bool = False):
        self.space, self.device, self.head = model.space, model.device, model.head_rows
        self.states, self.one_hot, self.step = states, one_hot, 0

    def eval(self):
        return self

    def decoding(self, room):
        return contextlib.nullcontext()

    def hidden(self, ids, position_ids, mask, cache=None):
        state = self.states(self.step)[:, None]
        self.step += 1
        return state.expand(-1, ids.shape[1], -1)

    def head_rows(self, ids):
        return torch.nn.functional.one_hot(ids, self.space.size).float() if self.one_hot else self.head(ids)


HOSTILE = st.floats(width=32, allow_nan=True, allow_infinity=True) | st.sampled_from(
    [float("nan"), float("inf"), float("-inf"), 3e38, -3e38, 0.0]
)


@pytest.mark.parametrize("name", TASKS)
@given(
    values=st.lists(HOSTILE, min_size=4, max_size=40),
    temperature=st.sampled_from([0.0, 1e-6, 1.0, 1e6]),
    seed=st.integers(0, 9),
)
@SHARED_FIXTURES
def test_any_logits_give_answers_that_are_valid_and_decode(tokenizer, tied_model, name, values, temperature, seed):
    task, space = TASKS[name], tokenizer.space
    grammar = task.grammar(tokenizer, max_text_tokens=12)
    size = tied_model.new_rows.shape[1]
    states = np.resize(np.array(values, dtype=np.float32), (grammar.steps + 1, 2, size))
    rough = Scripted(tied_model, lambda step: torch.from_numpy(states[step]))
    for answer in generate(rough, [np.array([5]), np.array([6, 7])], grammar, Sampling(temperature, seed)):
        assert grammar.accepts([*answer.tolist(), grammar.end])
        if task.target == "text":
            assert isinstance(tokenizer.decode_text(answer), str)
            assert set(answer.tolist()) <= set(tokenizer.text_ids.tolist())
        else:
            codec = tokenizer.codecs[task.target]
            assert len(answer) == codec.frames * codec.codebooks
            (media,) = tokenizer.decode(task.target, answer[None])
            assert media is not None
            assert (space.block_index(answer) >= 2).all()


@pytest.fixture(scope="module")
def tied_model(tokenizer) -> LumoModel:
    from conftest import make_base

    return LumoModel(make_base(), tokenizer.space)


def pushed(model: LumoModel, end: int, push: float, seed: int = 0) -> Scripted:
    """Random logits, but the end token's is `push`."""
    generator = torch.Generator().manual_seed(seed)

    def states(step):
        logits = torch.randn(2, model.space.size, generator=generator)
        logits[:, end] = push
        return logits

    return Scripted(model, states, one_hot=True)


@given(
    codebooks=st.integers(1, 4), low=st.integers(1, 4), more=st.integers(0, 4), push=st.sampled_from([-1e6, 0.0, 1.0, 1e6]),
    seed=st.integers(0, 99),
)  # fmt: skip
@SHARED_FIXTURES
def test_clips_end_at_frame_boundaries_within_the_length_policy(tied_model, codebooks, low, more, push, seed):
    blocks = [Block(f"audio{k}", 800 + 8 * k, 8) for k in range(codebooks)]
    end = tied_model.space.control("<|aud_end|>")
    grammar = media_grammar(blocks, end, low, low + more)
    for answer in generate(pushed(tied_model, end, push, seed), [np.array([5])] * 2, grammar, Sampling(1.0, seed)):
        frames, rest = divmod(len(answer), codebooks)
        assert rest == 0
        assert low <= frames <= low + more
        for step, token in enumerate(answer):
            block = blocks[step % codebooks]
            assert block.start <= token < block.end
        if push == 1e6:
            assert frames == low
        if push == -1e6:
            assert frames == low + more


@pytest.mark.parametrize(("push", "length"), [(1e6, 1), (-1e6, 7)])
def test_text_has_at_least_one_token_and_at_most_the_limit(tokenizer, tied_model, push, length):
    grammar = TASKS["i2t"].grammar(tokenizer, max_text_tokens=7)
    for answer in generate(pushed(tied_model, grammar.end, push), [np.array([5])] * 2, grammar):
        assert len(answer) == length


def test_text_grammar_leaves_out_specials_and_rows_without_a_token(tokenizer):
    grammar = TASKS["a2t"].grammar(tokenizer, max_text_tokens=4)
    allowed = {int(token) for part in grammar.allowed for token in part}
    assert allowed - {grammar.end} == set(range(len(tokenizer.text))) - set(tokenizer.text.all_special_ids)
    assert tokenizer.text.all_special_ids
    assert len(tokenizer.text) < tokenizer.space.text_size


# --- sampling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["t2i", "a2t"])
def test_a_cases_draws_do_not_depend_on_its_batch(model, tokenizer, name):
    with_lora(model)
    grammar = TASKS[name].grammar(tokenizer, max_text_tokens=24)
    prompts, cases, sampling = prompts_of(name, tokenizer), [7, 3, 40], Sampling(1.0, seed=2)
    together = generate(model, prompts, grammar, sampling, cases)
    for i in range(3):
        (alone,) = generate(model, [prompts[i]], grammar, sampling, [cases[i]])
        assert alone.tolist() == together[i].tolist()
    turned = generate(model, prompts[::-1], grammar, sampling, cases[::-1])
    assert [answer.tolist() for answer in turned[::-1]] == [answer.tolist() for answer in together]


def test_seed_and_case_number_decide_the_draws(tied_model, tokenizer):
    grammar = text_grammar(np.arange(50), tokenizer.space.control("<|text_end|>"), 20)
    prompt = [np.array([5, 6])] * 3

    def answers(seed, cases=None, temperature=1.0):
        made = generate(tied_model, prompt, grammar, Sampling(temperature, seed), cases)
        return [tuple(answer) for answer in made]

    assert answers(0) == answers(0)
    assert answers(0) == answers(0, [0, 1, 2])
    assert not set(answers(0)) & set(answers(1))
    assert len(set(answers(0))) == 3
    assert len(set(answers(0, [4, 4, 4]))) == 1
    assert len(set(answers(0, temperature=0.0))) == len(set(answers(0, temperature=1e-9))) == 1
    assert answers(0, temperature=0.0) == answers(0, temperature=1e-9)


def test_sampled_shares_are_the_softmax(tied_model, tokenizer):
    """3,000 draws of one token at temperature 2 against its probabilities."""
    logits, end = torch.tensor([0.0, 1.0, 3.0]), tokenizer.space.control("<|text_end|>")
    grammar = text_grammar(np.arange(3), end, 1)

    def states(step):
        return torch.nn.functional.pad(logits, (0, tied_model.space.size - 3))[None].expand(3000, -1)

    made = generate(Scripted(tied_model, states, one_hot=True), [np.array([5])] * 3000, grammar, Sampling(2.0))
    shares = np.bincount([int(answer[0]) for answer in made], minlength=3) / 3000
    np.testing.assert_allclose(shares, (logits / 2).softmax(0).numpy(), atol=0.03)


# --- the grammar itself -----------------------------------------------------------------------------------------------

END = 9


@st.composite
def grammars(draw) -> Grammar:
    if draw(st.booleans()):
        return text_grammar(np.arange(20, 26), END, draw(st.integers(1, 6)))
    blocks = [Block(f"audio{k}", 20 + 5 * k, 5) for k in range(draw(st.integers(1, 3)))]
    low = draw(st.integers(1, 3))
    return media_grammar(blocks, END, low, low + draw(st.integers(0, 2)))


@st.composite
def answers(draw) -> tuple[Grammar, list[int]]:
    grammar, ids = draw(grammars()), []
    while not ids or ids[-1] != END:
        ids.append(int(draw(st.sampled_from(grammar.at(len(ids)).tolist()))))
    return grammar, ids


@given(answers(), st.data())
def test_grammar_accepts_its_answers_and_no_mutant(answer, data):
    grammar, ids = answer
    assert grammar.accepts(ids)
    assert grammar.accepts(np.array(ids))
    assert len(ids) <= grammar.steps
    at = data.draw(st.integers(0, len(ids) - 1))
    wrong = data.draw(st.integers(0, 60).filter(lambda token: token not in grammar.at(at)))
    assert not grammar.accepts([*ids[:at], wrong, *ids[at + 1 :]])
    assert not grammar.accepts(ids[:-1]), "no end"
    assert not grammar.accepts([*ids, data.draw(st.integers(0, 60))]), "goes on after its end"
    assert not grammar.accepts([]) and not grammar.accepts([END])


@given(answers())
def test_a_clip_cut_within_a_frame_is_refused(answer):
    grammar, ids = answer
    for cut in range(len(ids) - 1):
        assert grammar.accepts([*ids[:cut], END]) == (END in grammar.at(cut))


@given(grammars())
def test_the_last_step_ends_and_nothing_follows(grammar):
    assert grammar.at(grammar.steps - 1).tolist() == [END]
    for step in (-1, grammar.steps):
        with pytest.raises(IndexError, match=f"at most {grammar.steps} tokens, asked for token {step}"):
            grammar.at(step)
