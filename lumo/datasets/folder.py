"""A folder of pictures and sounds, one's own or a published dataset's, into files that a codec takes and a manifest.

Codecs want one size and one length. Here, and nowhere else, files are resampled, mixed, cut, padded and resized; every one of it is
counted, and what can't be used is named with its reason.

Axes: h w pixel · c channel · samples.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from PIL import Image as PILImage
from PIL import ImageOps

from lumo.datasets.manifest import TASKS_BY_MEDIA, ChangedError, ManifestError, check_row
from lumo.datasets.members import Members
from lumo.datasets.place import check_name, claimed
from lumo.datasets.published import Published
from lumo.datasets.splits import hash_of, set_apart
from lumo.datasets.table import PICTURES, SOUNDS, read_table, spelled, usable
from lumo.files import printable, sha256_of, write_atomically
from lumo.media import Audio, ClipPolicy, Image, MediaError, png_bytes, read_audio, read_image, wav_bytes

SILENCE_DBFS = -80.0
Progress = Callable[[int, int], None]  # rows done, and of how many
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
    def of(cls, codecs: Any, **how: Any) -> Adoption:
        """With the sizes that a set of codecs takes, and unless `how` says it the fit that its pictures had in training."""
        side = codecs.image.card["resolution"]
        return cls((side, side), codecs.audio.policy, **{"fit": codecs.image.fit} | how)

    @property
    def way(self) -> list[Any]:
        """What a file depends on."""
        return [list(self.resolution), list(asdict(self.clips).values()), self.fit, self.long, FILTER.name]


@dataclass
class Adopted:
    """rows: in the manifest, by what they have (`image`, `audio`, `image+audio`); done: what was done to files, counted; left_out: one line each."""

    manifest: Path
    rows: Counter = field(default_factory=Counter)
    done: Counter = field(default_factory=Counter)
    left_out: list[str] = field(default_factory=list)


def adopt(
    folder: Path,
    captions: Path | Published,
    out: Path,
    how: Adoption,
    progress: Progress = lambda done, of: None,
) -> Adopted:
    """Write `out/manifest.jsonl` and the files that it names. What is there already from the same file and the same way is kept.

    captions: a table, see `table.read_table`; or the published dataset whose files lie in `folder`
    A dataset's own validation and test rows are never learned from: they are the eval split, and a part of them golden.
    What is left out stands in `out/left_out.txt` too, also when it is too much.
    Raises ManifestError for a table that can't be read or changes meanwhile, for an `out` that can't be written or is written by another, and when too
    little can be used.
    """
    result = Adopted(out / "manifest.jsonl")
    left_out = result.left_out
    if isinstance(captions, Path):
        lines = read_table(captions, how.columns, left_out)
    elif how.columns:
        raise ManifestError(f"{captions}: has columns of its own; --columns is for a table")
    else:
        lines = captions.lines(folder, left_out)
    table = list(usable(lines, left_out))
    if not folder.is_dir():
        raise ManifestError(f"{folder}: no folder there; name the one that holds the files")
    if folder.is_relative_to(out) or (isinstance(captions, Path) and captions.is_relative_to(out)):
        raise ManifestError(f"{out}: holds the files or the table themselves; choose another folder to write to")
    with claimed(out, "adopt", {"from": folder.name} | asdict(how)):
        try:
            rows = _all_rows(table, folder, how, result, progress)
            result.rows = _set_apart(rows, captions, how, result)
        finally:
            left_out[:] = map(printable, left_out)
            write_atomically(out / "left_out.txt", "".join(f"{line}\n" for line in left_out))
        write_atomically(result.manifest, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return result


def _all_rows(
    table: Sequence[tuple[str, dict[str, str]]], folder: Path, how: Adoption, result: Adopted, progress: Progress
) -> list[dict[str, Any]]:
    """The manifest's rows; what can't be used adds a line to `left_out`."""
    rows: dict[str, dict[str, Any]] = {}
    members, out = Members(folder), result.manifest.parent
    for number, (where, line) in enumerate(table):
        progress(number, len(table))
        try:
            for row in _rows(line, members, out, how, result.done):
                if row["id"] in rows:
                    raise ManifestError(f"id '{row['id']}' stands there twice, the first is kept")
                rows[row["id"]] = row
        except ChangedError:
            raise  # other rows may hold another's file too
        except (ManifestError, MediaError) as error:
            result.left_out.append(f"{where}: {error}")
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise  # said in one line, as everywhere
            raise ManifestError(f"{out}: can't be written ({error}); choose another folder") from error
    progress(len(table), len(table))
    return list(rows.values())


def _set_apart(rows: list[dict[str, Any]], captions: Path | Published, how: Adoption, result: Adopted) -> Counter:
    """As `splits.set_apart`; a refusal says what was left out before."""
    left_out = result.left_out
    if not rows:
        why = f"the first reason: {left_out[0]}" if left_out else "the table is empty"
        raise ManifestError(f"{captions}: no row can be used ({why}); mend the table")
    try:
        return set_apart(rows, how.golden, result.done)
    except ManifestError as error:
        why = f"; {len(left_out)} rows were left out, the first: {left_out[0]}" if left_out else ""
        raise ManifestError(f"{error}{why}") from error


# --- a row ------------------------------------------------------------------------------------------------------------


def _rows(
    line: Mapping[str, str], members: Members, out: Path, how: Adoption, done: Counter
) -> Iterator[dict[str, Any]]:
    """The manifest's rows of a line: one, or one for each part of a long sound, with the same picture if it has one."""
    # the picture first, as in a manifest of the world
    media = dict(_made(line, line[key], members, out, how, done) for key in ("picture", "file") if key in line)
    count = max(len(paths) for _, paths in media.values())
    name = line.get("id") or _name(line)
    known = {key: line[key] for key in ("group", "split", "start_s", "end_s") if key in line}
    for part in range(count):
        row = {
            "id": name if count == 1 else f"{name}-{part:03d}",
            "modalities": {
                medium: {"path": paths[part % len(paths)], "meta": {"file": file, "group": file} | known}
                for medium, (file, paths) in media.items()
            },
            "text": {"caption": line["caption"]},
            "task": TASKS_BY_MEDIA[tuple(media)][0],
            "source": line.get("source", how.source),
            "license": line.get("license", how.license),
        }
        subtype = line.get("subtype", how.subtype) if "audio" in media else None
        row |= {"subtype": subtype} if subtype else {}
        check_row(row)
        yield row


def _made(
    line: Mapping[str, str], name: str, members: Members, out: Path, how: Adoption, done: Counter
) -> tuple[str, tuple[str, list[str]]]:
    """(medium, (the file's one name, paths below `out` of what it became))."""
    file = spelled(members.folder, name)
    suffix = Path(file).suffix.lower()
    if suffix not in PICTURES + SOUNDS:
        raise MediaError(f"{name}: neither a picture nor a sound by its name; expected {' '.join(PICTURES + SOUNDS)}")
    medium = "image" if suffix in PICTURES else "audio"
    with members.on_disk(line, file) as source:
        return medium, (file, _kept(out, f"{medium}/{hash_of(file)[:16]}", source, medium, how, done))


def _name(line: Mapping[str, str]) -> str:
    """An id for a row without one: several captions of one file are several rows."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(line["file"]).stem)[:60]
    return f"{plain}-{hash_of(line['file'] + chr(0) + line['caption'])[:8]}"


def _kept(out: Path, stem: str, source: Path, medium: str, how: Adoption, done: Counter) -> list[str]:
    """Paths below `out` of what a file became, made now or, from the same file, before."""
    note = out / f"{stem}.json"
    try:
        if not source.is_file():  # a pipe would be waited for
            raise MediaError(f"{source}: no file there; check the path in the table")
        made_from = [sha256_of(source), *how.way]
    except OSError as error:
        raise MediaError(f"{source}: can't be read ({error.strerror or error}); check the path in the table") from error
    before: list[str] = []
    try:
        known = json.loads(note.read_text())
        before = [path for path in known["paths"] if re.fullmatch(rf"{stem}(-\d+)?\.(png|wav)", path)]
        if known["from"] == made_from and before and known["sha256"] == [sha256_of(out / path) for path in before]:
            done.update(known["done"])
            return before
    except (OSError, ValueError, KeyError, TypeError):
        pass
    for path in [note, *(out / path for path in before)]:  # of another file, or made in another way
        path.unlink(missing_ok=True)
    here: Counter = Counter()
    if medium == "image":
        made = [(f"{stem}.png", png_bytes(fitted(read_image(source), how, here)))]
    else:
        clips = clips_of(read_audio(source), how, here)
        made = [
            (f"{stem}-{n:03d}.wav" if len(clips) > 1 else f"{stem}.wav", wav_bytes(clip))
            for n, clip in enumerate(clips)
        ]
        if not made:
            raise MediaError(f"{source}: silent (below {SILENCE_DBFS:g} dBFS), expected a sound; leave it out")
    for path, data in made:
        write_atomically(out / path, data)
    paths = [path for path, _ in made]
    hashes = [hashlib.sha256(data).hexdigest() for _, data in made]
    card = {"from": made_from, "paths": paths, "sha256": hashes, "done": here}
    write_atomically(note, json.dumps(card) + "\n")  # last: all is there
    done.update(here)
    return paths


# --- media ------------------------------------------------------------------------------------------------------------


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
    policy, samples = how.clips, audio.samples
    if not 4000 <= audio.sample_rate_hz <= 400_000:
        raise MediaError(
            f"sound is said to be at {audio.sample_rate_hz} Hz, expected 4,000 to 400,000; export it again"
        )
    if samples.shape[0] != policy.channels:
        done["sounds mixed"] += 1
        samples = np.repeat(samples.mean(0, keepdims=True), policy.channels, axis=0)
    if audio.sample_rate_hz != policy.sample_rate_hz:
        done["sounds resampled"] += 1
        samples = soxr.resample(samples.T, audio.sample_rate_hz, policy.sample_rate_hz, quality="HQ").T
    whole = policy.samples
    count = max(1, (2 * samples.shape[1] + whole) // (2 * whole)) if how.long == "split" else 1
    parts = [samples[:, n * whole : (n + 1) * whole] for n in range(count)]
    done["sounds cut"] += samples.shape[1] > count * whole
    done["sounds split"] += count > 1
    clips = []
    for part in parts:
        missing = whole - part.shape[1]
        done["clips padded with silence"] += missing > 0
        clip = Audio(np.pad(part, ((0, 0), (0, missing))).astype(np.float32), policy.sample_rate_hz)
        if clip.rms_dbfs < SILENCE_DBFS:
            done["silent clips left out"] += 1
        else:
            done["clips louder than full scale, clipped"] += clip.peak > 1
            clips.append(clip)
    return clips


def for_codecs(media: Image | Audio, how: Adoption) -> Image | Audio:
    """A picture or a sound as `adopt` would make it; of a sound the first clip. Silence stays silence."""
    if isinstance(media, Image):
        return fitted(media, how, Counter())
    return next(
        iter(clips_of(media, how, Counter())),
        Audio(np.zeros((how.clips.channels, how.clips.samples), np.float32), how.clips.sample_rate_hz),
    )
