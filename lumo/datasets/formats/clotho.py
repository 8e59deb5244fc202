"""Clotho v2.1: `clotho_captions_{development,validation,evaluation}.csv` (file_name, caption_1 … caption_5) and
`clotho_metadata_….csv` (file_name, keywords, sound_id, sound_link, start_end_samples, manufacturer, license), with the sounds in folders
of the parts' names, as the 7z archives unpack. Source: https://zenodo.org/records/4783391
"""

from __future__ import annotations

from pathlib import Path

from lumo.datasets.formats.reading import Files, csv_rows, license_name, named, stem
from lumo.datasets.manifest import ManifestError
from lumo.datasets.table import Lines

CAPTIONS = [f"caption_{n}" for n in range(1, 6)]


def read(files: Files, left_out: list[str]) -> Lines:
    for path in files.named("clotho_captions_*.csv"):
        part = path.stem.removeprefix("clotho_captions_")
        clips = _clips(files.named(f"clotho_metadata_{part}.csv")[0], left_out)
        for where, row in csv_rows(path, ("file_name", *CAPTIONS), left_out):
            with named(where, left_out):
                name = row["file_name"]
                if name not in clips:
                    raise ManifestError(f"{name}: no licence in clotho_metadata_{part}.csv")
                file, split = files.sound(stem(name), under=part), "train" if part == "development" else "eval"
                for n, caption in enumerate(CAPTIONS, start=1):
                    line = {
                        "file": file,
                        "caption": row[caption],
                        "id": f"clotho-{part}-{stem(name)}-{n}",
                        "split": split,
                    }
                    yield f"{where} {caption}", line | clips[name]


def _clips(path: Path, left_out: list[str]) -> dict[str, dict[str, str]]:
    """Group and licence by file name."""
    clips = {}
    for where, row in csv_rows(path, ("file_name", "sound_id", "license"), left_out):
        with named(where, left_out):
            sound = row["sound_id"] if row["sound_id"].isdigit() else row["file_name"]
            clips[row["file_name"]] = {"group": f"freesound/{sound}", "license": license_name(row["license"])}
    return clips
