"""The audit of a manifest: rows against their files' headers; each planted fault is counted and named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image as PILImage
from refusals import check_line, refused

from lumo.datasets import world
from lumo.datasets.audit import NAMED, audit_manifest
from lumo.datasets.manifest import ManifestError

NONE = {"broken_rows": 0, "bad_files": 0, "bad_tasks": 0, "no_licence": 0}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return world.write_world(tmp_path_factory.mktemp("world"), seed=0, images=6, clips=4, pairs=2)


@pytest.fixture
def manifest(written, tmp_path):
    """A test's own, beside the world's files."""
    return Path(shutil.copy(written, written.with_name(f"{tmp_path.name}.jsonl")))


def edit(manifest, **changes):
    """Change the first row."""
    first, *others = manifest.read_text().splitlines()
    row = json.loads(first) | changes
    manifest.write_text("\n".join([json.dumps(row), *others]) + "\n")
    return row


def test_the_world_is_as_it_says(manifest):
    audit = audit_manifest(manifest)
    rows = len(manifest.read_text().splitlines())
    assert audit.counts == {"rows": rows} | NONE and audit.faults == []
    assert set(audit.kinds) == {"image: 64 x 64 pixels", "audio: 16000 Hz, 1 channel"}
    assert audit.durations_s == {1.0: audit.kinds["audio: 16000 Hz, 1 channel"]}


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"task": "t2v"}, "bad_tasks", "task is 't2v', expected i2t or t2i by its media"),
        ({"task": "a2t"}, "bad_tasks", "task is 'a2t', expected i2t or t2i by its media"),
        ({"license": ""}, "no_licence", "its licence isn't known"),
        ({"license": "Unknown"}, "no_licence", "its licence isn't known"),
        ({"modalities": {"image": {"path": "../../x.png"}}}, "bad_files", "leaves the manifest's folder"),
        ({"modalities": {"image": {"path": "none.png"}}}, "bad_files", "no file there"),
        ({"modalities": {"image": {"path": "x" * 400}}}, "bad_files", "no file there"),
        ({"modalities": {"image": {"path": "manifest.jsonl"}}}, "bad_files", "not a readable image"),
        ({"modalities": {}}, "broken_rows", "neither image nor audio"),
        ({"colour": 1}, "broken_rows", "colour: extra inputs"),
    ],
)
def test_each_fault_is_found_and_it_alone(manifest, changes, kind, words):
    edit(manifest, **changes)
    audit = audit_manifest(manifest)
    assert {name: audit.counts[name] for name in NONE} == NONE | {kind: 1}
    (line,) = audit.faults
    check_line(line, words)


def test_files_of_other_sizes_rates_and_lengths_are_seen(manifest):
    folder = manifest.parent
    PILImage.new("RGB", (30, 20)).save(folder / "small.png")
    soundfile.write(folder / "long.flac", np.zeros((88_200, 2)), 44_100)
    (folder / "cut.wav").write_bytes(b"RIFF")
    edit(manifest, modalities={"image": {"path": "small.png"}, "audio": {"path": "long.flac"}}, task="ia2t")
    audit = audit_manifest(manifest)
    assert (
        audit.kinds["image: 30 x 20 pixels"]
        == audit.kinds["audio: 44100 Hz, 2 channels"]
        == audit.durations_s[2.0]
        == 1
    )
    assert not audit.faults
    edit(manifest, modalities={"audio": {"path": "cut.wav"}}, task="a2t")
    check_line(*audit_manifest(manifest).faults, "cut.wav: not a readable audio")


def test_many_faults_are_counted_and_some_named(manifest):
    row = json.loads(manifest.read_text().splitlines()[0]) | {"task": "none"}
    manifest.write_text("".join(json.dumps(row | {"id": str(n)}) + "\n" for n in range(NAMED + 5)))
    audit = audit_manifest(manifest)
    assert audit.counts["bad_tasks"] == NAMED + 5 and len(audit.faults) == NAMED


def test_no_manifest_is_refused(tmp_path):
    with refused(ManifestError, "nowhere.jsonl: can't be read"):
        audit_manifest(tmp_path / "nowhere.jsonl")
