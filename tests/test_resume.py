"""A run that was killed goes on as if it hadn't been; another run in its folder begins anew, and loses nothing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refusals import refused
from runs import (  # noqa: F401 - fixtures
    PHASES,
    STAGE4,
    WARM,
    Killed,
    assert_same,
    cut_at,
    fixture_unbroken,
    make_feed,
    make_model,
    outcome,
    run,
)
from safetensors.torch import load_file

from lumo import storage
from lumo.model import ModelError
from lumo.training import train

# --- killed and run again ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", PHASES)
@given(cuts=st.lists(st.integers(1, 7), min_size=1, max_size=3).map(sorted))
@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_killed_at_any_step_and_resumed_equals_unbroken(tokenizer, samples, unbroken, tmp_path_factory, phase, cuts):
    folder, params = tmp_path_factory.mktemp("cut"), PHASES[phase]
    for cut in cuts:
        with pytest.raises(Killed):
            run(folder, samples, tokenizer.space, params, show=cut_at(cut))
        assert not (folder / "final").exists()
    steps = []
    run(folder, samples, tokenizer.space, params, show=lambda progress: steps.append(progress.step))
    last = (cuts[-1] - 1) // 2 * 2
    assert steps == list(range(last + 1, 8)), "it went on from its last checkpoint"
    assert_same(folder, unbroken[phase])
    assert sorted(path.name for path in folder.iterdir()) == ["final", "log.jsonl"]


def killed_at(step: int, folder: Path, samples, space) -> None:
    def show(progress):
        if progress.step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    run(folder, samples, space, STAGE4, show=show)


def test_a_process_killed_with_sigkill_and_resumed_equals_unbroken(fresh, tokenizer, samples, unbroken, tmp_path):
    cut = int(np.random.default_rng().integers(3, 8))
    process = fresh.Process(target=killed_at, args=(cut, tmp_path, samples, tokenizer.space), daemon=True)
    process.start()
    process.join(timeout=240)
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "final").exists()
    assert list(tmp_path.glob("checkpoint_*")), f"killed at {cut}"
    run(tmp_path, samples, tokenizer.space, STAGE4)
    assert_same(tmp_path, unbroken["stage4"])


def test_a_log_with_half_a_line_is_mended(tokenizer, samples, unbroken, tmp_path):
    with pytest.raises(Killed):
        run(tmp_path, samples, tokenizer.space, WARM, show=cut_at(5))
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 4, "losses": {"a2')
    run(tmp_path, samples, tokenizer.space, WARM)
    assert_same(tmp_path, unbroken["warm"])


@pytest.mark.parametrize("phase", PHASES)
def test_a_finished_run_is_loaded_not_run_again(tokenizer, samples, tmp_path, phase):
    params = PHASES[phase]
    trained, first = run(tmp_path, samples, tokenizer.space, params)
    before = (tmp_path / "log.jsonl").stat().st_mtime_ns
    loaded, again = run(tmp_path, samples, tokenizer.space, params, show=cut_at(1))
    assert again == first
    assert (tmp_path / "log.jsonl").stat().st_mtime_ns == before
    for one, other in zip(
        trained.row_parameters() + trained.lora_parameters(),
        loaded.row_parameters() + loaded.lora_parameters(),
        strict=True,
    ):
        assert torch.equal(one, other)


# --- a cell that was interrupted --------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [4, 5])
def test_the_model_that_was_cut_goes_on_from_its_last_checkpoint(tokenizer, samples, unbroken, tmp_path, cut):
    """As when a notebook's cell is interrupted and run again, and once more when it is finished."""
    model, feed = make_model(tokenizer.space, WARM), make_feed(samples, tokenizer.space, WARM)
    with pytest.raises(Killed):
        train(model, feed, WARM, tmp_path, 0, cut_at(cut))
    model.new_rows.grad = torch.ones_like(model.new_rows)  # cut between a step's gradients and its update
    results = [train(model, feed, WARM, tmp_path, 0) for _ in range(2)]
    assert results[0]["tasks"] == results[1]["tasks"]
    assert_same(tmp_path, unbroken["warm"])
    assert torch.equal(model.new_rows, load_file(tmp_path / "final" / "trainable_rows.safetensors")["new_rows"])


@pytest.mark.parametrize(("cut", "changed"), [(1, {}), (5, {"rows_learning_rate": 1e-3})], ids=["early", "changed"])
def test_a_model_that_was_cut_without_a_checkpoint_of_its_own_is_loaded_again(
    tokenizer, samples, tmp_path, cut, changed
):
    """Its first weights are gone, and from half-trained ones it would be another run; what is there stays."""
    model, feed = make_model(tokenizer.space, WARM), make_feed(samples, tokenizer.space, WARM)
    with pytest.raises(Killed):
        train(model, feed, WARM, tmp_path, 0, cut_at(cut))
    there = sorted(tmp_path.iterdir())
    with pytest.raises(ModelError, match="has been trained there already; load it again"):
        train(model, feed, WARM.model_copy(update=changed), tmp_path, 0)
    assert sorted(tmp_path.iterdir()) == there


def test_the_model_that_was_cut_goes_on_when_its_last_checkpoint_is_damaged(tokenizer, samples, unbroken, tmp_path):
    """Moved away, as the line says: the half that was loaded of it is no other run's beginning."""
    model, feed = make_model(tokenizer.space, WARM), make_feed(samples, tokenizer.space, WARM)
    with pytest.raises(Killed):
        train(model, feed, WARM, tmp_path, 0, cut_at(5))
    last = tmp_path / "checkpoint_000004"
    (last / "optimiser.pt").write_bytes(b"half")
    with pytest.raises(ModelError, match="move checkpoint_000004 away"):
        train(model, feed, WARM, tmp_path, 0)
    last.rename(tmp_path / "away")
    train(model, feed, WARM, tmp_path, 0)
    assert_same(tmp_path, unbroken["warm"])


def test_a_model_is_known_by_its_folder_however_that_is_written(tokenizer, samples, unbroken, tmp_path, monkeypatch):
    model, feed = make_model(tokenizer.space, WARM), make_feed(samples, tokenizer.space, WARM)
    with pytest.raises(Killed):
        train(model, feed, WARM, tmp_path / "run", 0, cut_at(5))
    monkeypatch.chdir(tmp_path)
    train(model, feed, WARM, Path("run"), 0)
    assert_same(tmp_path / "run", unbroken["warm"])


def test_a_model_that_was_loaded_anew_is_another_run(tokenizer, samples, unbroken, tmp_path):
    model, feed = make_model(tokenizer.space, WARM), make_feed(samples, tokenizer.space, WARM)
    with pytest.raises(Killed):
        train(model, feed, WARM, tmp_path, 0, cut_at(5))
    storage.load(model, unbroken["warm"] / "final")
    loaded = model.new_rows.detach().clone()
    with pytest.raises(Killed):
        train(model, feed, WARM, tmp_path, 0, cut_at(1))
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])["step"] == 0
    assert not torch.equal(model.new_rows, loaded)


# --- another run ------------------------------------------------------------------------------------------------------


CHANGES = {
    "learning rate": lambda p, s: (p.model_copy(update={"rows_learning_rate": 2e-2}), s, 0),
    "steps": lambda p, s: (p.model_copy(update={"steps": 8}), s, 0),
    "rates": lambda p, s: (p.model_copy(update={"rates": {"a2t": 0.4, "i2t": 0.6}}), s, 0),
    "tokens a batch": lambda p, s: (p.model_copy(update={"tokens_per_batch": 260}), s, 0),
    "data": lambda p, s: (p, s[:-1], 0),
    "seed": lambda p, s: (p, s, 1),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("finished", [True, False])
def test_changed_parameters_or_data_start_anew(tokenizer, samples, tmp_path, change, finished):
    with contextlib.suppress(Killed):
        run(tmp_path / "run", samples, tokenizer.space, WARM, show=cut_at(None if finished else 5))
    params, data, seed = CHANGES[change](WARM, samples)
    steps = []
    run(tmp_path / "run", data, tokenizer.space, params, seed, show=lambda progress: steps.append(progress.step))
    assert steps == list(range(1, params.steps + 1))
    run(tmp_path / "fresh", data, tokenizer.space, params, seed)
    assert_same(tmp_path / "run", tmp_path / "fresh")


def test_how_often_to_log_and_to_checkpoint_is_no_other_run(tokenizer, samples, unbroken, tmp_path):
    with pytest.raises(Killed):
        run(tmp_path, samples, tokenizer.space, WARM, show=cut_at(5))
    steps = []
    other = WARM.model_copy(update={"log_every": 3, "checkpoint_every": 100})
    run(tmp_path, samples, tokenizer.space, other, show=lambda progress: steps.append(progress.step))
    assert steps == [6, 7]
    assert_same(tmp_path, unbroken["warm"])


def test_another_starting_point_starts_anew(tokenizer, samples, tmp_path):
    """The same parameters on rows of another warm start are another run."""
    with pytest.raises(Killed):
        run(tmp_path, samples, tokenizer.space, WARM, show=cut_at(5))
    model, steps = make_model(tokenizer.space, WARM), []
    with torch.no_grad():
        model.new_rows[0, 0] += 1
    train(
        model,
        make_feed(samples, tokenizer.space, WARM),
        WARM,
        tmp_path,
        0,
        lambda progress: steps.append(progress.step),
    )
    assert steps == [1, 2, 3, 4, 5, 6, 7]


def test_what_another_run_finished_is_kept_and_said(tokenizer, samples, tmp_path):
    run(tmp_path / "run", samples, tokenizer.space, WARM)
    before, lines = outcome(tmp_path / "run")
    with pytest.warns(UserWarning, match="trained with another rows_learning_rate; it is kept as replaced"):
        run(tmp_path / "run", samples, tokenizer.space, WARM.model_copy(update={"rows_learning_rate": 1e-4}))
    kept = tmp_path / "run" / "replaced"
    kept_lines = [json.loads(line) for line in (kept / "log.jsonl").read_text().splitlines()]
    assert [line["losses"] for line in kept_lines] == [line["losses"] for line in lines]
    saved = load_file(kept / "trainable_rows.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in saved.items())
    assert len(outcome(tmp_path / "run")[1]) == WARM.steps


def test_a_second_run_in_the_same_folder_is_refused(tokenizer, samples, tmp_path):
    def second(progress):
        with refused(ModelError, f"{tmp_path / 'run'}: another run is training there"):
            run(tmp_path / "run", samples, tokenizer.space, WARM)
        raise Killed

    with pytest.raises(Killed):
        run(tmp_path / "run", samples, tokenizer.space, WARM, show=second)
    run(tmp_path / "run", samples, tokenizer.space, WARM)
