"""Song Describer: `song_describer.csv` with caption_id, track_id, caption, is_valid_subset, familiarity, artist_id, album_id, path, duration,
and `audio_licenses.txt`; up to five captions a track. `path` is `34/1004034.mp3`, the file `34/1004034.2min.mp3`.
Source: https://zenodo.org/records/10072001 and https://github.com/mulab-mir/song-describer-dataset (docs/datacard.md)
"""

from __future__ import annotations

from lumo.datasets.formats.mtg_jamendo import licenses, track_license
from lumo.datasets.formats.reading import Files, csv_rows, named, stem
from lumo.datasets.table import Lines


def read(files: Files, left_out: list[str]) -> Lines:
    known = licenses(files)
    for path in files.named("song_describer.csv"):
        for where, row in csv_rows(path, ("caption_id", "track_id", "caption", "path"), left_out):
            with named(where, left_out):
                name = stem(row["path"])
                line = {
                    "file": files.sound(f"{name}.2min", name),
                    "caption": row["caption"],
                    "id": f"song-describer-{row['caption_id']}",
                    "group": f"jamendo/{row['track_id']}",
                    "license": track_license(known, row["path"]),
                }
                yield where, line
