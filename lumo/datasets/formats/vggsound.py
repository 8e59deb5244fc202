"""VGGSound: `vggsound.csv` without a header: YouTube id, start in seconds, label, `train` or `test`.
Source: https://www.robots.ox.ac.uk/~vgg/data/vggsound/ and https://github.com/hche11/VGGSound

A video's sound and one of its frames are looked for as `ID_000030.wav` and `ID_000030.jpg` (the start with six digits). Each is a row; with
both there is a third one that has the two together. All are of one recording.
"""

from __future__ import annotations

from lumo.datasets.formats.prompts import SOUND, prompt
from lumo.datasets.formats.reading import Files, csv_rows, named
from lumo.datasets.table import Lines

GAMES = ("badminton", "darts", "hockey", "lacrosse", "squash", "table tennis", "tennis", "volleyball")
MUSIC = ("beat boxing", "child singing", "female singing", "male singing", "orchestra", "rapping", "singing bowl", "singing choir",
         "tapping guitar", "yodelling")  # fmt: skip


def read(files: Files, left_out: list[str]) -> Lines:
    for path in files.named("vggsound.csv"):
        for where, row in csv_rows(path, ("video", "start", "label", "split"), left_out, header=False):
            name = f"{row['video']}_{row['start']:0>6}"
            known = {
                "caption": prompt(SOUND, row["label"], name),
                "group": f"youtube/{row['video']}",
                "split": "train" if row["split"] == "train" else "eval",
                "subtype": subtype(row["label"]),
                "start_s": row["start"],
            }
            sound = frame = ""
            with named(where, left_out):
                sound = files.sound(name)
                yield where, known | {"file": sound, "id": f"vggsound-{name}"}
            with named(where, left_out):
                frame = files.any_picture(name)
            if frame:
                yield where, known | {"file": frame, "id": f"vggsound-{name}-frame"}
            if sound and frame:
                yield where, known | {"file": sound, "picture": frame, "id": f"vggsound-{name}-both"}


def subtype(label: str) -> str:
    """
    >>> subtype("playing harp"), subtype("playing table tennis"), subtype("male speech, man speaking")
    ('music', 'sfx', 'speech')
    """
    if "speech" in label:
        return "speech"
    played = label.startswith("playing ") and label.removeprefix("playing ") not in GAMES
    return "music" if played or label in MUSIC else "sfx"
