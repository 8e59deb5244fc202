"""What a file says it is, before anything of it is decoded."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import soundfile

from lumo.media.pictures import BOMBS, open_picture
from lumo.media.sounds import SOUND_FORMATS
from lumo.media.values import MediaError


@dataclass(frozen=True)
class Header:
    """What a file says it is. kind: a picture's size, a sound's rate and channels, in words; duration_s: a sound's"""

    kind: str
    duration_s: float | None = None


def describe(path: Path, medium: str) -> Header:
    """The header alone; nothing is decoded. Raises MediaError."""
    if not os.path.isfile(path):  # a pipe would be waited for
        raise MediaError(f"{path}: no file there; check the path in the manifest")
    try:
        if medium == "image":
            with open_picture(path) as file:
                return Header(f"{file.width} x {file.height} pixels")
        # opened here: by its name alone libsndfile takes what `read_audio` refuses
        with path.open("rb") as opened, soundfile.SoundFile(opened) as file:
            if file.format not in SOUND_FORMATS:
                raise ValueError(f"format {file.format}")
            channels = f"{file.channels} channel{'s' if file.channels > 1 else ''}"
            return Header(f"{file.samplerate} Hz, {channels}", file.frames / file.samplerate)
    # TypeError: a sound whose name ends in .raw wants to be told its rate
    except (OSError, SyntaxError, ValueError, TypeError, soundfile.LibsndfileError, *BOMBS) as error:
        reason = " ".join(str(getattr(error, "error_string", error)).split())
        raise MediaError(f"{path}: not a readable {medium} ({reason}); export it again") from error
