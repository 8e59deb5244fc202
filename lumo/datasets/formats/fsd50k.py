"""FSD50K: `dev.csv` (fname, labels, mids, split: train or val) and `eval.csv` (fname, labels, mids), the sounds `FNAME.wav` in
`FSD50K.dev_audio/` and `FSD50K.eval_audio/`, and `{dev,eval}_clips_info_FSD50K.json` with each clip's licence. Labels are those of AudioSet with
all of their parents, words joined by underscores. Source: https://zenodo.org/records/4060432
"""

from __future__ import annotations

from lumo.datasets.formats.prompts import SOUND, listed, prompt
from lumo.datasets.formats.reading import Files, csv_rows, json_of, license_name, named
from lumo.datasets.manifest import ManifestError
from lumo.datasets.table import Lines


def read(files: Files, left_out: list[str]) -> Lines:
    for path in files.named("dev.csv", "eval.csv"):
        clips = json_of(files.named(f"{path.stem}_clips_info_FSD50K.json")[0])
        for where, row in csv_rows(path, ("fname", "labels"), left_out):
            with named(where, left_out):
                name, labels = row["fname"], [label for label in row["labels"].split(",") if label]
                try:
                    address = str(clips[name]["license"])
                except (KeyError, TypeError) as error:
                    raise ManifestError(f"{name}: no licence in {path.stem}_clips_info_FSD50K.json") from error
                words = listed([label.replace("_", " ").lower() for label in labels])
                line = {
                    "file": files.sound(name, under=path.stem),
                    "caption": prompt(SOUND, words, name),
                    "id": f"fsd50k-{name}",
                    "group": f"freesound/{name}",
                    "license": license_name(address),
                    "split": "train" if row.get("split") == "train" else "eval",
                    # every label comes with its parents
                    "subtype": "music" if "Music" in labels else "speech" if "Speech" in labels else "sfx",
                }
                yield where, line
