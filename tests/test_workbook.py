"""The workbook without notebooks: how a run begins, its folder, its figures, its pages."""

from __future__ import annotations

import errno
import json
import math
import re

import numpy as np
import pytest
import yaml
from refusals import refused
from workbooks import TODAY, finish, fixture_own_reports  # noqa: F401 - fixtures

from lumo import files
from lumo.params import PARAMS, ROOT, ParamsError, load_profile
from lumo.workbook import WorkbookError, begin, folders, metrics, progress
from lumo.workbook.errors import one_line
from lumo.workbook.pages import write_index, write_reports_index

# --- begin ------------------------------------------------------------------------------------------------------------


def test_begin_resolves_profile_and_overrides(own_reports):
    namespace = {"profile": "mini", "run_dir": None, "seed": None, "golden": {}, "stage4": {"steps": 7}, "np": np}
    run = begin("04_stage4", namespace)
    assert run.profile == load_profile("mini", {"stage4": {"steps": 7}})
    assert run.folder == own_reports / f"{TODAY}-mini"
    assert folders.read_profile(run.folder) == load_profile("mini")
    assert run.overrides == {"stage4.steps": 7}
    assert run.seconds() >= 0 and run.device == "cpu"


def test_overrides_of_one_notebook_are_recorded(own_reports):
    first = begin("01_a", {})
    later = begin("04_b", {"stage4": {"steps": 7}, "seed": 3})
    assert later.folder == first.folder
    assert later.overrides == {"stage4.steps": 7, "seed": 3}
    assert metrics.at(later.metrics(), "runs.04_b.overrides") == {"stage4": {"steps": 7}, "seed": 3}
    assert metrics.at(later.metrics(), "runs.01_a.overrides") == {}
    assert folders.read_profile(first.folder) == load_profile("mini")


def test_whole_profile_as_parameters_needs_no_file():
    """`papermill -f my.yaml` injects the file's keys and says nothing of the file."""
    own = yaml.safe_load((PARAMS / "mini.yaml").read_text()) | {"profile": "mine", "seed": 5}
    run = begin("01_a", dict(own))
    assert (run.profile.profile, run.profile.seed) == ("mine", 5)
    assert run.folder.name == f"{TODAY}-mine"


def test_environment_replaces_only_the_default_profile(tmp_path, monkeypatch):
    own = yaml.safe_load((PARAMS / "mini.yaml").read_text()) | {"profile": "other"}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(own))
    (tmp_path / "third.yaml").write_text(yaml.safe_dump(own | {"profile": "third"}))
    monkeypatch.setenv("LUMO_PROFILE", str(tmp_path / "other.yaml"))
    assert begin("01_a", {"profile": "mini"}).profile.profile == "other"
    assert begin("01_a", {"profile": str(tmp_path / "third.yaml")}).profile.profile == "third"


@pytest.mark.parametrize(
    ("namespace", "line"),
    [
        ({"stage4": {"stepz": 1}}, r"mini\.yaml with parameters of 04_b: unknown key 'stage4\.stepz'"),
        ({"seed": "x"}, "seed is 'x'"),
        ({"profile": "minni"}, r"profile 'minni' \(perhaps 'mini'\?\): no file"),
        ({"profile": 3}, "04_b: profile is 3, expected a name"),
        ({"run_dir": 3}, "run_dir is 3, expected a path"),
        ({"In": ["", "seed = None", "# Parameters\nstpes = 3\n"]}, "04_b: unknown parameter 'stpes'; expected one of"),
        ({"In": ["", "", "# Parameters\nstag4 = 3\n"]}, r"unknown parameter 'stag4' \(perhaps 'stage4'\?\)"),
    ],
)
def test_bad_parameters_are_one_line(namespace, line):
    with pytest.raises(ParamsError, match=line) as caught:
        begin("04_b", namespace)
    assert "\n" not in str(caught.value)


def test_known_parameters_of_a_notebook_pass():
    begin("04_b", {"In": ["", "interactive = False", "# Parameters\ninteractive = True\nseed = 1\nrun_dir = 'x'\n"]})


def test_module_must_not_hide_a_parameter():
    with pytest.raises(WorkbookError, match="04_b: 'golden' is a module here, and hides the parameter 'golden'"):
        begin("04_b", {"golden": math})


def test_an_alias_bomb_is_one_short_line(tmp_path):
    bomb = "&a [x, x, x, x, x, x, x, x, x]"
    for name, inner in zip("bcdefghij", "abcdefghi", strict=True):
        bomb = f"&{name} [{bomb}" + f", *{inner}" * 8 + "]"
    (tmp_path / "bomb.yaml").write_text(f"profile: {bomb}\n")
    with pytest.raises(ParamsError, match=r"bomb\.yaml: profile is") as caught:
        load_profile(str(tmp_path / "bomb.yaml"))
    assert max(map(len, str(caught.value).splitlines())) < 400


# --- folders ----------------------------------------------------------------------------------------------------------


def test_run_dir_choice(own_reports, tmp_path, monkeypatch):
    first = begin("01_a", {}).folder
    assert begin("02_b", {}).folder == first
    finish(first)
    second = begin("01_a", {}).folder
    assert second.name == f"{TODAY}-mini-2"
    finish(second)
    assert begin("01_a", {}).folder.name == f"{TODAY}-mini-3"
    assert begin("01_a", {"run_dir": str(first)}).folder == first
    monkeypatch.setenv("LUMO_RUN_DIR", str(tmp_path / "there"))
    assert begin("01_a", {}).folder == tmp_path / "there"
    assert begin("01_a", {"run_dir": str(first)}).folder == first


def test_newest_folder_is_by_date_then_number(own_reports):
    for name in ("2026-01-02-mini", "2026-01-01-mini-11", "2026-01-02-mini-10", "2026-01-02-mini-9", "sample-mini"):
        (own_reports / name).mkdir(parents=True)
    assert [folder.name for folder in folders.runs_of(own_reports, "mini")] == [
        "2026-01-01-mini-11",
        "2026-01-02-mini",
        "2026-01-02-mini-9",
        "2026-01-02-mini-10",
    ]


def test_folder_of_another_profile_is_refused(tmp_path):
    own = yaml.safe_load((PARAMS / "mini.yaml").read_text()) | {"profile": "mine"}
    folder = begin("01_a", dict(own)).folder
    with pytest.raises(WorkbookError, match="holds a run of profile 'mine', got 'mini'; choose another run_dir"):
        begin("01_a", {"run_dir": str(folder)})


def test_two_runners_in_one_folder(tmp_path):
    second = folders.only_runner(tmp_path)
    with folders.only_runner(tmp_path), pytest.raises(WorkbookError, match="another lumo is running in"):
        second.__enter__()


@pytest.mark.parametrize("content", ["", "[]", "{", "3", "null", "\udcff"])
@pytest.mark.parametrize("name", ["progress.json", "metrics.json", "metrics/01_a.json", "report.json"])
def test_a_damaged_file_of_a_run_is_one_line(name, content, tmp_path):
    (tmp_path / "metrics").mkdir()
    (tmp_path / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    with refused(WorkbookError, str(tmp_path / name), "damaged, expected a JSON object", "remove the file"):
        progress.read(tmp_path), metrics.read_metrics(tmp_path), metrics.read_part(tmp_path, "01_a")
        folders.read_summary(tmp_path)


# --- artifacts and figures --------------------------------------------------------------------------------------------


def test_missing_input_names_the_notebook_that_makes_it(own_reports):
    run = begin("04_stage4", {})
    line = f"04_stage4 needs artifacts/warm_start, which isn't in {run.folder}; run 03_warm_start first (lumo run 03)"
    with pytest.raises(WorkbookError, match=re.escape(line) + "$"):
        run.needs("warm_start", made_by="03_warm_start")
    run.path("warm_start").mkdir()
    assert run.needs("warm_start", made_by="03_warm_start") == run.folder / "artifacts" / "warm_start"
    finish(run.folder)
    with pytest.raises(WorkbookError, match=re.escape(f"or set run_dir to {run.folder}, which has it")):
        begin("04_stage4", {}).needs("warm_start", made_by="03_warm_start")


def test_figures_merge_over_keys_and_notebooks():
    one, two = begin("01_a", {}), begin("02_b", {})
    one.record({"golden.t2a": {"cases": np.int64(64)}, "flags": [np.bool_(True)]}, loss=np.float32(0.5))
    one.record({"golden": {"t2a.decoded": 64}})
    two.record({"golden.t2i.cases": 3, "curve": np.arange(3)})
    figures = json.loads((one.folder / "metrics.json").read_text())
    assert figures["golden"] == {"t2a": {"cases": 64, "decoded": 64}, "t2i": {"cases": 3}}
    assert (figures["flags"], figures["loss"], figures["curve"]) == ([True], 0.5, [0, 1, 2])
    assert figures == one.metrics() == two.metrics()


def test_figures_that_are_not_finite_are_text():
    run = begin("01_a", {})
    run.record(a=float("nan"), b=[np.float32("inf"), -math.inf])
    assert (run.metrics()["a"], run.metrics()["b"]) == ("nan", ["inf", "-inf"])


@pytest.mark.parametrize(
    ("figures", "line"),
    [
        ({"x": object()}, "figure 'x' is object, expected a number"),
        ({3: 1}, "a figure is named 3, expected text"),
        ({"loss.a": 1}, "figure 'loss' is both a value and a group"),
    ],
)
def test_figures_that_cannot_be_kept_are_refused(figures, line):
    run = begin("01_a", {})
    run.record(loss=1)
    with pytest.raises(WorkbookError, match=line):
        run.record(figures)
    assert run.metrics()["loss"] == 1


def test_beginning_again_drops_the_notebooks_old_figures():
    run = begin("01_a", {})
    run.record(old=1)
    progress.note_done(run.folder, "01_a", "inputs", 1)
    begin("02_b", {}).record(kept=1)
    again = begin("01_a", {})
    assert "old" not in again.metrics() and again.metrics()["kept"] == 1
    assert progress.read(run.folder) == {}


def test_metrics_survive_a_write_that_is_cut(monkeypatch):
    run = begin("01_a", {})
    run.record(a=1)
    before = (run.folder / "metrics.json").read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError) as caught:
        run.record(a=2)
    assert (run.folder / "metrics.json").read_bytes() == before
    assert not list(run.folder.rglob("*.partial"))
    assert re.match(
        "disk full while writing .*: free some space, then run the same command again", one_line(caught.value)
    )


def test_provenance_is_plain_and_names_no_path():
    origin = begin("01_a", {}).provenance()
    assert json.loads(json.dumps(origin)) == origin
    assert set(origin["versions"]) == {"python", "lumo", "torch", "transformers", "peft"}
    assert str(ROOT) not in json.dumps(origin)


# --- pages ------------------------------------------------------------------------------------------------------------


def test_index_is_escaped_and_says_the_verdict_first(own_reports):
    bad = '<img src=x onerror="alert(1)">'
    run = begin("01_a", {})
    gate = {"name": bad, "got": bad, "expected": bad, "passed": False}
    run.record({"gates.01_a": [gate, {"name": "fine", "got": 1, "expected": "1", "passed": True}]})
    run.record({"space_sha256": bad, "golden.t2a.all_right": 0.93})
    (run.folder / "01_a.ipynb").write_text("{}")
    page = write_index(run.folder, ["01_a"], f"lumo report -p x {bad}", stopped=None).read_text()
    assert "<img" not in page and "&lt;img" in page
    assert page.index("1 of 2 gates failed") < page.index("Made with") < page.index("0.93") < page.index("What failed")
    assert not re.search(r"""(src|href)=["']?https?:""", page)


def test_index_shows_the_change_since_the_last_report(own_reports):
    old = begin("01_a", {})
    old.record({"golden.t2a.all_right": 0.90})
    finish(old.folder)
    new = begin("01_a", {})
    new.record({"golden.t2a.all_right": 0.95})
    page = write_index(new.folder, ["01_a"], "lumo report").read_text()
    assert f"change since {old.folder.name}" in page and "+0.05" in page
    assert "Not finished: 0 of 1 notebooks done" in page
    assert page.count("<table>") == page.count('<div class="wide"><table>') > 2  # wide ones scroll by themselves


def test_a_report_without_gates_is_no_success(own_reports):
    run = begin("01_a", {})
    (run.folder / "01_a.ipynb").write_text("{}")
    assert '<p class="verdict bad">No gates.' in write_index(run.folder, ["01_a"], "lumo report").read_text()
    run.record({"gates.01_a": [{"name": "g", "got": 0, "expected": 0, "passed": None}]})
    page = write_index(run.folder, ["01_a"], "lumo report").read_text()
    assert "No gates." in page and "<td>not applicable</td>" in page and "<p>Nothing.</p>" in page


def test_a_damaged_report_doesnt_end_another(own_reports):
    for name, content in (
        ("2026-01-01-a", "{"),
        ("c", '{"gates": [1]}'),
        ("d", '{"seconds": "x"}'),
        ("b#1", '{"gates": {"passed": 2, "total": 2}}'),
    ):
        (own_reports / name).mkdir(parents=True)
        (own_reports / name / "report.json").write_text(content)
        (own_reports / name / "index.html").touch()
    page = write_reports_index(own_reports).read_text()
    assert page.count("its report.json is damaged") == 3 and "2 of 2 gates passed" in page
    assert 'href="b%231/index.html"' in page
