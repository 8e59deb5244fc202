"""A reader of pages that sees what a browser sees, and small things to put on a page."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import numpy as np

from lumo.media import Audio, Image
from lumo.show import Case, Page

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    '"><script>alert(1)</script>',
    "<|img_start|>",
    "' onload='x",
    "</td></table>",
]
VOID = {"img", "br"}
# what our pages are made of; all of it passes the sanitizer of JupyterLab 4.6 (jlab_core.js, allowedTags)
TAGS = {"div", "span", "table", "thead", "tbody", "tr", "th", "td", "img", "audio"}
ATTRIBUTES = {"style", "class", "title", "alt", "src", "width", "height", "loading", "controls", "preload"}
# inline properties in that sanitizer's allowedStyles; image-rendering isn't and is lost in an untrusted notebook
STYLES = {
    "align-items", "background", "background-clip", "background-color", "border", "border-bottom",
    "border-collapse", "border-left", "border-radius", "border-top", "color", "display", "flex-wrap",
    "font-family", "font-size", "font-weight", "height", "line-height", "margin", "max-width", "min-width",
    "opacity", "overflow-wrap", "overflow-x", "padding", "table-layout", "text-align", "vertical-align",
    "white-space", "width", "image-rendering",
}  # fmt: skip
RATE = 16_000


class Reader(HTMLParser):
    """Elements and text of a page; complains about what doesn't nest."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"an attribute stands twice in <{tag}>"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        self.words += data

    def sources(self, tag: str) -> list[str]:
        return [attributes["src"] for name, attributes in self.elements if name == tag]


def read(page: Page) -> Reader:
    """The page's elements, after the checks that hold for every page."""
    bundle = page._repr_mimebundle_()
    assert set(bundle) == {"text/html", "text/plain"} and bundle["text/plain"] == page.text
    assert page.text.strip(), "a page without a text fallback"
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", page.text + page.html)
    reader = Reader(bundle["text/html"])
    for tag, attributes in reader.elements:
        assert tag in TAGS, f"<{tag}> arose"
        assert set(attributes) <= ATTRIBUTES, f"<{tag}> has {set(attributes) - ATTRIBUTES}"
        properties = {part.partition(":")[0] for part in (attributes.get("style") or "").split(";") if part}
        assert properties <= STYLES, f"JupyterLab drops {properties - STYLES}"
        assert (attributes.get("src") or "data:").startswith("data:"), "a page that needs the network"
    assert "<source" not in page.html
    return reader


def payload(uri: str) -> bytes:
    return base64.b64decode(uri.partition("base64,")[2], validate=True)


def tone(hertz=440.0, peak=0.5, channels=1, samples=RATE) -> Audio:
    wave = peak * np.sin(2 * np.pi * hertz * np.arange(samples) / RATE)
    return Audio(np.repeat(wave[None].astype(np.float32), channels, axis=0), RATE)


def noise_image(height=6, width=9, seed=0) -> Image:
    return Image(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def make_cases(words="a small red circle") -> list[Case]:
    return [
        Case(
            "t2i", f"{words} 0", words, noise_image(), noise_image(seed=1), noise_image(seed=2), {words: True, "n": 5}
        ),
        Case("t2i", f"{words} 1", words, noise_image(), noise_image(seed=1), None, {"colour": True}),
        Case("t2a", f"{words} 2", words, tone(), tone(441), tone(880), {"pitch": np.False_, "timbre": True}),
        Case("a2t", f"{words} 3", tone(), words, None, words, {"word": words}),
    ]
