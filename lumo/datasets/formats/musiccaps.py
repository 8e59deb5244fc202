"""MusicCaps: `musiccaps-public.csv` with ytid, start_s, end_s, audioset_positive_labels, aspect_list, caption, author_id,
is_balanced_subset, is_audioset_eval. Source: https://huggingface.co/datasets/google/MusicCaps

The sounds aren't published. A clip of ten seconds is looked for as `ID`, `[ID]-[START-END]`, `ID_START` and `ID_START_END`. Clips of
AudioSet's evaluation part are for eval.
"""

from __future__ import annotations

from lumo.datasets.formats.reading import Files, csv_rows, named
from lumo.datasets.table import Lines

COLUMNS = ("ytid", "start_s", "end_s", "caption", "is_audioset_eval")


def read(files: Files, left_out: list[str]) -> Lines:
    for path in files.named("musiccaps*.csv"):
        for where, row in csv_rows(path, COLUMNS, left_out):
            with named(where, left_out):
                video, start, end = row["ytid"], row["start_s"], row["end_s"]
                line = {
                    "file": files.sound(
                        video, f"[{video}]-[{start}-{end}]", f"{video}_{start}", f"{video}_{start}_{end}"
                    ),
                    "caption": row["caption"],
                    "id": f"musiccaps-{video}-{start}",
                    "group": f"youtube/{video}",
                    "split": "eval" if row["is_audioset_eval"].lower() == "true" else "train",
                    "start_s": start,
                    "end_s": end,
                }
                yield where, line
