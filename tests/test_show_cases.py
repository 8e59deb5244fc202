"""Golden cases on a page: all media of a case, failures marked and first; and the browser that leafs through them."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile
from pages import HOSTILE, TAGS, Reader, make_cases, noise_image, payload, read, tone

from lumo.show import Case, browser, case_page, cases_table

# --- tables of cases --------------------------------------------------------------------------------------------------


def test_cases_say_why_they_failed():
    failures = [case.failures for case in make_cases()]
    assert failures == [(), ("nothing generated",), ("pitch",), ()]


def test_only_what_was_judged_is_called_good():
    right, wrong = make_cases()[0], make_cases()[2]
    assert cases_table([right, right]).text.startswith("t2i: all 2 good\n")
    assert cases_table([right, wrong]).text.startswith("t2i: all 1 good, t2a: 1 of 1 failed\n")
    assert cases_table([]).text.startswith("no cases\n")


def test_the_table_of_cases_has_all_media_and_marks_failures():
    page = cases_table(make_cases())
    reader = read(page)
    assert page.text.startswith("t2i: 1 of 2 failed, t2a: 1 of 1 failed, a2t: all 1 decoded, not judged\n")
    assert len(reader.sources("audio")) == 4  # three of t2a, the prompt of a2t
    pictures = [source for source in reader.sources("img") if source.startswith("data:image/png")]
    assert len(pictures) == 5 and len(reader.sources("img")) == 9  # and four spectrograms
    rows = [attributes["style"] for tag, attributes in reader.elements if tag == "tr" and attributes]
    assert ["background-color" in style for style in rows] == [False, True, True, False]
    assert "✗ nothing generated" in reader.words
    (first, *_) = reader.sources("audio")
    heard = soundfile.read(io.BytesIO(payload(first)), dtype="float32")[0]
    np.testing.assert_allclose(heard, tone().samples[0], atol=1.6 / 32768)
    assert len(read(cases_table(make_cases(), spectrograms=False)).sources("img")) == 5


def test_a_limited_table_shows_failures_first_and_says_what_it_leaves_out():
    page = cases_table(make_cases(), limit=1)
    assert page.text.startswith(
        "t2i: 1 of 2 failed, t2a: 1 of 1 failed, a2t: all 1 decoded, not judged; 3 of 4 shown, failures first\n"
    )
    assert "a small red circle 1" in page.text and "a small red circle 0" not in page.text


def test_a_case_of_several_inputs_shows_them_all():
    case = Case("ia2t", "both", (noise_image(), tone()), "words", None, "words")
    for page in (cases_table([case]), case_page(case)):
        tags = [name for name, _ in read(page).elements]
        assert tags.count("img") >= 1 and tags.count("audio") == 1
    alone = Case("i2t", "one", (noise_image(),), "words", None, "words")
    assert cases_table([alone]) == cases_table([Case("i2t", "one", noise_image(), "words", None, "words")])


# --- the browser ------------------------------------------------------------------------------------------------------


def test_the_browser_leafs_through_all_cases():
    cases = make_cases()
    widget = browser(cases)
    (task, back, place, ahead), page = widget.children[0].children, widget.children[1]

    def shown():
        return next(case.name for case in cases if case.name in Reader(page.value).words)

    assert shown() == cases[0].name and place.max == 1
    ahead.click()
    assert shown() == cases[1].name
    ahead.click()
    assert shown() == cases[1].name, "next stops at the end"
    task.value = "t2a"
    assert shown() == cases[2].name and (place.value, place.max) == (0, 0)
    task.value = "t2i"
    place.value = 1
    assert shown() == cases[1].name
    back.click()
    back.click()
    assert shown() == cases[0].name
    with pytest.raises(ValueError, match="no cases to browse"):
        browser([])


@pytest.mark.parametrize("text", HOSTILE)
def test_the_browser_escapes_too(text):
    widget = browser(make_cases(text))
    page = widget.children[1]
    for task in ("t2i", "t2a", "a2t"):
        widget.children[0].children[0].value = task
        assert {tag for tag, _ in Reader(page.value).elements} <= TAGS
        assert text in Reader(page.value).words
