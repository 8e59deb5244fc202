"""Images and sound as values, and their way to and from disk.

Reading is strict: a file that is missing, empty, truncated, of another rate or another length raises `MediaError` with
one line that says which file, what was found and what was expected. Nothing is resampled or cut in silence.
"""

from lumo.media.headers import Header, describe
from lumo.media.pictures import picture_bytes, png_bytes, read_image
from lumo.media.sounds import MOST_SAMPLES, read_audio, sound_bytes, wav_bytes
from lumo.media.values import Audio, ClipPolicy, Image, MediaError

__all__ = [
    "MOST_SAMPLES",
    "Audio",
    "ClipPolicy",
    "Header",
    "Image",
    "MediaError",
    "describe",
    "picture_bytes",
    "png_bytes",
    "read_audio",
    "read_image",
    "sound_bytes",
    "wav_bytes",
]
