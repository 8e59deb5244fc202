"""Pictures: one, or a grid of them. A pixel is shown as a square, never smoothed.

Axes: h w pixel.
"""

from __future__ import annotations

from collections.abc import Sequence

from lumo.media import Image, png_bytes
from lumo.show.page import LINE, MUTED, SMALL, Page, data_uri, escape, plain, tag, title_line

ENLARGED_PX = 256  # as far as a zoom goes: it is for pictures so small that their pixels can't be told apart


def picture(image: Image, label: str = "", zoom: int = 2) -> Page:
    """One picture with its label below.

    image: uint8 [h w 3]; the PNG in the page holds exactly these pixels, the zoom is the browser's
    zoom: screen pixels a picture's pixel, from 1; less where the picture would be beyond 256 of them, so a large one is as it is
    Raises ValueError for another zoom.
    """
    caption = tag("div", escape(label), style=MUTED) if plain(label) else ""
    return Page(tag("div", image_tag(image, label, zoom) + caption), _in_text(image, label))


def grid(pictures: Sequence[tuple[Image, str]], columns: int = 8, zoom: int = 2, title: str = "") -> Page:
    """Pictures with captions as one table, row after row.

    pictures: (image, caption) pairs; columns: pictures in a row, from 1; zoom: as `picture` takes it
    Raises ValueError for less than one column.
    """
    if columns < 1:
        raise ValueError(f"a grid has {columns} columns, expected at least 1")
    if not pictures:
        return Page(title_line(title) + tag("div", "no pictures", style=MUTED), "no pictures")
    cells = [
        tag(
            "td",
            image_tag(image, caption, zoom)
            + tag(
                "div",
                escape(caption),
                style=f"{MUTED};max-width:{max(96, image.resolution[1] * _zoomed(image, zoom))}px",
            ),
            style="padding:4px;border:0;text-align:left;vertical-align:top;background:transparent",
        )
        for image, caption in pictures
    ]
    rows = (cells[start : start + columns] for start in range(0, len(cells), columns))
    body = "".join(tag("tr", "".join(row), style="background:transparent") for row in rows)
    table = tag(
        "table", tag("tbody", body), style=f"{SMALL};border-collapse:collapse;table-layout:auto;margin:0;border:0"
    )
    lines = [plain(title)] if plain(title) else []
    return Page(title_line(title) + table, "\n".join(lines + [_in_text(image, caption) for image, caption in pictures]))


def image_tag(image: Image, alt: str, zoom: int) -> str:
    """HTML of the picture alone."""
    height, width = image.resolution
    times = _zoomed(image, zoom)
    return tag(
        "img",
        src=data_uri(png_bytes(image), "image/png"),
        alt=plain(alt) or "picture",
        width=width * times,
        height=height * times,
        loading="lazy",
        # max-width: a percentage, as JupyterLab's own rule has, lets a table cell shrink its picture to nothing
        style=f"image-rendering:pixelated;max-width:none;vertical-align:top;margin:0;border:{LINE}",
    )


def _zoomed(image: Image, zoom: int) -> int:
    """How many times as large a picture is shown."""
    if zoom < 1 or zoom != int(zoom):
        raise ValueError(f"zoom is {zoom}, expected a whole number from 1, so that pixels stay square")
    return max(1, min(zoom, ENLARGED_PX // max(image.resolution)))


def _in_text(image: Image, label: str) -> str:
    height, width = image.resolution
    return f"▣ {plain(label) or 'picture'}: {width}x{height} pixels"
