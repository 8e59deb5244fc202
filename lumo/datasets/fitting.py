"""Pictures and sounds made as the codecs want them: one size, one rate, one length.

Here, and nowhere else, media are resampled, mixed, cut, padded and resized; every one of it is counted.

Axes: h w pixel · c channel · samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import soxr
from jaxtyping import Float32
from PIL import Image as PILImage
from PIL import ImageOps

from lumo.datasets.manifest import ManifestError
from lumo.datasets.place import check_name
from lumo.media import Audio, ClipPolicy, Image, MediaError

SILENCE_DBFS = -80.0
# what CLIP's, and with it SEED-2's, own code reads pictures through; with antialiasing
FILTER = PILImage.Resampling.BICUBIC


@dataclass(frozen=True)
class Adoption:
    """How files become what the codecs take.

    resolution: (height, width) of pictures; clips: of sounds
    fit: `crop` scales until the picture is covered and cuts what stands over, `stretch` changes its proportions
    long: of a sound that is longer, `first` keeps the beginning, `split` makes a clip of every part (the last one if at least half full)
    golden: how many rows with pictures, with sounds and with both are kept for the golden suites; a recording's rows stay together
    license, source, subtype: for rows that don't say
    columns: of one's own table, lumo's names → the table's, where they differ
    """

    resolution: tuple[int, int]
    clips: ClipPolicy
    fit: str = "crop"
    long: str = "first"
    golden: int = 64
    license: str = "unknown"
    source: str = "mine"
    subtype: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.golden < 1:
            raise ManifestError(
                f"adopt: golden is {self.golden}, expected at least 1: what the figures are measured on"
            )
        check_name(self.source, "adopt: source")

    @classmethod
    def of(cls, codecs: Any) -> Adoption:
        """With the sizes that a set of codecs takes, and the fit that its pictures had in training."""
        side = codecs.image.card["resolution"]
        return cls((side, side), codecs.audio.policy, codecs.image.fit)

    @property
    def recipe(self) -> list[Any]:
        """What a converted file depends on, beside the file that it was made from."""
        return [list(self.resolution), list(asdict(self.clips).values()), self.fit, self.long, FILTER.name]


def fitted(image: Image, how: Adoption, done: Counter) -> Image:
    """The picture at the wanted size. `done` counts `resized` and `cropped`."""
    height, width = how.resolution
    if image.resolution == (height, width):
        return image
    picture = PILImage.fromarray(image.pixels)
    done["pictures resized"] += 1
    if how.fit == "stretch":
        made = picture.resize((width, height), FILTER)
    else:
        done["pictures cropped"] += image.resolution[0] * width != image.resolution[1] * height
        made = ImageOps.fit(picture, (width, height), FILTER)
    return Image(np.asarray(made, dtype=np.uint8))


def clips_of(audio: Audio, how: Adoption, done: Counter) -> list[Audio]:
    """The sound as clips of the wanted rate, channels and length; silent ones left out. `done` counts what was needed."""
    samples, whole = _resampled(audio, how, done), how.clips.samples
    count = max(1, (2 * samples.shape[1] + whole) // (2 * whole)) if how.long == "split" else 1
    done["sounds cut"] += samples.shape[1] > count * whole
    done["sounds split"] += count > 1
    clips = [_padded(samples[:, n * whole : (n + 1) * whole], how.clips, done) for n in range(count)]
    heard = [clip for clip in clips if clip.rms_dbfs >= SILENCE_DBFS]
    done["silent clips left out"] += len(clips) - len(heard)
    done["clips louder than full scale, clipped"] += sum(clip.peak > 1 for clip in heard)
    return heard


def _resampled(audio: Audio, how: Adoption, done: Counter) -> Float32[np.ndarray, "c samples"]:
    """The sound at the wanted rate and channels; where only its beginning is kept, no more than a second beyond that."""
    policy, rate, samples = how.clips, audio.sample_rate_hz, audio.samples
    if not 4000 <= rate <= 400_000:
        raise MediaError(f"sound is said to be at {rate} Hz, expected 4,000 to 400,000; export it again")
    if how.long == "first":
        # the filter looks ahead by less than a quarter of a second: what is kept is bit for bit that of the whole sound
        samples = samples[:, : round((policy.duration_s + 1) * rate)]
    if samples.shape[0] != policy.channels:
        done["sounds mixed"] += 1
        samples = np.repeat(samples.mean(0, keepdims=True), policy.channels, axis=0)
    if rate != policy.sample_rate_hz:
        done["sounds resampled"] += 1
        samples = soxr.resample(samples.T, rate, policy.sample_rate_hz, quality="HQ").T
    return samples


def _padded(part: Float32[np.ndarray, "c samples"], policy: ClipPolicy, done: Counter) -> Audio:
    missing = policy.samples - part.shape[1]
    done["clips padded with silence"] += missing > 0
    return Audio(np.pad(part, ((0, 0), (0, missing))).astype(np.float32), policy.sample_rate_hz)


def for_codecs(media: Image | Audio, how: Adoption) -> Image | Audio:
    """A picture or a sound as `adopt` would make it; of a sound the first clip. Silence stays silence."""
    if isinstance(media, Image):
        return fitted(media, how, Counter())
    return next(
        iter(clips_of(media, how, Counter())),
        Audio(np.zeros((how.clips.channels, how.clips.samples), np.float32), how.clips.sample_rate_hz),
    )
