"""Profiles: what is wrong is named in one line, and overrides merge deeply."""

from __future__ import annotations

import re
import warnings

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refusals import refused

from lumo import params
from lumo.params import ParamsError, deep_merge, dotted, load_profile

MINI = yaml.safe_load((params.PARAMS / "mini.yaml").read_text())


def written(tmp_path, content) -> str:
    path = tmp_path / "own.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return str(path)


@pytest.mark.parametrize("path", sorted(params.PARAMS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_profile_validates_under_its_own_name(path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_profile(path.stem).profile == path.stem


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ({"stage5": 1}, "unknown key 'stage5'"),
        ({"stage4": {"stepz": 10}}, "unknown key 'stage4.stepz'"),
        ({"stage4": {"steps": "ten"}}, "stage4.steps is 'ten'"),
        ({"stage4": {"steps": 0}}, "stage4.steps is 0"),
        ({"stage4": {"steps": 1.5}}, "stage4.steps is 1.5"),
        ({"stage4": {"steps": True}}, "stage4.steps is True"),
        ({"stage4": {"lora_learning_rate": True}}, "stage4.lora_learning_rate is True; expected a number"),
        ({"stage4": {"lora_learning_rate": "fast"}}, "stage4.lora_learning_rate is 'fast'; expected a number"),
        ({"stage4": {"lora_learning_rate": ".nan"}}, "stage4.lora_learning_rate"),
        ({"stage4": {"rates": {"a2a": 1}}}, "stage4.rates.a2a"),
        ({"stage4": {"rates": {"t2a": 2}}}, "stage4.rates.t2a is 2"),
        ({"device": "tpu"}, "device is 'tpu'"),
        ({"golden": None}, "golden is None"),
        ({"golden": {}, "world": 3}, "world is 3"),
    ],
)
def test_bad_value_is_named_in_one_line(overrides, line):
    with pytest.raises(ParamsError, match=re.escape(line)) as caught:
        load_profile("mini", overrides)
    assert "\n" not in str(caught.value)
    assert "mini.yaml" in str(caught.value)


def test_each_fault_has_its_line():
    with pytest.raises(ParamsError) as caught:
        load_profile("mini", {"stage5": 1, "stage4": {"steps": "ten"}})
    assert len(str(caught.value).splitlines()) == 2


def test_text_that_is_a_number_is_read_as_one_and_said(tmp_path):
    content = (params.PARAMS / "mini.yaml").read_text().replace("1.0e-2", "1e-4")
    with pytest.warns(
        UserWarning, match=r"own\.yaml: read the text '1e-4' as the number 0\.0001; in YAML write 1\.0e-04"
    ):
        profile = load_profile(written(tmp_path, content))
    assert profile.warm_start.rows_learning_rate == 1e-4


def test_missing_key(tmp_path):
    content = {key: value for key, value in MINI.items() if key != "ablation"}
    with pytest.raises(ParamsError, match="key 'ablation' is missing"):
        load_profile(written(tmp_path, content))


def test_missing_profile_names_the_ones_there_are():
    with pytest.raises(ParamsError, match=r"profile 'minni' \(perhaps 'mini'\?\): no file .*; expected one of .*mini"):
        load_profile("minni")


@pytest.mark.parametrize("content", ["a: [1", "profile: mini\n\tseed: 0", "- 1\n- 2", "just words", ""])
def test_not_a_yaml_mapping(tmp_path, content):
    with pytest.raises(ParamsError, match=r"own\.yaml: (not YAML|got \w+, expected keys and values)") as caught:
        load_profile(written(tmp_path, content))
    assert "\n" not in str(caught.value)


def test_profile_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        load_profile("mini").seed = 1


trees = st.recursive(
    st.integers() | st.text(max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, max_size=4),
    max_leaves=12,
)
mappings = st.dictionaries(st.sampled_from("abcd"), trees, max_size=4)


def leaf(tree, path):
    for key in path:
        if not isinstance(tree, dict) or key not in tree:
            return None
        tree = tree[key]
    return tree


def paths(tree, prefix=()):
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from paths(value, (*prefix, key))
        else:
            yield (*prefix, key)


# a busy machine is no fault of the strategy's
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mappings, mappings)
def test_deep_merge_keeps_overrides_and_what_they_leave_alone(base, overrides):
    before = repr((base, overrides))
    merged = deep_merge(base, overrides)
    assert repr((base, overrides)) == before
    for path in paths(overrides):
        if leaf(overrides, path) != {}:  # an empty section changes nothing
            assert leaf(merged, path) == leaf(overrides, path)
    for path in paths(base):
        touched = any(isinstance(leaf(overrides, path[:n]), (int, str)) for n in range(1, len(path) + 1))
        if not touched and leaf(overrides, path) is None:
            assert leaf(merged, path) == leaf(base, path)
    assert deep_merge(merged, overrides) == merged
    assert deep_merge(base, {}) == base


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=4), st.integers())
def test_dotted_key_opens_up(keys, value):
    assert leaf(dotted(".".join(keys), value), keys) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("profile: a\nprofile: b\n", "'profile' appears twice"),
        ("stage4:\n  steps: 1\n  steps: 2\n", "'steps' appears twice"),
        ("seed: 2020-13-45\n", "month must be in 1..12"),
        ("? [a]\n: b\n", "unhashable"),
        ("[" * 5000, "recursion"),
    ],
)
def test_yaml_that_would_lose_something_or_cant_be_is_refused(tmp_path, text, reason):
    (tmp_path / "p.yaml").write_text(text)
    with refused(ParamsError, f"{tmp_path / 'p.yaml'}: not YAML", reason):
        load_profile(str(tmp_path / "p.yaml"))
