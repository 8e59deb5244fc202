"""Sizes that no run has: `lumo plan` answers with a plan or with one line, and never by building what they ask for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from refusals import check_line, refused

from lumo import plan, preview
from lumo.params import ParamsError, deep_merge, dotted, load_profile
from lumo.tasks import TaskError
from lumo.workbook.errors import is_expected, one_line

QUICK = {"world": {"images": 20, "clips": 20, "pairs": 1}}


def numbers(tree: dict[str, Any], above: str = "") -> Iterator[str]:
    """Dotted keys of all numbers."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from numbers(value, f"{above}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield above + key


FIELDS = sorted(numbers(load_profile("smoke").model_dump()))


@pytest.fixture
def glance(monkeypatch):
    """A plan looks at few rows and few tokens; how many they are says nothing more of the sizes."""
    every_row = preview.world.rows
    monkeypatch.setattr(preview, "ROWS_LOOKED_AT", 20)
    monkeypatch.setattr(plan, "BATCH_LOOKED_AT", 512)
    monkeypatch.setattr(
        preview.world,
        "rows",
        lambda **how_many: (
            row for number, row in enumerate(every_row(**how_many)) if row["source"] == "world" or number % 8 == 0
        ),
    )


@pytest.mark.parametrize("size", [10**6, 2**53])
@pytest.mark.parametrize("field", FIELDS)
def test_a_plan_or_one_line(field, size, tmp_path, glance):
    try:
        profile = load_profile("smoke", deep_merge(QUICK, dotted(field, size)))
        said = plan.forecast(profile)
        plan.check(said, 2**40, tmp_path)
        assert all(seconds > 0 for seconds in plan.seconds(said, profile, plan.rates(said, 1000.0)).values())
    except Exception as error:
        assert is_expected(error), repr(error)
        check_line(one_line(error))


@pytest.mark.parametrize("field", ["stage4.steps", "world.images", "golden.cases", "seed"])
def test_what_no_machine_counts_to_is_refused_in_a_short_line(field):
    with refused(ParamsError, field, "less than or equal to 9007199254740992") as _:
        load_profile("smoke", dotted(field, 10**400))
    with pytest.raises(ParamsError) as caught:
        load_profile("smoke", dotted(field, 10**4000))
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(("field", "size"), [("stage4.lora_rank", 2**16 + 1), ("codecs.audio.clip_s", 301.0)])
def test_bounds_that_a_field_has_of_its_own(field, size):
    with refused(ParamsError, field, "less than or equal to"):
        load_profile("smoke", dotted(field, size))


def test_a_world_looked_at_in_part_is_said_and_counts_for_the_whole(monkeypatch):
    profile = load_profile("smoke", {"world": {"images": 600, "clips": 300}})
    whole = plan.forecast(profile)
    monkeypatch.setattr(preview, "ROWS_LOOKED_AT", 200)
    part = plan.forecast(profile)
    assert any("stand for" in line for line in part.assumed) and not whole.assumed
    for name, task in whole.tasks.items():
        assert part.tasks[name]["sequences"] == pytest.approx(task["sequences"], rel=0.05)
        assert part.tasks[name]["longest"] == pytest.approx(task["longest"], rel=0.1)
    for name, size in whole.disk_bytes.items():
        assert part.disk_bytes[name] == pytest.approx(size, rel=0.1)


def test_a_large_batch_is_as_many_times_as_large_as_the_one_looked_at(monkeypatch):
    profile = load_profile("smoke", deep_merge(QUICK, {"stage4": {"tokens_per_batch": 4096}}))
    whole = plan.forecast(profile)
    monkeypatch.setattr(plan, "BATCH_LOOKED_AT", 1024)
    part = plan.forecast(profile)
    assert part.steps["stage4"].tokens == pytest.approx(whole.steps["stage4"].tokens, rel=0.1)
    for name in ("activations", "logits"):
        assert part.training_bytes[name] == pytest.approx(whole.training_bytes[name], rel=0.25)


def test_more_cases_than_the_golden_source_has_are_refused_before_a_run():
    with refused(plan.PlanError, "golden suite", "cases at hand, expected 10000000", "lower golden.cases"):
        plan.forecast(load_profile("smoke", deep_merge(QUICK, {"golden": {"cases": 10**7}})))


def test_more_processes_than_a_batch_has_sequences_are_refused():
    with refused(TaskError, "sequences in a batch for 1000000 processes"):
        plan.forecast(load_profile("smoke", deep_merge(QUICK, {"processes": 10**6})))
