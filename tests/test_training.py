"""Training, one run: it learns, what a figure says is what was summed, and two processes do what one does."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from conftest import make_base
from hypothesis import given
from hypothesis import strategies as st
from refusals import refused
from runs import PHASES, SHARED, TWICE, WARM, fixture_unbroken, join, make_feed, make_model, outcome, run, start  # noqa: F401 - fixtures
from toys import loss_of, sequences_of

from lumo import parallel
from lumo.model import LumoModel, ModelError
from lumo.params import Stage4
from lumo.tasks import TASKS
from lumo.training import Sums, loss_curves, schedule, sizing, summary, sums_of, task_weights, train

# --- one whole run ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", PHASES)
def test_a_run_learns_and_leaves_what_it_says(tokenizer, samples, tmp_path, phase):
    params, base, shown = PHASES[phase], make_base(), []
    model, result = run(tmp_path, samples, tokenizer.space, params, show=shown.append)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["final", "log.jsonl"]
    weights, log = outcome(tmp_path)
    assert [line["step"] for line in log] == list(range(7))
    assert torch.equal(weights["new_rows"], model.new_rows)
    assert not torch.equal(model.new_rows, make_model(tokenizer.space, params).new_rows)
    assert model.base_sha256() == LumoModel(base, tokenizer.space).base_sha256()
    if isinstance(params, Stage4):
        moved = [value.abs().sum() for name, value in weights.items() if "lora_B" in name]
        assert all(value > 0 for value in moved)
        assert len(moved) == 14
        assert not any(line["target_tokens"][name] for line in log[:3] for name in ("t2a", "t2i")), "before the ramp"
    assert result == summary(tmp_path / "log.jsonl", params.log_every)
    assert [progress.step for progress in shown] == [1, 2, 3, 4, 5, 6, 7]
    assert shown[-1].eta_s == 0
    assert shown[-1].as_row()["step"] == "7 of 7"


def test_rows_that_no_batch_holds_stay_as_they_are(tokenizer, samples, tmp_path):
    """In an untied model, where the head is not the embedding: no weight decay, no stray gradient."""
    model, feed = LumoModel(make_base(tied=False), tokenizer.space), make_feed(samples, tokenizer.space, WARM)
    before = model.new_rows.detach().clone()
    train(model, feed, WARM, tmp_path, 0)
    seen = torch.cat([feed.at(step).input_ids.flatten() for step in range(WARM.steps)]).unique()
    rows = seen[seen >= tokenizer.space.text_size] - tokenizer.space.text_size
    held = torch.zeros(len(before), dtype=torch.bool).index_fill(0, rows, True)
    assert (~held).sum() > 0
    assert torch.equal(model.new_rows[~held], before[~held])
    moved = (model.new_rows != before).any(1)
    assert moved.sum() > 50


def test_overfitting_one_sequence_brings_its_loss_down(tokenizer, samples, tmp_path):
    params = Stage4(**SHARED | {"steps": 40, "checkpoint_every": 100, "log_every": 10}, rates={"t2i": 1.0}, lora_rank=4,
                    lora_learning_rate=2e-2, ramp_steps=0)  # fmt: skip
    one = next(sample for sample in samples if TASKS["t2i"].fits(sample))
    _, result = run(tmp_path, [one], tokenizer.space, params)
    losses = result["tasks"]["t2i"]
    assert losses["first_loss"] > 5.5  # about ln 1055
    assert losses["last_loss"] < losses["first_loss"] - 2


def test_first_logged_loss_is_the_slow_ways(tokenizer, samples, tmp_path, unbroken):
    """Step 0's sums against each sequence alone, in the untrained model."""
    model, feed = make_model(tokenizer.space, WARM), make_feed(samples, tokenizer.space, WARM)
    batch = feed.at(0)
    totals, counts = dict.fromkeys(WARM.rates, 0.0), dict.fromkeys(WARM.rates, 0)
    known = {tuple(line.ids.tolist()): line for name in feed.names for line in feed.pools[name].sequences}
    for group, ids in sequences_of(batch):
        with torch.no_grad():
            losses = loss_of(model, known[ids])
        totals[feed.names[group]] += float(losses.double().sum())
        counts[feed.names[group]] += len(losses)
    logged = outcome(unbroken["warm"])[1][0]
    assert logged["target_tokens"] == counts
    assert logged["losses"] == pytest.approx(totals, rel=1e-5)
    assert logged["tokens"] == batch.tokens


def test_a_loss_that_is_not_finite_stops_with_one_line(tokenizer, samples, tmp_path):
    model = make_model(tokenizer.space, WARM)
    with torch.no_grad():
        model.new_rows.fill_(float("nan"))
    with refused(ModelError, "loss is nan at step 0; lower the learning rates"):
        train(model, make_feed(samples, tokenizer.space, WARM), WARM, tmp_path, 0)
    assert not (tmp_path / "final").exists()


# --- sums and schedules -----------------------------------------------------------------------------------------------


PARTS = st.dictionaries(st.sampled_from("abc"), st.lists(st.floats(0, 10), min_size=1, max_size=5), max_size=3)


@given(st.lists(PARTS, max_size=5))
def test_sums_travel_apart_and_are_divided_once(batches):
    def sums(part):
        return Sums({n: sum(v) for n, v in part.items()}, {n: len(v) for n, v in part.items()})

    total = sum((sums(part) for part in batches), Sums({}, {}))
    backwards = sum((sums(part) for part in batches[::-1]), Sums({}, {}))
    for name in "abc":
        flat = [value for part in batches for value in part.get(name, [])]
        if flat:
            assert total.mean(name) == pytest.approx(sum(flat) / len(flat))
            assert backwards.mean(name) == pytest.approx(total.mean(name))
            assert total.tokens[name] == len(flat)
        else:
            assert math.isnan(total.mean(name))


def test_sums_and_weights_by_hand():
    losses, groups = torch.tensor([1.0, 2.0, 3.0, 10.0]), torch.tensor([2, 0, 2, 2])
    assert sums_of(losses, groups, ["x", "y", "z"]) == Sums({"x": 2.0, "y": 0.0, "z": 14.0}, {"x": 1, "y": 0, "z": 3})
    weights = task_weights(groups, 3)
    assert weights.tolist() == pytest.approx([1 / 6, 1 / 2, 1 / 6, 1 / 6])  # each task weighs the same
    assert (weights * losses).sum().item() == pytest.approx((2 + 14 / 3) / 2)


@given(steps=st.integers(1, 300), warmup=st.integers(0, 50))
def test_schedule_rises_to_its_peak_and_falls_to_a_twentieth(steps, warmup):
    params = WARM.model_copy(update={"steps": steps, "warmup_steps": warmup})
    shares = [schedule(step, params) for step in range(steps)]
    assert all(0 < share <= 1 for share in shares)
    assert shares[:warmup] == sorted(shares[:warmup])
    assert shares[warmup:] == sorted(shares[warmup:], reverse=True)
    if 0 < warmup <= steps:
        assert shares[0] == pytest.approx(1 / warmup)
        assert shares[warmup - 1] == 1
    if warmup < steps:
        assert shares[warmup] == 1
        assert schedule(steps, params) == pytest.approx(0.05)


def test_summary_by_hand(tmp_path):
    def line(step, losses, tokens, seen, seconds, share):
        return json.dumps(
            {
                "step": step,
                "losses": losses,
                "target_tokens": tokens,
                "tokens": seen,
                "seconds": seconds,
                "real_share": share,
            }
        )

    path = tmp_path / "log.jsonl"
    path.write_text(
        "\n".join(
            [
                line(0, {"a2t": 12.0, "t2a": 0.0}, {"a2t": 4, "t2a": 0}, 100, 0.5, 0.9),
                line(1, {"a2t": 2.0, "t2a": 50.0}, {"a2t": 1, "t2a": 10}, 200, 0.5, 0.7),
                line(2, {"a2t": 0.0, "t2a": 30.0}, {"a2t": 0, "t2a": 10}, 300, 0.5, 0.8),
                line(3, {"a2t": 3.0, "t2a": 8.0}, {"a2t": 3, "t2a": 2}, 600, 0.5, 0.8),
            ]
        )
        + "\n"
    )
    result = summary(path, window=2)
    assert result["tasks"] == {
        "a2t": {"first_loss": 14 / 5, "last_loss": 5 / 4, "target_tokens": 8},
        "t2a": {"first_loss": 80 / 20, "last_loss": 38 / 12, "target_tokens": 22},
    }
    assert (result["tokens"], result["seconds"], result["tokens_per_s"]) == (1200, 2.0, 600.0)
    assert result["real_share"] == pytest.approx(0.8)
    curves = loss_curves(path, points=2)
    assert curves == {"a2t": [(1.0, 14 / 5), (3.0, 1.0)], "t2a": [(1.0, 5.0), (3.0, 38 / 12)]}


def test_sizing_by_hand(tokenizer, samples):
    feed = make_feed(samples, tokenizer.space, WARM)
    tokens = sum(len(sequence) for pool in feed.pools.values() for sequence in pool.sequences)
    size = sizing(feed, {"tokens_per_s": tokens / 1800})
    assert size["epoch_tokens"] == tokens
    assert size["epoch_s"] == pytest.approx(1800) and size["epochs_in_an_hour"] == pytest.approx(2)
    assert size["steps_in_an_hour"] == pytest.approx(2 * tokens / WARM.tokens_per_batch)


# --- several processes ------------------------------------------------------------------------------------------------


def interrupted_and_resumed(rank: int, port: int, folder: Path, samples, space) -> None:
    join(rank, port)

    def stop(progress):
        if progress.step == 4:
            raise KeyboardInterrupt

    try:
        run(folder, samples, space, TWICE, show=stop)
    except KeyboardInterrupt:
        parallel.wait()
    run(folder, samples, space, TWICE)


def test_two_processes_give_the_single_ones_losses(fresh, tokenizer, samples, tmp_path):
    """Rows and LoRA, killed after a checkpoint and resumed by two processes: within rounding what one process does."""
    processes = start(fresh, interrupted_and_resumed, tmp_path / "run", samples, tokenizer.space)
    for process in processes:
        process.join(timeout=240)
    assert [process.exitcode for process in processes] == [0, 0]
    weights, log = outcome(tmp_path / "run")
    run(tmp_path / "single", samples, tokenizer.space, TWICE)
    expected_weights, expected_log = outcome(tmp_path / "single")
    assert [line["target_tokens"] for line in log] == [line["target_tokens"] for line in expected_log]
    for line, expected in zip(log, expected_log, strict=True):
        assert line["losses"] == pytest.approx(expected["losses"], rel=1e-4, abs=1e-4)
    for name, value in expected_weights.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-2, atol=2e-3)  # Adam divides by small second moments
