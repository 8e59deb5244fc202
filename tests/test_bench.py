"""Benchmarks on tiny shapes: both sides agree, a difference is found, and no test asserts a time."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from lumo import static
from lumo.batches import pack
from lumo.bench import Disagreement, generation, gpu, scale, training
from lumo.bench.measure import Comparison, Goal, Measured, alternate, operations, peak_bytes, ratios
from lumo.model import LumoModel
from lumo.params import load_profile
from lumo.segments import Segments
from lumo.space import TokenSpace

SPACE = TokenSpace(1000, {}, {"codebooks": 1, "cardinality": 16}, {"codebooks": 4, "cardinality": 8})
TRUNK = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "tie_word_embeddings": True, "max_position_embeddings": 512,
}  # fmt: skip


def test_the_three_ways_of_training_rows_agree():
    made = training.rows_step(trunk=TRUNK, space=SPACE, each=1, rounds=1)
    assert {c.name for c in made} >= {"rows_step_masked", "rows_step_peft"}
    assert all(c.ratio > 0 and c.figures for c in made)


def test_ways_that_do_not_agree_are_found(monkeypatch):
    honest = training.SplitRows.backward
    monkeypatch.setattr(training.SplitRows, "backward", lambda self, data: honest(self, data) * 1.01)
    with pytest.raises(Disagreement, match="split and masked: losses differ"):
        training.rows_step(trunk=TRUNK, space=SPACE, each=1, rounds=1)


@pytest.fixture
def model():
    return LumoModel(training.base_of(TRUNK, SPACE.text_size), SPACE)


def test_generation_agrees_with_stock_and_with_one_case_at_a_time(model):
    made = generation.against_stock(model, 2, "small", "small", 2, cases=5, rounds=1)
    assert [c.name for c in made] == ["small_stock", "small_single"]


def test_generation_that_differs_is_found(model, monkeypatch):
    honest = generation.Stock.__call__
    monkeypatch.setattr(generation.Stock, "__call__", lambda self, *args: honest(self, *args)[::-1])
    with pytest.raises(Disagreement, match="ids differ from those of transformers"):
        generation.against_stock(model, 2, "small", "small", 2, cases=5, rounds=1)


def test_many_rows_run_small_and_bytes_that_differ_are_found(monkeypatch):
    profile = load_profile("smoke", {"data": {"samples_per_shard": 16}, "threads": 1})
    monkeypatch.setattr(scale, "FEW", 8)
    monkeypatch.setattr(scale, "MEDIA", 8)
    # in this process, but for the one that is killed: each would load for seconds
    monkeypatch.setattr(scale, "_run", lambda *given: scale._write(*given) or {"seconds": 0.1, "peak_bytes": 1})
    monkeypatch.setattr(scale.torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(scale, "engine_of", lambda profile: engines.append(profile.data.engine))
    engines: list[str] = []
    memory, speed, shared_memory, shared, reading = scale.many_rows(profile, 200, kills=1)
    assert engines == ["local"] * 3 + ["processes"] * 2
    assert reading.ratio > 0 and reading.reached is None
    assert memory.ratio > 0 and memory.figures["kills_with_same_bytes"] == 1
    assert speed.ratio > 0 and shared.ratio > 0 and shared_memory.name == "many_rows_processes_memory"
    names = iter("ab")
    monkeypatch.setattr(scale, "_content", lambda folder: {next(names): ""})
    with pytest.raises(Disagreement, match="shards of a run that was killed and resumed differ"):
        scale.many_rows(profile, 20, kills=0)


def test_large_shapes_run_small_and_say_when_they_were_not_measured():
    rows = gpu.large_shapes("cpu")
    assert [row.name for row in rows] == ["mfu_0_6B", "mfu_1_7B", "mfu_8B", "logits_8B", "decode_0_6B"]
    assert all(row.ratio is None and "--device cuda" in row.figures["how"] for row in rows)
    for made in (
        gpu.mfu("tiny", "cpu", tokens=64, trunk=TRUNK, space=SPACE),
        gpu.decode_roofline("tiny", "cpu", cases=3, frames=2, trunk=TRUNK, space=SPACE),
    ):
        assert made.ratio > 0


def test_a_row_that_runs_out_of_memory_leaves_the_others_theirs(monkeypatch):
    def full(size, device, tokens):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")

    monkeypatch.setattr(gpu, "mfu", full)
    monkeypatch.setattr(gpu, "tokens_that_fit", lambda size: 64)
    monkeypatch.setattr(gpu, "logits_memory", lambda size, device: Comparison("logits", "", "", None, Measured(0.2)))
    monkeypatch.setattr(gpu, "decode_roofline", lambda size, device: Comparison("decode", "", "", None, Measured(1.5)))
    *steps, logits, decode = gpu.large_shapes("cuda")
    assert (logits.ratio, decode.ratio) == (0.2, 1.5)
    for row in steps:
        assert row.ratio is None and row.what.endswith("out of memory") and "Tried to allocate" in row.figures["how"]


def test_large_shapes_take_the_gpus_ways(monkeypatch):
    """The same on a CPU as far as it goes: one row without padding, no mask, a static step."""
    rows, steps = [], []
    honest = static._StaticStep.__call__
    monkeypatch.setattr(LumoModel, "skips", True)
    monkeypatch.setattr(LumoModel, "replays", True)
    monkeypatch.setattr(Segments, "of", staticmethod(lambda *given, of=Segments.of: rows.append(given) or of(*given)))
    monkeypatch.setattr(static._StaticStep, "__call__", lambda *given: steps.append(1) or honest(*given))
    gpu.mfu("tiny", "cpu", tokens=64, trunk=TRUNK, space=SPACE)
    gpu.decode_roofline("tiny", "cpu", cases=3, frames=2, trunk=TRUNK, space=SPACE)
    assert rows and len(steps) == 2 * 2 * 4  # two answers of two frames, four codebooks each


def test_a_step_takes_as_many_tokens_as_fit(monkeypatch):
    monkeypatch.setattr(gpu, "QWEN3", {"tiny": TRUNK})
    monkeypatch.setattr(gpu, "activation_bytes", lambda model, rows, length: rows * length * 10**6)
    for total, tokens in ((10**12, 16_384), (10**10, 8192), (5 * 10**9, 4096), (1, 2048)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda total=total: (0, total))
        assert gpu.tokens_that_fit("tiny") == tokens


def test_memory_of_logits_is_that_of_a_chunk():
    """48 MB of logits at once, where the default keeps them all and 16 positions take a 64th."""
    made = gpu.logits_memory("tiny", "cpu", 1024, TRUNK, replace(SPACE, text_size=12_000))
    if made.ratio is None:
        pytest.skip("this system doesn't tell")
    assert 0.04 < made.ratio < 0.3


def test_real_tokens_are_all_where_padding_is_left_out(model, monkeypatch):
    class Two:
        def at(self, step):
            return pack(training.stage3_mix(SPACE, 2, step), SPACE.control("<|pad_mm|>"))

    padded = training.padding(Two(), model, 3)
    assert padded.ratio < 1 and str(padded.goal) == "≥ 0.95"
    monkeypatch.setattr(LumoModel, "skips", True)
    flat = training.padding(Two(), model, 3)
    assert flat.ratio == 1 and str(flat.goal) == "≥ 0.98" and flat.reached


def test_flops_are_those_of_the_step(model):
    """Without LoRA the trunk's linears do two products a weight forward and two back for the input."""
    sequences = training.stage3_mix(SPACE, 1, 0)
    figures = training.step_rate(model, sequences, 1).figures
    linears = sum(m.weight.numel() for m in model.base.model.modules() if isinstance(m, torch.nn.Linear))
    computed = sum(map(len, sequences))
    assert figures["flops"] > 4 * linears * computed * 0.9


def test_operations_of_attention_are_counted_on_a_cpu():
    """Its own kernel makes the scores once more on the way back; the plain products keep them."""
    query = torch.randn(2, 3, 16, 8, requires_grad=True)
    mask = torch.zeros(2, 1, 16, 16)

    def attend():
        torch.nn.functional.scaled_dot_product_attention(query, query, query, attn_mask=mask).sum().backward()

    with sdpa_kernel(SDPBackend.MATH):
        plain = operations(attend)
    product = 2 * 2 * 3 * 16 * 16 * 8
    assert plain == 6 * product and operations(attend) == 7 * product


def test_turns_alternate_and_ratios_are_by_round():
    order = []
    seconds = alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert order == ["b", "a", "a", "b", "b", "a", "a", "b"] and len(seconds["a"]) == 3
    assert ratios([1.0, 2.0, 4.0], [2.0, 8.0, 4.0], 0.5) == (1.0, 0.5, 2.0)


def test_peak_memory_is_seen_and_forgotten():
    def work():
        torch.ones(2**24).sum()

    first = peak_bytes(work)
    if first is None:
        pytest.skip("this system doesn't tell")
    assert 2**26 * 0.9 < first < 2**26 * 1.5
    assert peak_bytes(lambda: None) < 2**22


def test_a_row_that_was_not_measured_says_so():
    row = Comparison("x", "what", "against", Goal("≥", "1")).as_row()
    assert (row["median"], row["reached"]) == ("not measured", "")


@pytest.mark.parametrize(
    ("goal", "text", "below", "above"),
    [
        (Goal("≥", "0.70"), "≥ 0.70", False, True),
        (Goal("≤", "1/3"), "≤ 1/3", True, False),
        (Goal("≤", "2", "% slower"), "≤ 2 % slower", True, False),
        (None, "", None, None),
    ],
)
def test_a_goals_text_and_verdict_are_of_one_number(goal, text, below, above):
    bound = float(Fraction(goal.bound)) if goal else 1.0
    low, at, high = (Comparison("x", "what", "against", goal, Measured(bound + more)) for more in (-1e-9, 0, 1e-9))
    assert (low.reached, at.reached, high.reached) == (below, None if goal is None else True, above)
    assert at.as_dict() == {"what": "what", "against": "against", "goal": text, "ratio": bound, "low": None, "high": None,
                            "reached": at.reached, "figures": {}}  # fmt: skip
    assert at.as_row()["goal"] == text
