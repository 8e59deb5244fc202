"""Training: a run that was killed goes on as if it hadn't been, and what a figure says is what was summed."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import resource
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_base
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refusals import refused
from runs import (
    FOUR,
    SHARED,
    STAGE4,
    TWICE,
    WARM,
    Killed,
    assert_same,
    cut_at,
    join,
    make_feed,
    make_model,
    outcome,
    run,
    start,
)
from safetensors import SafetensorError
from safetensors.torch import load_file
from toys import loss_of, make_samples

from lumo import parallel, storage
from lumo.model import LumoModel, ModelError
from lumo.params import Stage4, Training
from lumo.sequence import SequenceBuilder, TokenSequence
from lumo.space import SpaceError
from lumo.tasks import TASKS, Mixture, Pool, TaskError, build_pools
from lumo.training import (
    Feed,
    Sums,
    corrupted,
    loss_curves,
    schedule,
    sizing,
    summary,
    sums_of,
    task_weights,
    train,
)

PHASES = pytest.mark.parametrize("params", [WARM, STAGE4], ids=["warm", "stage4"])
SHARED_FIXTURES = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def samples(tokenizer):
    return make_samples(tokenizer, images=6, clips=6)


@pytest.fixture(scope="module")
def unbroken(tokenizer, samples, tmp_path_factory) -> dict[str, Path]:
    """Both phases, never cut."""
    folders = {}
    for name, params in (("warm", WARM), ("stage4", STAGE4)):
        folders[name] = tmp_path_factory.mktemp(name)
        run(folders[name], samples, tokenizer.space, params)
    return folders


def name_of(params: Training) -> str:
    return "stage4" if isinstance(params, Stage4) else "warm"


# --- one whole run ----------------------------------------------------------------------------------------------------


@PHASES
def test_a_run_learns_and_leaves_what_it_says(tokenizer, samples, tmp_path, params):
    base = make_base()
    shown = []
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
    for row in range(len(batch.input_ids)):
        for segment in range(1, int(batch.segment_ids[row].max()) + 1):
            here = batch.segment_ids[row] == segment
            ids = batch.input_ids[row][here].tolist()
            (name, line), *_ = [
                (name, line) for name in feed.names for line in feed.pools[name].sequences if line.ids.tolist() == ids
            ]
            with torch.no_grad():
                losses = loss_of(model, line)
            totals[name] += float(losses.double().sum())
            counts[name] += len(losses)
    logged = outcome(unbroken["warm"])[1][0]
    assert logged["target_tokens"] == counts
    assert logged["losses"] == pytest.approx(totals, rel=1e-5)
    assert logged["tokens"] == batch.tokens


# --- killed and resumed -----------------------------------------------------------------------------------------------


@PHASES
@given(cuts=st.lists(st.integers(1, 7), min_size=1, max_size=3).map(sorted))
@settings(SHARED_FIXTURES, max_examples=6)
def test_killed_at_any_step_and_resumed_equals_unbroken(tokenizer, samples, unbroken, tmp_path_factory, params, cuts):
    folder = tmp_path_factory.mktemp("cut")
    for cut in cuts:
        with pytest.raises(Killed):
            run(folder, samples, tokenizer.space, params, show=cut_at(cut))
        assert not (folder / "final").exists()
    steps = []
    run(folder, samples, tokenizer.space, params, show=lambda progress: steps.append(progress.step))
    last = (cuts[-1] - 1) // 2 * 2
    assert steps == list(range(last + 1, 8)), "it went on from its last checkpoint"
    assert_same(folder, unbroken[name_of(params)])
    assert sorted(path.name for path in folder.iterdir()) == ["final", "log.jsonl"]


@pytest.mark.parametrize(
    "where",
    [
        "lumo.storage.save_file",
        "torch.save",
        "lumo.training.checkpoints.write_atomically",
        "pathlib.Path.rename",
        "shutil.rmtree",
    ],
)
@pytest.mark.parametrize("nth", [1, 2, 4])
def test_killed_while_checkpointing_and_resumed_equals_unbroken(
    tokenizer, samples, unbroken, tmp_path, monkeypatch, where, nth
):
    """Before or after the nth call of each thing that writing a checkpoint consists of."""
    for after in (False, True):
        folder, calls = tmp_path / f"{after}", []
        module, _, name = where.rpartition(".")
        owner = {"pathlib.Path": Path, "torch": torch}.get(module) or sys.modules.get(module) or shutil
        real = getattr(owner, name)

        def deadly(*args, real=real, calls=calls, after=after, **kwargs):
            calls.append(args)
            if len(calls) < nth:
                return real(*args, **kwargs)
            if after:
                real(*args, **kwargs)
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, deadly)
            with contextlib.suppress(Killed):
                run(folder, samples, tokenizer.space, STAGE4)
        run(folder, samples, tokenizer.space, STAGE4)
        assert_same(folder, unbroken["stage4"])
        assert not list(folder.glob("checkpoint_*"))


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


def test_a_log_with_half_a_line_is_mended(tokenizer, samples, unbroken, tmp_path):
    with pytest.raises(Killed):
        run(tmp_path, samples, tokenizer.space, WARM, show=cut_at(5))
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 4, "losses": {"a2')
    run(tmp_path, samples, tokenizer.space, WARM)
    assert_same(tmp_path, unbroken["warm"])


@PHASES
def test_a_finished_run_is_loaded_not_run_again(tokenizer, samples, tmp_path, params):
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


# --- what goes wrong --------------------------------------------------------------------------------------------------


def one_line(error) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(("field", "value"), [("weights_sha256", "0" * 64), ("cardinality", 300)])
def test_checkpoints_of_another_token_space_are_refused(tokenizer, samples, tmp_path, finished, field, value):
    with contextlib.suppress(Killed):
        run(tmp_path, samples, tokenizer.space, WARM, show=cut_at(None if finished else 5))
    before = sorted(tmp_path.rglob("*"))
    other = replace(tokenizer.space, image=tokenizer.space.image | {field: value})
    with pytest.raises(SpaceError, match=rf"field 'image\.{field}' is .*, expected '?{value}") as caught:
        run(tmp_path, samples, other, WARM)
    assert str(tmp_path) in one_line(caught)
    assert sorted(tmp_path.rglob("*")) == before, "nothing is thrown away"


@pytest.mark.parametrize("name", ["state.json", "optimiser.pt", "trainable_rows.safetensors"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_can_be_used(tokenizer, samples, unbroken, tmp_path, name):
    with pytest.raises(Killed):
        run(tmp_path, samples, tokenizer.space, WARM, show=cut_at(6))
    last = tmp_path / "checkpoint_000004"
    data = (last / name).read_bytes()
    for damaged in (data[: len(data) // 2], b"", b"{}"):
        (last / name).write_bytes(damaged)
        with pytest.raises(ModelError, match="can't be read") as caught:
            run(tmp_path, samples, tokenizer.space, WARM)
        assert last.name in one_line(caught)
    shutil.rmtree(last)
    run(tmp_path, samples, tokenizer.space, WARM)
    assert_same(tmp_path, unbroken["warm"])


def disk_full(kind: type):
    def write(*args, **kwargs):
        raise (
            kind(errno.ENOSPC, "No space left on device")
            if kind is OSError
            else kind("I/O error: No space left on device (os error 28)")
        )

    return write


FULL = {
    "lumo.storage.save_file": SafetensorError,
    "torch.save": RuntimeError,
    "lumo.training.checkpoints.write_atomically": OSError,
}


@pytest.mark.parametrize("where", FULL)
def test_a_full_disk_leaves_the_checkpoint_before_and_nothing_half_written(
    tokenizer, samples, unbroken, tmp_path, monkeypatch, where
):
    def show(progress):
        if progress.step == 4:  # the next thing is the second checkpoint
            monkeypatch.setattr(where, disk_full(FULL[where]))

    with pytest.raises(
        ModelError, match=r"checkpoint_000004: can't be written \(.*No space left .*; free some space, .* goes on where"
    ) as caught:
        run(tmp_path, samples, tokenizer.space, STAGE4, show=show)
    one_line(caught)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint_000002", "log.jsonl"]
    monkeypatch.undo()
    run(tmp_path, samples, tokenizer.space, STAGE4)
    assert_same(tmp_path, unbroken["stage4"])


@pytest.mark.parametrize("largest", [10_000, 20_000], ids=["rows", "moments"])
def test_a_file_that_the_system_refuses_to_grow_is_no_checkpoint(tokenizer, samples, unbroken, tmp_path, largest):
    """The real thing, as far as it goes without a disk of one's own: the rows take 14 kB, their moments 28."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def show(progress):
        if progress.step == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, limits[1]))

    try:
        with pytest.raises(ModelError, match="checkpoint_000004: can't be written") as caught:
            run(tmp_path, samples, tokenizer.space, WARM, show=show)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    one_line(caught)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint_000002", "log.jsonl"]
    run(tmp_path, samples, tokenizer.space, WARM)
    assert_same(tmp_path, unbroken["warm"])


def test_a_loss_that_is_not_finite_stops_with_one_line(tokenizer, samples, tmp_path):
    model = make_model(tokenizer.space, WARM)
    with torch.no_grad():
        model.new_rows.fill_(float("nan"))
    with pytest.raises(ModelError, match="loss is nan at step 0; lower the learning rates") as caught:
        train(model, make_feed(samples, tokenizer.space, WARM), WARM, tmp_path, 0)
    one_line(caught)
    assert not (tmp_path / "final").exists()


def test_a_task_without_sequences_is_named_with_its_drops(tokenizer, samples):
    pools = build_pools(samples, [*FOUR], tokenizer.space, max_seq_len=100)
    assert not pools["a2t"].sequences and not pools["t2a"].sequences
    with pytest.raises(
        ValueError, match=r"no sequence for a2t, t2a \(dropped for length: {'a2t': 6, 't2a': 6}\); raise max_seq_len"
    ) as caught:
        Feed(pools, Mixture(dict.fromkeys(FOUR, 0.25)), 250, tokenizer.space, 0)
    one_line(caught)
    assert Feed(pools, Mixture({"i2t": 0.5, "t2i": 0.5, "a2t": 0.0}), 250, tokenizer.space, 0).at(0).tokens


# --- corruption ------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1), seed=st.integers(0, 10**6), number=st.integers(0, 5), name=st.sampled_from([*FOUR]))
def test_corruption_changes_nothing_but_codes_of_the_answer(tokenizer, samples, share, seed, number, name):
    space = tokenizer.space
    fitting = [sample for sample in samples if TASKS[name].fits(sample)]
    sequence = TASKS[name].sequence(fitting[number % len(fitting)].ids, space)
    before = sequence.ids.copy()
    read = corrupted(sequence, space, share, np.random.default_rng(seed))
    assert np.array_equal(sequence.ids, before) and read.dtype == before.dtype
    assert np.array_equal(space.block_index(read), space.block_index(before))  # each from its own codebook
    changed = read != before
    media = space.block_index(before) >= 2
    assert not changed[~(sequence.is_target & media)].any()
    if share == 0 or name in ("a2t", "i2t"):
        assert not changed.any()


def test_corruption_strikes_its_share_evenly(tokenizer):
    space = tokenizer.space
    block = space.media_blocks[-1]
    sequence = SequenceBuilder().add(np.full(20_000, block.start), target=True).build()
    drawn = corrupted(sequence, space, 0.3, np.random.default_rng(0)) - block.start
    counts = np.bincount(drawn, minlength=block.size)
    assert abs((drawn != 0).mean() - 0.3 * (1 - 1 / block.size)) < 0.02
    assert counts[1:].min() > 0.7 * counts[1:].mean()


def test_a_corrupted_batch_reads_other_codes_and_learns_the_true_ones(samples, tokenizer):
    clean = make_feed(samples, tokenizer.space, STAGE4)
    noisy = Feed(clean.pools, clean.mixture, clean.tokens_per_batch, tokenizer.space, clean.seed, corruption=0.5)
    assert noisy.sha256 != clean.sha256
    for step in range(8, 12):
        a, b = clean.at(step), noisy.at(step)
        assert torch.equal(a.labels, b.labels) and torch.equal(a.segment_ids, b.segment_ids)
        assert torch.equal(b.input_ids, noisy.at(step).input_ids)
    assert any(not torch.equal(clean.at(step).input_ids, noisy.at(step).input_ids) for step in range(8, 12))


@pytest.mark.parametrize("size", [2, 3])
def test_corruption_is_the_same_for_any_number_of_processes(samples, tokenizer, size):
    clean = make_feed(samples, tokenizer.space, STAGE4)
    feed = Feed(clean.pools, clean.mixture, 600, tokenizer.space, 0, corruption=0.5)

    def segments(batches):
        found = []
        for batch in batches:
            for ids, marks in zip(batch.input_ids, batch.segment_ids, strict=True):
                found += [tuple(ids[marks == mark].tolist()) for mark in range(1, int(marks.max()) + 1)]
        return sorted(found)

    for step in (0, 9):
        assert segments([feed.at(step)]) == segments([feed.at(step, rank, size) for rank in range(size)])


# --- batches by number ------------------------------------------------------------------------------------------------


def parts(batch):
    return [value.tolist() for value in vars(batch).values()]


@given(steps=st.lists(st.integers(0, 40), min_size=1, max_size=6))
@settings(SHARED_FIXTURES, max_examples=15)
def test_a_batch_depends_on_its_number_alone(tokenizer, samples, steps):
    feed = make_feed(samples, tokenizer.space, STAGE4)
    for step in steps:
        assert parts(feed.at(step)) == parts(make_feed(samples, tokenizer.space, STAGE4).at(step))


def test_batches_differ_by_step_and_by_seed(tokenizer, samples):
    feed, other = (make_feed(samples, tokenizer.space, STAGE4, seed) for seed in (0, 1))
    batches = [str(parts(f.at(step))) for f in (feed, other) for step in range(10)]
    assert len(set(batches)) == 20


@given(step=st.integers(0, 30), budget=st.integers(1, 600))
@settings(SHARED_FIXTURES, max_examples=30)
def test_a_batch_holds_whole_sequences_about_as_many_as_the_budget(tokenizer, samples, step, budget):
    feed = make_feed(samples, tokenizer.space, STAGE4.model_copy(update={"tokens_per_batch": budget}))
    batch = feed.at(step)
    known = {tuple(line.ids.tolist()): name for name in feed.names for line in feed.pools[name].sequences}
    count = 0
    for row in range(len(batch.input_ids)):
        for segment in range(1, int(batch.segment_ids[row].max()) + 1):
            here = batch.segment_ids[row] == segment
            name = known[tuple(batch.input_ids[row][here].tolist())]
            assert set(batch.groups[row][here].tolist()) == {feed.names.index(name)}
            assert step > STAGE4.ramp_steps or TASKS[name].target == "text"
            count += 1
    longest = max(map(len, known))
    assert 0.95 * budget <= batch.tokens < budget + longest and count > 0


def test_shares_of_tasks_are_the_mixtures(tokenizer, samples):
    params = STAGE4.model_copy(
        update={"ramp_steps": 0, "rates": {"a2t": 0.1, "i2t": 0.2, "t2a": 0.3, "t2i": 0.4}, "tokens_per_batch": 1}
    )
    feed = make_feed(samples, tokenizer.space, params)  # a batch of one sequence
    counts = np.bincount([int(feed.at(step).groups[0, 0]) for step in range(1500)], minlength=4) / 1500
    np.testing.assert_allclose(counts, [0.1, 0.2, 0.3, 0.4], atol=0.05)


@pytest.mark.parametrize("change", ["target flag", "id", "order", "seed", "rates"])
def test_data_hash_sees_every_change(tokenizer, samples, change):
    feed = make_feed(samples, tokenizer.space, WARM)
    pools = dict(feed.pools)
    lines = [replace(line, ids=line.ids.copy(), is_target=line.is_target.copy()) for line in pools["i2t"].sequences]
    mixture, seed = feed.mixture, 0
    if change == "target flag":
        lines[0].is_target[3] ^= True
    elif change == "id":
        lines[-1].ids[-1] += 1
    elif change == "order":
        lines = lines[::-1]
    elif change == "seed":
        seed = 1
    else:
        mixture = Mixture({"a2t": 0.5, "i2t": 0.4})
    pools["i2t"] = Pool(lines, 0)
    assert Feed(pools, mixture, 250, tokenizer.space, seed).sha256 != feed.sha256
    assert make_feed(samples, tokenizer.space, WARM).sha256 == feed.sha256


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


@pytest.mark.parametrize("size", [2, 3])
def test_the_parts_of_a_batch_are_the_batch(tokenizer, samples, size):
    feed = make_feed(samples, tokenizer.space, TWICE)

    def lines(batch):
        return sorted(
            (int(g[0]), tuple(ids.tolist()))
            for row in range(len(batch.input_ids))
            for segment in range(1, int(batch.segment_ids[row].max()) + 1)
            for g, ids in [
                (
                    batch.groups[row][batch.segment_ids[row] == segment],
                    batch.input_ids[row][batch.segment_ids[row] == segment],
                )
            ]
        )

    whole = feed.at(3)
    parts = [feed.at(3, rank, size) for rank in range(size)]
    assert sorted(line for part in parts for line in lines(part)) == lines(whole)


def test_what_is_drawn_follows_the_rates_whatever_the_lengths(tokenizer):
    """Four tasks at equal rates, two of them five times as long as the others, in batches of a few samples."""
    space, rng = tokenizer.space, np.random.default_rng(0)
    lengths = dict(zip(FOUR, (250, 50, 250, 50), strict=True))
    pools = {
        name: Pool([TokenSequence(rng.integers(0, 9, n + i), np.arange(n + i) > 3) for i in range(8)], 0, 0)
        for name, n in lengths.items()
    }
    feed = Feed(pools, Mixture(dict.fromkeys(FOUR, 0.25), 0), 600, space, 0)
    counts = np.zeros(len(FOUR))
    for step in range(400):
        batch = feed.at(step)
        begins = batch.position_ids.eq(0) & batch.segment_ids.gt(0)
        counts += np.bincount(batch.groups[begins].numpy(), minlength=len(FOUR))
        assert 0.95 * 600 <= batch.tokens < 600 + max(lengths.values()) + 8
    assert counts / counts.sum() == pytest.approx(
        np.full(len(FOUR), 0.25), abs=0.03
    )  # 0.21 to 0.29 where the last one is left out


def test_a_batch_of_one_sample_longer_than_the_budget_is_one(tokenizer):
    pools = {"a2t": Pool([TokenSequence(np.arange(50), np.arange(50) > 3)], 0, 0)}
    feed = Feed(pools, Mixture({"a2t": 1.0}, 0), 40, tokenizer.space, 0)
    assert feed.at(0).tokens == 50


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


def test_more_processes_than_sequences_are_refused(tokenizer, samples):
    feed = make_feed(samples, tokenizer.space, TWICE)
    with refused(TaskError, "sequences in a batch for 999 processes", "raise tokens_per_batch, or start fewer"):
        feed.at(0, 0, 999)


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
