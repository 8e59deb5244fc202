"""Curves, bars, histograms and tallies: what is drawn is what was counted."""

from __future__ import annotations

import io
import math
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pages import payload, read
from PIL import Image as PILImage

from lumo.show import bars, curves, histogram, tally


def test_curves_say_first_and_last_and_draw_each_series():
    page = curves(
        {"t2i": [(0, 8.5), (10, 2.0)], "_val": [(0, 9.0), (5, np.nan), (10, 3.0)], "none": []}, "Loss", "step", "nats"
    )
    assert (
        "t2i   8.5 → 2" in page.text
        and "_val  9 → 3, 1 of 3 not finite" in page.text
        and "none  no points" in page.text
    )
    (source,) = read(page).sources("img")
    pixels = np.asarray(PILImage.open(io.BytesIO(payload(source))).convert("RGBA")).reshape(-1, 4)
    for colour in ("#0072B2", "#D55E00"):
        rgb = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
        assert (pixels == [*rgb, 255]).all(axis=1).sum() > 50, f"no line in {colour}"
    assert (pixels[:, 3] == 0).mean() > 0.5, "the ground is to be see-through, for dark themes"
    read(curves({})), read(curves({"a": [(0, 1), (1, 100)]}, log_y=True))


def test_bars_put_the_whisker_where_the_interval_is():
    page = bars({"shuffled": (2.0, 1.0, 3.0), "noise": (0.0, -1.0, 1.0)}, "Ablation", "nats")
    first, second = (payload(source).decode() for source in read(page).sources("img"))
    place = [float(number) for number in re.search(r"M([\d.]+) 9H([\d.]+)", first).groups()]
    mean = float(re.search(r'cx="([\d.]+)"', first)[1])
    zero = float(re.search(r'd="M([\d.]+) 0V18', first)[1])
    # scale -1.2 to 3.2 over 260 pixels
    assert [zero, place[0], mean, place[1]] == pytest.approx([(v + 1.2) / 4.4 * 260 for v in (0, 1, 2, 3)], abs=0.1)
    assert "#0072B2" in first and "#E69F00" in second, "an interval that holds the line looks otherwise"
    assert "shuffled     2    1     3" in page.text
    with pytest.raises(ValueError, match="expected low ≤ mean ≤ high"):
        bars({"a": (4.0, 1.0, 3.0)})
    read(bars({})), read(bars({"a": (1.0, 1.0, 1.0)}))


def test_a_histogram_counts_what_it_leaves_out():
    page = histogram({"train": [1.0, 2.0, 3.0, np.nan], "none": []}, x="tokens")
    assert "3 values, 1 to 3, mean 2, 1 not finite" in page.text and "no values" in page.text
    read(page)


def test_a_counter_draws_what_its_elements_do():
    lengths = Counter({46: 3, 50: 7, 71: 2, math.nan: 4})
    counted = histogram({"t2a": lengths}, "sequences", "tokens", limit=("max_seq_len", 60))
    assert counted == histogram({"t2a": list(lengths.elements())}, "sequences", "tokens", limit=("max_seq_len", 60))
    assert "12 values, 46 to 71, mean 52.5, 4 not finite, 2 above max_seq_len 60" in counted.text


def pixels_of(page, colour):
    """How many pixels of each column of its picture are of about this colour."""
    (source,) = read(page).sources("img")
    pixels = np.asarray(PILImage.open(io.BytesIO(payload(source))).convert("RGBA")).astype(int)
    rgb = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    return ((abs(pixels[..., :3] - rgb).max(-1) < 12) & (pixels[..., 3] > 150)).sum(0)


@pytest.mark.parametrize(("limit", "drawn"), [(5, False), (7, True), (9, True), (10, True), (100, False)])
def test_what_lies_above_a_limit_has_its_own_colour(limit, drawn):
    """Values 8, 9 and 10: the line is seen where it isn't far away, and orange bars where it is below values."""
    values = {"a": {8: 3, 9: 2, 10: 1}}
    page = histogram(values, limit=("limit", limit))
    above = sum(count for value, count in values["a"].items() if value > limit)
    assert f"{above} above limit {limit}" in page.text
    blue, orange = pixels_of(page, "#0072B2").sum(), pixels_of(page, "#D55E00").sum()
    assert bool(blue) == (above < 6) and bool(orange) == (drawn or above > 0)


def test_one_bin_holds_as_many_whole_numbers_as_the_next():
    """71 numbers in 30 bins of 2.4 would be a comb of twos and threes."""
    columns = pixels_of(histogram({"even": dict.fromkeys(range(71), 1)}), "#0072B2")
    heights = columns[columns > 0][2:-2]
    assert len(set(heights[heights > heights.max() / 2])) <= 3, "antialiased edges alone may differ"


def test_where_all_values_are_one_words_say_so_and_nothing_is_drawn():
    for values in ({"clips": {1.0: 2028}}, {"clips": [1.0] * 2028}):
        page = histogram(values, x="seconds")
        assert "2028 values, all 1" in page.text and not read(page).sources("img")
    assert "no values" in histogram({"clips": {}}).text and histogram({}).text == "  value\n  -----"


def test_a_tally_says_how_much_there_is_of_what():
    page = tally({("a", "i2t", "train"): 6, ("a", "i2t", "eval"): 2, ("b", "a2t", "train"): 2}, ["source", "task"],
                 "rows", across=["train", "eval"])  # fmt: skip
    lines = [line.split() for line in page.text.splitlines()]
    assert lines[1] == ["source", "task", "train", "eval", "share,", "%"]
    assert lines[3] == ["a", "i2t", "6", "2", "80", "█" * 20] and lines[4] == ["b", "a2t", "2", "0", "20", "█" * 5]
    first, second = (payload(source).decode() for source in read(page).sources("img"))
    assert re.findall(r'M([\d.]+) 1H([\d.]+)V.*?fill="(#\w+)"', first) == [
        ("0.0", "120.0", "#0072B2"),
        ("120.0", "160.0", "#D55E00"),
    ]
    assert re.findall(r'M([\d.]+) 1H([\d.]+)V.*?fill="(#\w+)"', second) == [("0.0", "40.0", "#0072B2")]
    assert "no rows" in tally({}, ["source"]).text


@given(st.dictionaries(st.text("abc", max_size=2), st.integers(0, 999), max_size=9), st.integers(1, 9))
def test_nothing_is_lost_of_a_long_tally(counts, most):
    lines = tally(counts, ["name"], what="n", most=most).text.splitlines()[2:]
    shown = [int(re.match(r".*?(\d+)  +[\d.]+ *█*$", line)[1]) for line in lines if line != "no rows"]
    assert sum(shown) == sum(counts.values()) and len(shown) == min(len(counts), most + 1)
    assert shown[:most] == sorted(counts.values(), reverse=True)[:most]
    assert len(counts) <= most or lines[-1].startswith(f"{len(counts) - most} others")


def test_figures_leave_pyplot_alone():
    code = (
        "import sys; import numpy as np; from lumo.media import Audio; from lumo.show import *;"
        "curves({'a': [(0, 1)]}); histogram({'a': [1, 2]}); spectrogram(Audio(np.zeros((1, 99), np.float32), 8000));"
        "print('matplotlib.pyplot' in sys.modules, 'ipywidgets' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"] and done.stderr == ""
