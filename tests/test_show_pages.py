"""Pages are read as a browser reads them: the elements that arise are what is tested, not the strings."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest
from pages import HOSTILE, RATE, Reader, make_cases, noise_image, read, tone

import lumo.show
from lumo.media import Audio
from lumo.show import (
    Gate,
    Page,
    bars,
    beside,
    case_page,
    cases_table,
    curves,
    escape,
    facts,
    gates,
    grid,
    histogram,
    ids_strip,
    note,
    picture,
    player,
    spectrogram,
    stack,
    table,
    tally,
)

# --- outside text stays text ------------------------------------------------------------------------------------------


def pages_with(text: str) -> dict[str, Page]:
    """Every kind of page, with `text` at every place that takes words."""
    image, series = noise_image(), [(0, 1.0), (1, 0.5)]
    return {
        "note": note(text),
        "player": player(tone(samples=100), text),
        "broken player": player(Audio(np.full((1, 9), np.nan, np.float32), RATE), text),
        "spectrogram": spectrogram(tone(samples=100), text),
        "picture": picture(image, text),
        "grid": grid([(image, text), (image, text)], title=text),
        "table": table([{text: text, "page": note(text)}], caption=text),
        "facts": facts({text: text, "in": {text: note(text)}}, text),
        "gates": gates([Gate(text, text, text, False), Gate(text, 1, 1, True)]),
        "curves": curves({text: series}, text, text, text),
        "bars": bars({text: (1.0, 0.5, 1.5)}, text, text),
        "histogram": histogram({text: [1, 2, 2]}, text, text, limit=(text, 1)),
        "tally": tally({(text, text): 1}, [text], text, across=[text]),
        "strip": ids_strip([text, "text"], [True, False], [text, text], text),
        "cases": cases_table(make_cases(text)),
        "case": stack(*(case_page(case) for case in make_cases(text))),
    }


@pytest.mark.parametrize("text", HOSTILE)
def test_no_outside_text_becomes_an_element_or_an_attribute(text):
    for name, page in pages_with(text).items():
        reader = read(page)
        seen = reader.words + "".join(str(value) for _, attributes in reader.elements for value in attributes.values())
        assert text in seen, f"{name} doesn't show the text as it is"
        assert text in page.text, f"{name} doesn't say the text in its text version"


def test_the_reader_finds_what_an_unescaped_caption_would_do():
    with pytest.raises(AssertionError, match=r"arose|has|network"):
        read(Page(f"<div>{HOSTILE[0]}</div>", "x"))
    with pytest.raises(AssertionError, match="<script> arose"):
        read(Page(f'<div title="{HOSTILE[1]}"></div>', "x"))


@pytest.mark.parametrize(
    "text", ["$x_1$ and $5", "\\frac{", "_hidden", "", "多模态", "a\x1b[2J\x07b", "\ud800", "two\nlines"]
)
def test_awkward_text_neither_breaks_nor_drives_anything(text, recwarn):
    for name, page in pages_with(text).items():
        if name != "note" or text:
            read(page)
            page.document.encode("utf-8"), page.text.encode("utf-8")
    assert [str(warning.message) for warning in recwarn if "Glyph" not in str(warning.message)] == []


def test_dollars_are_kept_from_being_typeset():
    classes = Reader(note("$5 and $6").document).elements[0][1]["class"]
    assert {"mathjax_ignore", "tex2jax_ignore"} <= set(classes.split())  # JupyterLab's MathJax 3, nbconvert's MathJax 2


def test_escape_is_whole():
    assert escape("<&>\"'") == "&lt;&amp;&gt;&quot;&#x27;"
    assert escape(None) == "None"


# --- the house --------------------------------------------------------------------------------------------------------


def test_html_is_made_in_one_place():
    """No module but page.py and the SVG in figures.py opens a tag by hand."""
    for path in Path(lumo.show.__file__).parent.glob("*.py"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            by_hand = re.search(r"[\"']<(?!svg|path|circle)[a-z]+[ >]", line)
            assert path.name == "page.py" or not by_hand, f"{path.name}:{number}"


def test_show_stays_on_its_floor():
    for path in Path(lumo.show.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                assert not name.startswith("lumo") or name.startswith(("lumo.media", "lumo.show")), (
                    f"{path.name}: {name}"
                )
                assert "pyplot" not in name


def test_pages_compose():
    both = stack(note("one"), note("two"))
    assert read(both).words == "onetwo"
    assert both.text == "one\n\ntwo"
    assert read(beside(both, note("three"))).words == "onetwothree"
    assert len(repr(player(tone()))) < 150, "a repr that fills a log"
