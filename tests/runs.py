"""Training runs of toys: how tests start them, cut them, share them between processes, and hold what they leave against another's."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_base
from safetensors.torch import load_file

from lumo import parallel
from lumo.model import LumoModel
from lumo.params import Stage4, Training
from lumo.tasks import Mixture, build_pools
from lumo.training import Feed, prepare, train

SHARED = {"steps": 7, "tokens_per_batch": 250, "max_seq_len": 320, "rows_learning_rate": 1e-2,
          "warmup_steps": 2, "checkpoint_every": 2, "log_every": 1}  # fmt: skip
FOUR = ("a2t", "i2t", "t2a", "t2i")  # what the samples here are for
WARM = Training(**SHARED, rates={"a2t": 0.5, "i2t": 0.5})
STAGE4 = Stage4(**SHARED, rates=dict.fromkeys(FOUR, 0.25), lora_rank=2, lora_learning_rate=3e-3, ramp_steps=2)
PHASES = {"warm": WARM, "stage4": STAGE4}
TWICE = STAGE4.model_copy(update={"tokens_per_batch": 700})


class Killed(BaseException):
    """What no code catches."""


def make_feed(samples, space, params: Training, seed: int = 0) -> Feed:
    mixture = Mixture(params.rates, getattr(params, "ramp_steps", 0))
    pools = build_pools(samples, [*params.rates], space, params.max_seq_len)
    return Feed(pools, mixture, params.tokens_per_batch, space, seed)


def make_model(space, params: Training, seed: int = 0) -> LumoModel:
    model = LumoModel(make_base(), space, seed)
    if isinstance(params, Stage4):
        prepare(model, params, seed)
    return model


def run(folder: Path, samples, space, params: Training, seed: int = 0, show=lambda progress: None):
    """A run from scratch, as a notebook starts it; the trained model and the result."""
    model = make_model(space, params, seed)
    return model, train(model, make_feed(samples, space, params, seed), params, folder, seed, show)


@pytest.fixture(name="unbroken", scope="module")
def fixture_unbroken(tokenizer, samples, tmp_path_factory) -> dict[str, Path]:
    """A run of each phase that was never cut: its folder."""
    folders = {phase: tmp_path_factory.mktemp(phase) for phase in PHASES}
    for phase, params in PHASES.items():
        run(folders[phase], samples, tokenizer.space, params)
    return folders


def cut_at(step: int):
    def show(progress):
        if progress.step == step:
            raise Killed

    return show


def outcome(folder: Path) -> tuple[dict, list[dict]]:
    """All that a run leaves: its weights and its log, clock aside."""
    final = folder / "final"
    weights = load_file(final / "trainable_rows.safetensors")
    if (final / "adapter").is_dir():
        weights |= load_file(final / "adapter" / "adapter_model.safetensors")
    if (final / "backbone").is_dir():
        weights |= load_file(final / "backbone" / "model.safetensors")
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    for line in log:
        assert line.pop("seconds") >= 0
    return weights, log


def assert_same(folder: Path, unbroken: Path) -> None:
    (weights, log), (expected, expected_log) = outcome(folder), outcome(unbroken)
    assert log == expected_log
    assert weights.keys() == expected.keys()
    for name, value in weights.items():
        assert torch.equal(value, expected[name]), name


def start(context: BaseContext, work: Callable[..., None], *arguments: Any) -> list[BaseProcess]:
    """Two processes of one run, each told its rank and where to meet. context: of multiprocessing"""
    port = free_port()
    processes = [context.Process(target=work, args=(rank, port, *arguments), daemon=True) for rank in range(2)]
    for process in processes:
        process.start()
    return processes


def join(rank: int, port: int) -> None:
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    parallel.join("cpu")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
