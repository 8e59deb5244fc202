"""What came of golden suites: figures by hand, and files named by task and number."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from goldens import fixture_held, fixture_results, fixture_suite  # noqa: F401 - fixtures

from lumo import golden, scores
from lumo.datasets import world
from lumo.golden import figures, write_media
from lumo.media import Audio, wav_bytes
from lumo.tasks import TASKS

KEYS = {  # `attributes_right` or `all_right` of the other kind stands beside them
    "t2a": {"cases", "decoded", "all_right", "ceiling", "floor"},
    "t2i": {"cases", "decoded", "all_right", "ceiling", "floor"},
    "a2t": {"cases", "attributes_right", "floor"},
    "i2t": {"cases", "attributes_right", "floor"},
    "ia2t": {"cases", "attributes_right", "floor"},
}


@pytest.mark.parametrize("name", TASKS)
def test_figures_by_hand(results, name):
    part, numbers = results[name], figures(results[name])
    assert numbers.keys() >= KEYS[name]
    assert numbers["cases"] == 5
    if name in ("t2a", "t2i"):
        assert numbers["decoded"] == 5
        for key, field in (("all_right", "right"), ("ceiling", "ceiling"), ("floor", "floor")):
            assert numbers[key] == sum(all(getattr(result, field).values()) for result in part) / 5
    else:
        for key, field in (("attributes_right", "right"), ("floor", "floor")):
            flags = [flag for result in part for flag in getattr(result, field).values()]
            assert numbers[key] == sum(flags) / len(flags)
    lost = figures([replace(result, decoded=i > 1) for i, result in enumerate(part)])
    assert lost.get("decoded", 3) == 3
    assert json.loads(json.dumps(numbers)) == numbers


def test_perfect_answers_have_perfect_figures_and_lost_ones_have_none(results):
    part = [replace(result, right=dict.fromkeys(result.right, True)) for result in results["t2i"]]
    assert figures(part)["all_right"] == figures(part)["attributes_right"] == 1
    assert set(golden.by_attribute(part).values()) == {1}
    scene = world.scenes("image")[0]
    assert scores.attributes(None, scene) == dict.fromkeys(scene.attributes, False)
    assert all(scores.attributes(scene.caption(2), scene).values())


def test_by_attribute_counts_those_that_have_it(results):
    part = results["a2t"]
    shares = golden.by_attribute(part)
    for name, share in shares.items():
        flags = [result.right[name] for result in part if name in result.right]
        assert share == sum(flags) / len(flags)
    assert shares.keys() == {name for result in part for name in result.right}


def test_files_are_named_by_task_and_number_never_by_data(results, tmp_path):
    hostile = {
        name: [
            replace(result, id=f"../../{i}\n<b>", prompt=("../x",) if name in ("t2a", "t2i") else result.prompt)
            for i, result in enumerate(part)
        ]
        for name, part in results.items()
    }
    files = write_media(tmp_path / "out", hostile)
    expected = {f"{name}/{i:02d}.{'png' if name == 't2i' else 'wav'}" for name in ("t2i", "t2a") for i in range(5)}
    expected |= {f"{name}.jsonl" for name in TASKS}
    assert {str(path.relative_to(tmp_path / "out")) for path in tmp_path.rglob("*") if path.is_file()} == expected
    assert {str(path.relative_to(tmp_path / "out")) for path in files} == expected
    for name in TASKS:
        lines = [json.loads(line) for line in (tmp_path / "out" / f"{name}.jsonl").read_text().splitlines()]
        assert [line["id"] for line in lines] == [result.id for result in hostile[name]]
        assert [line["ids"] for line in lines] == [result.ids.tolist() for result in hostile[name]]
        assert [line["right"] for line in lines] == [result.right for result in hostile[name]]
        if TASKS[name].target != "text":
            assert all((tmp_path / "out" / line["answer"]).is_file() for line in lines)
    wav = (tmp_path / "out" / "t2a" / "00.wav").read_bytes()
    assert isinstance(results["t2a"][0].generated, Audio)
    assert wav == wav_bytes(results["t2a"][0].generated)
