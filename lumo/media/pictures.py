"""Pictures: their files, read strictly and written without loss.

Axes: h w pixel.
"""

from __future__ import annotations

import io
import struct
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, UnidentifiedImageError
from PIL import Image as PILImage

from lumo.media.values import Image, MediaError, bytes_of

PICTURE_FORMATS = ("PNG", "JPEG", "WEBP")
BOMBS = (PILImage.DecompressionBombWarning, PILImage.DecompressionBombError)
PNG_END = b"IEND\xaeB`\x82"
# EXIF's orientations but the first, which is upright. Pillow's own `exif_transpose` also writes all other tags anew, and fails on damaged ones
TURNS = {
    2: PILImage.Transpose.FLIP_LEFT_RIGHT,
    3: PILImage.Transpose.ROTATE_180,
    4: PILImage.Transpose.FLIP_TOP_BOTTOM,
    5: PILImage.Transpose.TRANSPOSE,
    6: PILImage.Transpose.ROTATE_270,
    7: PILImage.Transpose.TRANSVERSE,
    8: PILImage.Transpose.ROTATE_90,
}


def read_image(path: Path | str, resolution: tuple[int, int] | None = None) -> Image:
    """Read a PNG, JPEG or WebP as RGB, as a viewer shows it: the right way up, transparency over white, 16 bits as 8.

    resolution: (height, width) that the file must have; None takes any.
    Raises MediaError.
    """
    path = Path(path)
    data = bytes_of(path)
    try:
        # decoding skips a PNG's checksums and its end; `verify` skips the last one
        open_picture(io.BytesIO(data)).verify()
        with open_picture(io.BytesIO(data)) as file:
            orientation = _orientation(file)
            # checked before the pixels are decoded: the header alone tells, and a bomb is never unpacked
            _check_resolution(path, file, orientation, resolution)
            _check_whole_and_single(path, file, data)
            upright = file.transpose(TURNS[orientation]) if orientation in TURNS else file
            pixels = np.asarray(_rgb(upright), dtype=np.uint8)
    except MediaError:
        raise
    except (OSError, SyntaxError, ValueError, *BOMBS) as error:
        reason = "no picture format known here" if isinstance(error, UnidentifiedImageError) else str(error)
        raise MediaError(
            f"{path}: not a readable picture ({reason}); expected PNG, JPEG or WebP; export it again"
        ) from error
    return Image(np.ascontiguousarray(pixels))


def _check_resolution(
    path: Path, file: PILImage.Image, orientation: int | None, resolution: tuple[int, int] | None
) -> None:
    width, height = (file.height, file.width) if orientation in (5, 6, 7, 8) else (file.width, file.height)
    if resolution and (height, width) != tuple(resolution):
        raise MediaError(
            f"{path}: picture is {width}x{height} pixels, "
            f"expected {resolution[1]}x{resolution[0]}; resize it first, as lumo adopt does"
        )


def _check_whole_and_single(path: Path, file: PILImage.Image, data: bytes) -> None:
    if file.format == "PNG" and PNG_END not in data:
        raise MediaError(f"{path}: truncated, expected a PNG up to its end mark; export it again")
    # a telephone's JPEG may hold a second picture for its own use, which no viewer shows
    if file.format != "MPO" and getattr(file, "is_animated", False):
        raise MediaError(f"{path}: an animation of {file.n_frames} pictures, expected one; save one of them")


def open_picture(source: Path | BinaryIO) -> PILImage.Image:
    """Its header, nothing decoded. Raises ValueError for more pixels than Pillow warns of: the warning made an error
    would depend on filters that all threads share."""
    file = PILImage.open(source, formats=PICTURE_FORMATS)
    pixels, most = file.width * file.height, PILImage.MAX_IMAGE_PIXELS
    if most and pixels > most:
        file.close()
        raise ValueError(f"Image size ({pixels} pixels) exceeds limit of {most} pixels")
    return file


def _orientation(file: PILImage.Image) -> int | None:
    """What the EXIF says of how to hold the picture; damaged, it says nothing. The pixels are judged by themselves."""
    try:
        return file.getexif().get(ExifTags.Base.Orientation)
    except (struct.error, SyntaxError, ValueError, OSError):
        return None


def _rgb(picture: PILImage.Image) -> PILImage.Image:
    if picture.mode.startswith("I"):  # 16 bits: Pillow's own conversion clips at 255
        return PILImage.fromarray(
            (np.asarray(picture, dtype=np.float64) / 257).round().clip(0, 255).astype(np.uint8)
        ).convert("RGB")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        return PILImage.alpha_composite(PILImage.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("RGB")


def picture_bytes(path: Path) -> int:
    """What a picture takes in memory while it is read, by its header; 0 where that can't be told, as reading it will say."""
    with suppress(OSError, SyntaxError, ValueError, *BOMBS), open_picture(path) as file:
        return 8 * file.width * file.height  # as it is decoded, and as RGB
    return 0


def png_bytes(image: Image) -> bytes:
    """The picture as PNG; same pixels, same bytes."""
    buffer = io.BytesIO()
    PILImage.fromarray(image.pixels).save(buffer, format="PNG")
    return buffer.getvalue()
