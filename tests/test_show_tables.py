"""Tables, gates and strips: aligned in words, the verdict first, every token with its field."""

from __future__ import annotations

import re

import numpy as np
import pytest
from pages import read, tone

from lumo.show import Gate, facts, gates, ids_strip, player, table, verdict
from lumo.show.strip import run_length
from lumo.show.tables import text_table

# --- tables -----------------------------------------------------------------------------------------------------------


def test_a_table_in_words_is_aligned():
    rows = [{"task": "t2i", "loss": 3.21, "new": None}, {"task": "多模态", "loss": 12.5, "extra": True}]
    assert table(rows, caption="Losses").text.splitlines() == [
        "Losses",
        "task    loss  new  extra",
        "------  ----  ---  -----",
        "t2i     3.21  –",
        "多模态  12.5       yes",
    ]


def test_numbers_stand_right_and_words_left():
    cells = [
        attributes["style"] for tag, attributes in read(table([["t2i", 3.5]], ["task", "loss"])).elements if tag == "td"
    ]
    assert ["text-align:left" in cells[0], "text-align:right" in cells[1]] == [True, True]


def test_a_page_in_a_cell_is_shown_as_it_is():
    reader = read(table([{"clip": player(tone(samples=100), "a"), "n": 1}]))
    assert len(reader.sources("audio")) == 1


def test_a_table_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=re.escape("row 1 has 1 cells, expected 2: task, loss")):
        table([["t2i", 1], ["t2a"]], ["task", "loss"])
    with pytest.raises(ValueError, match="rows without column names"):
        table([["t2i", 1]])
    with pytest.raises(ValueError, match="1 rows has 2 marks"):
        table([{"a": 1}], failed=[True, False])


def test_an_empty_table_says_so():
    page = table([], ["task"])
    assert "no rows" in page.text and "no rows" in read(page).words
    assert text_table(["a"], []) == "a\n-"


def test_facts_write_out_what_is_inside():
    page = facts({"commit": "ab12cd", "versions": {"torch": "2.11"}, "seed": 20261120})
    assert page.text.splitlines() == ["commit          ab12cd", "versions.torch  2.11", "seed            20261120"]
    assert "versions.torch2.11" in read(page).words


# --- gates ------------------------------------------------------------------------------------------------------------


def test_the_verdict_comes_first():
    good = [Gate(f"golden.{task}.decoded", 64, 64, True) for task in ("t2i", "t2a")]
    bad = Gate("golden.t2i.attributes", 0.91, "≥ 0.95", False)
    assert verdict(good) == "PASS 2 of 2"
    assert verdict([*good, bad]) == "FAIL 1 of 3: golden.t2i.attributes"
    assert verdict([]) == "NO GATES", "nothing checked is nothing passed"
    page = gates([*good, bad])
    assert page.text.startswith("FAIL 1 of 3: golden.t2i.attributes\n")
    assert read(page).words.startswith("FAIL 1 of 3")
    marked = [bool(re.search("background-color", a["style"])) for tag, a in read(page).elements if tag == "tr" and a]
    assert marked == [False, False, True]


def test_a_gate_over_nothing_neither_passes_nor_fails():
    empty, full = (Gate.over(count, "every check decodes", count, count, True) for count in (0, 4))
    assert full == Gate("every check decodes", 4, 4, True)
    assert (empty.passed, empty.failed) == (None, False)
    assert verdict([empty]) == "NO GATES, 1 not applicable"
    assert verdict([full, empty]) == "PASS 1 of 1, 1 not applicable"
    broken = Gate("ids", 3, 0, np.bool_(False))
    assert verdict([full, empty, broken]) == "FAIL 1 of 2: ids, 1 not applicable"
    page = gates([full, empty])
    assert "not applicable" in page.text and "✗" not in page.text
    assert read(page).words.count("nothing to look at") == 1


# --- strips -----------------------------------------------------------------------------------------------------------


def test_a_strip_has_a_field_for_each_token_and_underlines_targets():
    blocks = ["text"] * 3 + ["control"] + ["audio0", "audio1"] * 4 + ["control"]
    targets = [False] * 4 + [True] * 9
    fields = [a for tag, a in read(ids_strip(blocks, targets)).elements if tag == "span" and "title" in a]
    assert [field["title"].split()[1] for field in fields] == blocks
    assert [field["title"].endswith("target") for field in fields] == targets
    assert ["transparent" not in field["style"] for field in fields] == targets
    colours = {field["title"].split()[1]: re.search("background-color:(#.{6})", field["style"])[1] for field in fields}
    assert len(set(colours.values())) == 4


def test_a_strip_in_words():
    assert run_length(["audio0", "audio1", "audio2", "audio3"] * 50) == "(audio0 audio1 audio2 audio3) ×50"
    assert run_length(["text", "text", "control"], [False, False, True]) == "text ×2 [control]"
    assert run_length([]) == ""
    page = ids_strip(["image"] * 1000, limit=100)
    assert "900 more tokens not drawn" in read(page).words and "image ×1000" in page.text
    assert len([1 for tag, a in read(page).elements if tag == "span" and "title" in a]) == 100


def test_a_strip_refuses_lists_of_different_lengths():
    with pytest.raises(ValueError, match="2 blocks has 1 is_target, expected one a token"):
        ids_strip(["text", "text"], [True])
    with pytest.raises(ValueError, match="2 blocks has 1 tokens"):
        ids_strip(["text", "text"], tokens=["a"])
