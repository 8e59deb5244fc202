"""`Page`: a thing to show, as HTML and as plain text, and the few helpers through which all HTML is made.

Captions, prompts, file names and labels come from users, datasets and models. They meet HTML in `escape` and nowhere
else: element content through `escape`, attributes through `tag`, which calls it.

Styles stand inline and use only properties that JupyterLab's sanitizer lets through in an untrusted notebook (a report
that papermill made is untrusted). Colours are mid-tones or see-through greys, so one page reads on light and on dark.
"""

from __future__ import annotations

import base64
import html
import re
from dataclasses import dataclass
from typing import Any

PASS_COLOUR = "#0a8f6c"
FAIL_COLOUR = "#d9480f"
LINE = "1px solid rgba(128,128,128,0.3)"
SMALL = "font-size:12px;line-height:1.4"
MUTED = f"{SMALL};opacity:0.7"

# JupyterLab typesets what stands between dollars; these two names tell its MathJax and nbconvert's to keep off
_NO_MATHS = "mathjax_ignore tex2jax_ignore"
_VOID = frozenset({"img", "br"})
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True, repr=False)
class Page:
    """A thing to show.

    html: self-contained, media as data URIs; every outside text in it has gone through `escape`
    text: the same for a terminal or a preview that plays and draws nothing
    """

    html: str
    text: str

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/html": self.document, "text/plain": self.text}

    @property
    def document(self) -> str:
        """The HTML in the one `div` that goes into an output: small type, no typesetting of dollars."""
        return tag("div", self.html, class_=_NO_MATHS, style=SMALL)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        first = self.text.partition("\n")[0]
        return f"<Page {len(self.html)} characters of HTML: {first[:60]}>"


def stack(*pages: Page) -> Page:
    """Pages below each other."""
    divs = (tag("div", page.html, style="margin:0 0 10px 0") for page in pages)
    return Page("".join(divs), "\n\n".join(page.text for page in pages))


def beside(*pages: Page) -> Page:
    """Pages next to each other, wrapping where the window ends; in text they stand below each other."""
    divs = (tag("div", page.html, style="margin:0 16px 8px 0") for page in pages)
    row = tag("div", "".join(divs), style="display:flex;flex-wrap:wrap;align-items:flex-start")
    return Page(row, "\n".join(page.text for page in pages))


def note(text: Any) -> Page:
    """A small muted line of prose; line breaks in it are kept."""
    return Page(tag("div", escape(text), style=f"{MUTED};white-space:pre-wrap"), plain(text))


def title_line(text: Any) -> str:
    """HTML of a bold line over a table or figure; nothing where the text is empty."""
    return tag("div", escape(text), style="font-size:13px;font-weight:600;margin:0 0 4px 0") if plain(text) else ""


def plain(value: Any) -> str:
    """A value as text without control characters: a model may write an escape sequence that drives a terminal.

    >>> plain("a\\x1b[31mb")
    'a�[31mb'
    """
    text = str(value).replace("\r\n", "\n").expandtabs(4)
    return _CONTROL.sub("�", text).encode("utf-8", "replace").decode("utf-8")


def escape(value: Any) -> str:
    """Any value as HTML that shows it and does nothing else; fit for element content and for quoted attributes.

    >>> escape('<|img_start|> "5 & 6"')
    '&lt;|img_start|&gt; &quot;5 &amp; 6&quot;'
    """
    return html.escape(plain(value), quote=True)


def tag(name: str, inner: str = "", /, **attributes: Any) -> str:
    """One HTML element. `inner` is HTML already; attribute values are escaped here, and None leaves one out.

    >>> tag("td", escape("1 < 2"), title='"', class_="x")
    '<td title="&quot;" class="x">1 &lt; 2</td>'
    """
    pairs = "".join(f' {key.rstrip("_")}="{escape(value)}"' for key, value in attributes.items() if value is not None)
    return f"<{name}{pairs}>" if name in _VOID else f"<{name}{pairs}>{inner}</{name}>"


def data_uri(data: bytes, media_type: str) -> str:
    """Bytes as a `data:` URI, so that a page needs no file beside it."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"
