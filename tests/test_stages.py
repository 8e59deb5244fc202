"""A stage without a notebook is the notebook's: the same loop on the same artifacts, and a finished one is loaded."""

from __future__ import annotations

import json
import shutil

import pytest
from refusals import refused

from lumo import stages, storage
from lumo.backbone import load_model
from lumo.datasets import world
from lumo.model import ModelError
from lumo.params import load_profile
from lumo.shards import Plan, write_shards


@pytest.fixture
def profile(toy_folder):
    audio = {"name": "encodec", "path": str(toy_folder / "encodec"), "bandwidth_kbps": 0.4}
    codecs = {"image": {"path": str(toy_folder / "image_codec")}, "audio": audio}
    short = {"steps": 3, "log_every": 1, "checkpoint_every": 2}
    return load_profile(
        "smoke", {"codecs": codecs, "backbone": {"path": str(toy_folder / "backbone")}, "stage4": short}
    )


@pytest.fixture
def artifacts(profile, tokenizer, tmp_path):
    manifest = world.write_world(tmp_path / "world", seed=0, images=16, clips=16)
    write_shards(manifest, tmp_path / "shards", tokenizer, Plan(0.1, "world-held-out", 100))
    storage.save(load_model(profile, tokenizer.space), tmp_path / "warm_start" / "final")
    return tmp_path


def test_stage4_trains_once_and_is_then_loaded(profile, artifacts):
    shown = []
    result = stages.stage4(profile, artifacts, lambda progress: shown.append(progress.as_row()))
    assert set(result["tasks"]) <= {"a2t", "i2t", "t2a", "t2i"} and (artifacts / "stage4" / "final").is_dir()
    assert [row["step"] for row in shown] == ["1 of 3", "2 of 3", "3 of 3"]
    assert {"tokens/s", "left", "of ceiling"} <= set(shown[0])
    log = (artifacts / "stage4" / "log.jsonl").read_text()
    assert stages.stage4(profile, artifacts, pytest.fail) == result
    assert (artifacts / "stage4" / "log.jsonl").read_text() == log and len(log.splitlines()) == 3
    assert json.loads(log.splitlines()[0])["tokens"] > 0


def test_processes_beside_a_notebook_train_and_the_notebook_loads(profile, artifacts):
    """Stage 4's real command, twice: for the figures of one process, and for the first thing that goes wrong."""
    artifacts.rename(artifacts.with_name("artifacts"))
    folder = artifacts.parent
    shown = []
    two = profile.model_copy(update={"processes": 2})
    stages.shared_stage4(two, folder, shown.append)
    log = folder / "artifacts" / "stage4" / "log.jsonl"
    steps = [json.loads(line)["losses"] for line in log.read_text().splitlines()]
    written = log.read_text()
    loaded = stages.stage4(two, folder / "artifacts", pytest.fail)  # nothing is left to train
    assert log.read_text() == written and loaded["tokens"] > 0
    alone = folder / "alone"
    for name in ("shards", "warm_start"):
        shutil.copytree(folder / "artifacts" / name, alone / name)
    stages.stage4(profile, alone, lambda progress: None)
    for line, losses in zip((alone / "stage4" / "log.jsonl").read_text().splitlines(), steps, strict=True):
        assert json.loads(line)["losses"] == pytest.approx(losses, rel=1e-4)
    shutil.rmtree(folder / "artifacts" / "warm_start")
    shutil.rmtree(folder / "artifacts" / "stage4")
    with refused(ModelError, "stage 4 in 2 processes: ModelError:", "warm_start/final: no checkpoint there"):
        stages.shared_stage4(two, folder, shown.append)


def test_the_newest_line_of_a_log_is_shown_when_it_is_whole(tmp_path):
    log = tmp_path / "log.jsonl"
    line = {
        "step": 4,
        "losses": {"a2t": 6.0, "t2a": 0.0},
        "target_tokens": {"a2t": 3, "t2a": 0},
        "tokens": 50,
        "seconds": 0.5,
        "real_share": 1.0,
    }
    assert stages._newest(log, 9) is None
    log.write_text(json.dumps(line))
    assert stages._newest(log, 9) is None
    log.write_text(json.dumps(line) + "\n" + '{"step": 5, "los')
    assert stages._newest(log, 9) == {"step": "5 of 9", "a2t loss": 2.0, "tokens/s": 100.0}


def test_a_warm_start_that_is_not_there_is_named(profile, artifacts):
    (artifacts / "warm_start").rename(artifacts / "other")
    with refused(ModelError, "warm_start/final: no checkpoint there; run the notebook that makes it"):
        stages.stage4(profile, artifacts, pytest.fail)
