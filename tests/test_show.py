"""Pages are read as a browser reads them: the elements that arise are what is tested, not the strings."""

import ast
import base64
import io
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import numpy as np
import pytest
import soundfile
from nbclient import NotebookClient
from PIL import Image as PILImage

import lumo.show
from lumo.media import Audio, Image
from lumo.show import (
    Case,
    Gate,
    Live,
    Page,
    bars,
    beside,
    browser,
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
    verdict,
)
from lumo.show import live as live_module
from lumo.show.sounds import SPECTRUM_DB, spectrum_db
from lumo.show.strip import run_length
from lumo.show.tables import text_table

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
STYLES = set(
    [
        "align-items",
        "background",
        "background-clip",
        "background-color",
        "border",
        "border-bottom",
        "border-collapse",
        "border-left",
        "border-radius",
        "border-top",
        "color",
        "display",
        "flex-wrap",
        "font-family",
        "font-size",
        "font-weight",
        "height",
        "line-height",
        "margin",
        "max-width",
        "min-width",
        "opacity",
        "overflow-wrap",
        "overflow-x",
        "padding",
        "table-layout",
        "text-align",
        "vertical-align",
        "white-space",
        "width",
        "image-rendering",
    ]
)
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


def test_a_case_of_several_inputs_shows_them_all():
    case = Case("ia2t", "both", (noise_image(), tone()), "words", None, "words")
    for page in (cases_table([case]), case_page(case)):
        tags = [name for name, _ in read(page).elements]
        assert tags.count("img") >= 1 and tags.count("audio") == 1
    alone = Case("i2t", "one", (noise_image(),), "words", None, "words")
    assert cases_table([alone]) == cases_table([Case("i2t", "one", noise_image(), "words", None, "words")])


# --- outside text stays text ---


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
        "histogram": histogram({text: [1, 2, 2]}, text, text),
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


def test_html_is_made_in_one_place():
    """No module but page.py and the SVG in figures.py opens a tag by hand."""
    for path in Path(lumo.show.__file__).parent.glob("*.py"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            by_hand = re.search(r"[\"']<(?!svg|path|circle)[a-z]+[ >]", line)
            assert path.name == "page.py" or not by_hand, f"{path.name}:{number}"


# --- pages ---


def test_pages_compose():
    both = stack(note("one"), note("two"))
    assert read(both).words == "onetwo"
    assert both.text == "one\n\ntwo"
    assert read(beside(both, note("three"))).words == "onetwothree"
    assert len(repr(player(tone()))) < 150, "a repr that fills a log"


# --- sound ---


@pytest.mark.parametrize(
    "audio",
    [tone(peak=0.5), tone(peak=0.001), tone(peak=0.3, channels=2), Audio(np.zeros((1, 800), np.float32), RATE)],
    ids=["ordinary", "quiet", "stereo", "silent"],
)
def test_what_plays_is_what_was_made(audio):
    reader = read(player(audio, "clip"))
    (source,) = reader.sources("audio")
    assert source.startswith("data:audio/wav;base64,")
    samples, rate = soundfile.read(io.BytesIO(payload(source)), dtype="float32", always_2d=True)
    assert rate == RATE
    np.testing.assert_allclose(samples.T, audio.samples, atol=1.6 / 32768)  # half a step, and 32767 against 32768


def test_loudness_is_never_normalised():
    peaks = []
    for peak in (0.9, 0.01):
        (source,) = read(player(tone(peak=peak))).sources("audio")
        peaks.append(np.abs(soundfile.read(io.BytesIO(payload(source)))[0]).max())
    assert peaks == pytest.approx([0.9, 0.01], rel=0.01)


def test_a_player_has_its_controls_and_nothing_loads_by_itself():
    ((_, attributes),) = [element for element in read(player(tone())).elements if element[0] == "audio"]
    assert "controls" in attributes and attributes["preload"] == "none" and "autoplay" not in attributes


def test_a_player_in_words():
    assert player(tone(peak=0.5), "clip").text == "♪ clip: 1.00 s, 16000 Hz, peak 0.50, RMS -9.0 dBFS"
    assert player(tone(peak=0.001), "clip").text == "♪ clip: 1.00 s, 16000 Hz, peak 1.0e-03, RMS -63.0 dBFS"
    silence = player(Audio(np.zeros((1, 800), np.float32), RATE), "clip")
    assert silence.text == "♪ clip: 0.05 s, 16000 Hz, peak 0.00, silent"
    loud = Audio(np.array([[1.5, -2.0, 0.5, 0.0]], np.float32), RATE)
    assert "peak 2.00" in player(loud).text and "2 samples clipped at ±1" in player(loud).text
    assert "2 samples clipped" in read(player(loud)).words
    (source,) = read(player(loud)).sources("audio")
    heard = soundfile.read(io.BytesIO(payload(source)))[0]
    np.testing.assert_allclose(heard, [1, -1, 0.5, 0], atol=1e-4)  # clipped, not wrapped round


def test_a_broken_clip_says_so_and_a_report_goes_on():
    samples = np.zeros((1, 9), np.float32)
    samples[0, 3] = np.inf
    page = player(Audio(samples, RATE), "clip")
    assert read(page).sources("audio") == []
    assert page.text == "✗ clip: 1 of 9 samples are not finite numbers, nothing to play"
    read(spectrogram(Audio(samples, RATE)))


def test_an_empty_clip_has_a_page():
    empty = Audio(np.zeros((1, 0), np.float32), RATE)
    read(player(empty)), read(spectrogram(empty))


@pytest.mark.parametrize("hertz", [500.0, 2000.0, 6000.0])
def test_a_tone_stands_at_its_frequency_and_its_level(hertz):
    levels = spectrum_db(tone(hertz, peak=0.1))
    middle = levels[:, levels.shape[1] // 2]
    at = np.argmax(middle) * (RATE / 2) / (len(middle) - 1)
    assert at == pytest.approx(hertz, abs=RATE / 512)
    assert middle.max() == pytest.approx(-20, abs=0.1)


def test_the_scale_of_a_spectrogram_never_moves():
    def brightness(audio):
        (source,) = read(spectrogram(audio)).sources("img")
        assert source.startswith("data:image/webp")
        assert len(source) < 30_000, "a report holds hundreds of these"
        return np.asarray(PILImage.open(io.BytesIO(payload(source))).convert("RGB"), dtype=float).mean()

    noise = np.random.default_rng(0).normal(size=(1, RATE)).astype(np.float32)
    loud, quiet = (brightness(Audio(noise * level, RATE)) for level in (0.2, 0.002))
    assert loud > quiet + 20
    assert spectrum_db(tone(peak=0.0)).max() == SPECTRUM_DB[0]


def test_opposite_channels_do_not_cancel_in_the_picture():
    left = tone().samples
    assert spectrum_db(Audio(np.concatenate([left, -left]), RATE)).max() == pytest.approx(-6, abs=0.2)


def test_a_long_clip_keeps_its_click_and_a_small_picture():
    samples = np.zeros((1, RATE * 60), np.float32)
    samples[0, 123_457] = 1.0
    levels = spectrum_db(Audio(samples, RATE))
    assert levels.shape[1] == 600
    loudest = levels.max(axis=0)
    assert loudest[round(600 * 123_457 / samples.shape[1]) - 1 :][:3].max() > -60
    assert (loudest > SPECTRUM_DB[0]).sum() <= 2


def test_a_tone_that_is_cut_off_draws_no_click_at_the_ends():
    levels = spectrum_db(tone(1000.3, samples=RATE + 77))
    assert levels[64:].max() < -60, "energy from 2 kHz up, where there is none"  # rows are 31.25 Hz apart


def test_a_click_in_the_last_sample_but_a_few_is_seen():
    samples = np.zeros((1, RATE + 77), np.float32)
    samples[0, -60] = 1.0
    assert spectrum_db(Audio(samples, RATE))[:, -1].min() > SPECTRUM_DB[0]


# --- pictures ---


@pytest.mark.parametrize("zoom", [1, 3])
def test_a_picture_holds_its_very_pixels(zoom):
    image = noise_image()
    page = picture(image, "case 3", zoom)
    (source,) = read(page).sources("img")
    np.testing.assert_array_equal(np.asarray(PILImage.open(io.BytesIO(payload(source)))), image.pixels)
    ((_, attributes),) = [element for element in read(page).elements if element[0] == "img"]
    assert (attributes["width"], attributes["height"]) == (str(9 * zoom), str(6 * zoom))
    assert "image-rendering:pixelated" in attributes["style"] and attributes["alt"] == "case 3"
    assert page.text == "▣ case 3: 9x6 pixels"


@pytest.mark.parametrize("zoom", [0, -1, 1.5])
def test_pixels_stay_square(zoom):
    with pytest.raises(ValueError, match="expected a whole number from 1"):
        picture(noise_image(), zoom=zoom)


def test_a_grid_is_one_table_in_order():
    images = [noise_image(seed=seed) for seed in range(5)]
    page = grid([(image, f"case {number}") for number, image in enumerate(images)], columns=2)
    reader = read(page)
    names = [tag for tag, _ in reader.elements]
    assert (names.count("table"), names.count("tr"), names.count("td")) == (1, 3, 5)
    for source, image in zip(reader.sources("img"), images, strict=True):
        np.testing.assert_array_equal(np.asarray(PILImage.open(io.BytesIO(payload(source)))), image.pixels)
    assert all(attributes["loading"] == "lazy" for tag, attributes in reader.elements if tag == "img")
    assert page.text.splitlines()[4] == "▣ case 4: 9x6 pixels"
    assert "no pictures" in read(grid([])).words
    with pytest.raises(ValueError, match="at least 1"):
        grid([(images[0], "")], columns=0)


# --- tables ---


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


# --- gates ---


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


# --- figures ---


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


def test_figures_leave_pyplot_alone():
    code = (
        "import sys; import numpy as np; from lumo.media import Audio; from lumo.show import *;"
        "curves({'a': [(0, 1)]}); histogram({'a': [1]}); spectrogram(Audio(np.zeros((1, 99), np.float32), 8000));"
        "print('matplotlib.pyplot' in sys.modules, 'ipywidgets' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"] and done.stderr == ""


# --- strip ---


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


# --- live ---


class Screen:
    """Stands in for IPython's display and its handle."""

    def __init__(self):
        self.shown, self.outputs = [], 0

    def display(self, page, display_id=None):
        assert display_id is True
        self.outputs += 1
        self.shown.append(page.text)
        return self

    def update(self, page):
        self.shown.append(page.text)


@pytest.fixture
def screen(monkeypatch):
    screen = Screen()
    monkeypatch.setattr(live_module, "in_kernel", lambda: True)
    monkeypatch.setattr(live_module, "display", screen.display)
    return screen


def test_live_is_one_output_shown_at_most_once_in_a_while_and_at_the_end(screen):
    now, made = [0.0], []

    def content(step):
        return lambda: made.append(step) or note(f"step {step}")

    with Live("training", seconds=1.0, clock=lambda: now[0]) as live:
        shown = []
        for step in range(25):
            now[0] = step * 0.1
            shown.append(live.update(content(step)))
    assert [step for step, was in enumerate(shown) if was] == [0, 10, 20]
    assert made == [0, 10, 20, 24], "what isn't shown isn't made, and the last is always shown"
    assert screen.outputs == 1 and screen.shown[-1].endswith("step 24") and screen.shown[0].startswith("training")
    live.close()
    assert made == [0, 10, 20, 24], "shown once"


def test_live_takes_rows_and_a_forced_last_update(screen):
    live = Live(seconds=1e9)
    assert live.update([{"task": "t2i", "loss": 3.0}]) and not live.update({"loss": 2.0})
    assert live.update({"loss": 1.5}, final=True)
    assert screen.shown[-1].splitlines()[-1].strip() == "1.5" and len(screen.shown) == 2


class Terminal(io.StringIO):
    def __init__(self, tty):
        super().__init__()
        self.isatty = lambda: tty


def test_live_in_a_terminal_is_one_line_on_stderr(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", Terminal(True))
    with Live("training", seconds=0) as live:
        live.update({"step": 1, "loss": 12.3456, "task": "a\x1b[2Jb\nc"})
        live.update(note("done\nand more"))
    written = sys.stderr.getvalue()
    assert written.count("\n") == 1 and written.endswith("\n") and "\x1b" not in written
    lines = [line.rstrip() for line in written.split("\r")[1:]]
    assert lines == ["training: step 1 · loss 12.35 · task a�[2Jb c", "training: done"]
    assert capsys.readouterr().out == ""


def test_live_writes_nothing_where_nobody_looks(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", Terminal(False))
    with Live("training", seconds=0) as live:
        live.update(lambda: pytest.fail("made for nobody"))
    assert sys.stderr.getvalue() == "" and capsys.readouterr().out == ""


def test_in_a_real_kernel_a_thousand_updates_leave_one_output():
    code = (
        "from lumo.show import Live, note\nwith Live('training', seconds=0) as live:\n"
        "    for step in range(100):\n        live.update({'step': step})"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    (output,) = notebook.cells[0].outputs
    assert output["data"]["text/plain"].splitlines()[-1].strip() == "99"
    assert "99" in Reader(output["data"]["text/html"]).words


# --- golden cases ---


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
    assert cases_table([]).text.startswith("no cases")


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


# --- the house ---


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
