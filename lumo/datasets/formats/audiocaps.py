"""AudioCaps: `train.csv`, `val.csv`, `test.csv` with audiocap_id, youtube_id, start_time, caption; one caption a clip in training, five in
the others. Source: https://github.com/cdjkim/audiocaps (dataset/, dataset2.0/)

The sounds aren't published. A clip of ten seconds is looked for as `ID_START`, `ID_START` with six digits, `YID` (as AudioSet's copies are
named), `ID`, and the row's number.
"""

from __future__ import annotations

from lumo.datasets.formats.reading import Files, csv_rows, named
from lumo.datasets.table import Lines


def read(files: Files, left_out: list[str]) -> Lines:
    for path in files.named("train.csv", "val.csv", "test.csv"):
        for where, row in csv_rows(path, ("audiocap_id", "youtube_id", "start_time", "caption"), left_out):
            with named(where, left_out):
                video, start = row["youtube_id"], row["start_time"]
                names = (f"{video}_{start}", f"{video}_{start:0>6}", f"Y{video}", video, row["audiocap_id"])
                line = {
                    "file": files.sound(*names),
                    "caption": row["caption"],
                    "id": f"audiocaps-{row['audiocap_id']}",
                    "group": f"youtube/{video}",
                    "split": "train" if path.stem == "train" else "eval",
                    "start_s": start,
                }
                yield where, line
