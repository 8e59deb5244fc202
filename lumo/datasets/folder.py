"""One's own folder of pictures and sounds, with a table of captions, into files that a codec takes and a manifest.

Codecs want one size and one length. Here, and nowhere else, files are resampled, mixed, cut, padded and resized; every one of it is
counted, and what can't be used is named with its reason.

Axes: h w pixel · c channel · samples.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from PIL import Image as PILImage
from PIL import ImageOps

from lumo.datasets.manifest import ManifestError, inside
from lumo.files import write_atomically
from lumo.media import Audio, ClipPolicy, Image, MediaError, png_bytes, read_audio, read_image, wav_bytes

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
SOUNDS = (".wav", ".flac", ".mp3", ".ogg", ".oga")
COLUMNS = ("file", "caption", "id", "license", "source", "subtype")
SILENCE_DBFS = -80.0


@dataclass(frozen=True)
class Adoption:
    """How files become what the codecs take.

    resolution: (height, width) of pictures; clips: of sounds
    fit: `crop` scales until the picture is covered and cuts what stands over, `stretch` changes its proportions
    long: of a sound that is longer, `first` keeps the beginning, `split` makes a clip of every part (the last one if at least half full)
    golden: how many pictures, and how many sounds, are kept for the golden suites; chosen by a hash
    license, source, subtype: for rows that don't say
    """

    resolution: tuple[int, int]
    clips: ClipPolicy
    fit: str = "crop"
    long: str = "first"
    golden: int = 64
    license: str = "unknown"
    source: str = "mine"
    subtype: str | None = None

    @property
    def golden_source(self) -> str:
        return f"{self.source}-golden"


@dataclass
class Adopted:
    """rows: in the manifest, by medium; done: what was done to files, counted; left_out: one line each."""

    manifest: Path
    rows: Counter = field(default_factory=Counter)
    done: Counter = field(default_factory=Counter)
    left_out: list[str] = field(default_factory=list)


def adopt(
    folder: Path,
    captions: Path,
    out: Path,
    how: Adoption,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Adopted:
    """Write `out/manifest.jsonl` and the files that it names. What is there already from the same file and the same way is kept.

    captions: CSV with a header or JSONL, with `file` (below `folder`) and `caption`; `id`, `license`, `source`, `subtype` if known
    Raises ManifestError for a table that can't be read, for an `out` that was made in another way, and when nothing can be used.
    """
    result = Adopted(out / "manifest.jsonl")
    table = list(_table(captions, result.left_out))
    _same_way(out, how)
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    for number, (where, line) in enumerate(table):
        progress(number, len(table))
        try:
            for row in _rows(line, folder, out, how, result.done):
                if row["id"] in seen:
                    raise ManifestError(f"id '{row['id']}' stands there twice, the first is kept")
                seen.add(row["id"])
                rows.append(row)
        except (ManifestError, MediaError) as error:
            result.left_out.append(f"{where}: {error}")
    progress(len(table), len(table))
    if not rows:
        why = f"the first reason: {result.left_out[0]}" if result.left_out else "the table is empty"
        raise ManifestError(f"{captions}: no row can be used ({why}); mend the table")
    for medium in ("image", "audio"):
        these = sorted((row for row in rows if medium in row["modalities"]), key=lambda row: _hash(row["id"]))
        result.rows[medium] = len(these)
        # a small folder keeps four fifths to learn from
        for row in these[: min(how.golden, max(1, len(these) // 5))]:
            row["source"] = how.golden_source
            result.rows[f"{medium} golden"] += 1
    write_atomically(result.manifest, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return result


# --- the table --------------------------------------------------------------------------------------------------------


def _table(path: Path, left_out: list[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """(where, columns) of each line; what can't be used goes to `left_out`."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets put a mark before the first letter
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: can't be read ({error}); expected captions as CSV or JSONL in UTF-8") from error
    if path.suffix.lower() in (".jsonl", ".json"):
        lines = ((n, _json_line(line)) for n, line in enumerate(text.split("\n"), start=1) if line.strip())
    else:
        reader = csv.DictReader(io.StringIO(text, newline=""))
        missing = {"file", "caption"} - set(reader.fieldnames or ())
        if missing:
            raise ManifestError(
                f"{path}: no column {' and no column '.join(sorted(missing))}, got {reader.fieldnames or 'an empty file'}; "
                "expected a header such as file,caption"
            )
        lines = ((reader.line_num, line) for line in _csv_lines(reader, path))
    for number, line in lines:
        where = f"{path.name}:{number}"
        if not isinstance(line, dict):
            left_out.append(f"{where}: {line}; mend the row")
            continue
        columns = {key: str(value).strip() for key, value in line.items() if key in COLUMNS and value not in (None, "")}
        lacking = [name for name in ("file", "caption") if not columns.get(name)]
        if lacking:
            left_out.append(f"{where}: no {' and no '.join(lacking)}; mend the row")
            continue
        columns["caption"] = " ".join(columns["caption"].split())
        if re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", "".join(columns.values())):
            left_out.append(f"{where}: holds control characters or halves of characters; mend the row")
            continue
        yield where, columns


def _json_line(line: str) -> Any:
    try:
        found = json.loads(line)
    except ValueError as error:
        return f"not JSON ({error})"
    return found if isinstance(found, dict) else f"got {type(found).__name__}, expected an object"


def _csv_lines(reader: csv.DictReader, path: Path) -> Iterator[dict[str, Any]]:
    try:
        yield from reader
    except csv.Error as error:
        raise ManifestError(f"{path}:{reader.line_num}: not CSV ({error}); export it again") from error


def _same_way(out: Path, how: Adoption) -> None:
    """What was made in another way is not mixed with this."""
    note, now = out / "adopted.json", json.loads(json.dumps(asdict(how)))
    try:
        before = json.loads(note.read_text())
    except FileNotFoundError:
        before = None
    except ValueError as error:
        raise ManifestError(f"{note}: can't be read ({error}); choose another folder, or remove {out}") from error
    if before is not None and before != now:
        differ = sorted(key for key in now if before.get(key) != now[key])
        raise ManifestError(f"{out}: was made with another {', '.join(differ)}; choose another folder, or remove it")
    write_atomically(note, json.dumps(now, indent=2) + "\n")


# --- a row ------------------------------------------------------------------------------------------------------------


def _rows(line: Mapping[str, str], folder: Path, out: Path, how: Adoption, done: Counter) -> Iterator[dict[str, Any]]:
    """The manifest's rows of a line of the table: one, or one for each part of a long sound."""
    source = inside(folder, line["file"])
    suffix = source.suffix.lower()
    if suffix not in PICTURES + SOUNDS:
        raise MediaError(
            f"{line['file']}: neither a picture nor a sound by its name; expected {' '.join(PICTURES + SOUNDS)}"
        )
    medium = "image" if suffix in PICTURES else "audio"
    name = line.get("id") or _name(line)
    stem = f"{medium}/{_hash(line['file'])[:16]}"
    parts = _kept(out, stem, source, medium, how, done)
    for part, path in enumerate(parts):
        row = {
            "id": name if len(parts) == 1 else f"{name}-{part:03d}",
            "modalities": {medium: {"path": path, "meta": {"file": line["file"]}}},
            "text": {"caption": line["caption"]},
            "task": "i2t" if medium == "image" else "a2t",
            "source": line.get("source", how.source),
            "license": line.get("license", how.license),
        }
        subtype = line.get("subtype", how.subtype) if medium == "audio" else None
        yield row | ({"subtype": subtype} if subtype else {})


def _name(line: Mapping[str, str]) -> str:
    """An id for a row without one: several captions of one file are several rows."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(line["file"]).stem)[:60]
    return f"{plain}-{_hash(line['file'] + chr(0) + line['caption'])[:8]}"


def _kept(out: Path, stem: str, source: Path, medium: str, how: Adoption, done: Counter) -> list[str]:
    """Paths below `out` of what a file became, made now or, from the same file, before."""
    note = out / f"{stem}.json"
    try:
        stat = source.stat()
    except OSError as error:
        raise MediaError(f"{source}: can't be read ({error.strerror or error}); check the path in the table") from error
    made_from = [stat.st_size, stat.st_mtime_ns]
    try:
        known = json.loads(note.read_text())
        if known["from"] == made_from and all((out / path).is_file() for path in known["paths"]):
            done.update(known["done"])
            return known["paths"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
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
    write_atomically(note, json.dumps({"from": made_from, "paths": paths, "done": here}) + "\n")  # last: all is there
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
        made = picture.resize((width, height), PILImage.Resampling.LANCZOS)
    else:
        done["pictures cropped"] += image.resolution[0] * width != image.resolution[1] * height
        made = ImageOps.fit(picture, (width, height), PILImage.Resampling.LANCZOS)
    return Image(np.asarray(made, dtype=np.uint8))


def clips_of(audio: Audio, how: Adoption, done: Counter) -> list[Audio]:
    """The sound as clips of the wanted rate, channels and length; silent ones left out. `done` counts what was needed."""
    policy, samples = how.clips, audio.samples
    if samples.shape[0] != policy.channels:
        done["sounds mixed"] += 1
        samples = np.repeat(samples.mean(0, keepdims=True), policy.channels, axis=0)
    if audio.sample_rate_hz != policy.sample_rate_hz:
        done["sounds resampled"] += 1
        samples = soxr.resample(samples.T, audio.sample_rate_hz, policy.sample_rate_hz, quality="HQ").T
    whole = policy.samples
    count = max(1, round(samples.shape[1] / whole)) if how.long == "split" else 1
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
            clips.append(clip)
    return clips


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
