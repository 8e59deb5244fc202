"""What pages show of large pictures, and what a player is called."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
import pytest

from lumo.media import Audio, Image
from lumo.show import Case, Page, case_page, cases_table, grid, picture, player


def attributes(page: Page, name: str) -> list[dict]:
    """Of each element of that name."""
    found = []
    parser = HTMLParser()
    parser.handle_starttag = parser.handle_startendtag = lambda tag, pairs: (
        found.append(dict(pairs)) if tag == name else None
    )
    parser.feed(page.html)
    return found


@pytest.mark.parametrize(
    ("side", "zoom", "shown"), [(64, 2, 128), (64, 4, 256), (100, 4, 200), (256, 2, 256), (512, 2, 512), (6, 3, 18)]
)
def test_small_pictures_alone_are_enlarged(side, zoom, shown):
    image = Image(np.zeros((side // 2, side, 3), np.uint8))
    for page in (picture(image, "a", zoom), grid([(image, "a")], zoom=zoom)):
        (found,) = attributes(page, "img")
        assert (found["width"], found["height"]) == (str(shown), str(shown // 2))


def test_a_player_is_called_by_its_case():
    """The title is its name to a screen reader, and what shows where the pointer rests."""
    sound = Audio(np.full((1, 160), 0.1, np.float32), 16_000)
    broken = Audio(np.full((1, 160), np.nan, np.float32), 16_000)
    cases = [Case("t2a", f"row-{n}", "a <tone>", sound, sound, sound) for n in range(2)]
    names = [f"row-{n} {column}" for n in range(2) for column in ("true", "round trip", "generated")]
    assert [found["title"] for found in attributes(cases_table(cases), "audio")] == names
    assert [found["title"] for found in attributes(case_page(cases[1]), "audio")] == names[3:]
    page = cases_table([Case("t2a", "row-7", "a tone", sound, sound, broken)], spectrograms=False)
    assert "row-7 generated: 160 of 160 samples are not finite numbers" in page.text
    assert attributes(player(sound, "clip", name="case 3"), "audio")[0]["title"] == "case 3"
