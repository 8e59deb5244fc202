"""WavCaps: a JSON a source, `fsd_final.json`, `bbc_final.json`, `sb_final.json`, `as_final.json`; {"num_captions_per_audio": 1, "data":
[{"id", "caption", "duration", …}]}, in earlier releases the list alone. The sounds are `ID.flac` in a folder of the source's name; AudioSet's
ids are `YID.wav`. Source: https://huggingface.co/datasets/cvssp/WavCaps and https://github.com/XinhaoMei/WavCaps
"""

from __future__ import annotations

from lumo.datasets.formats.reading import Files, json_of, named, objects
from lumo.datasets.table import Lines

SOURCES = {"fsd": "FreeSound", "bbc": "BBC_Sound_Effects", "sb": "SoundBible", "as": "AudioSet_SL"}


def read(files: Files, left_out: list[str]) -> Lines:
    for path in files.named("*_final.json"):
        source = SOURCES.get(path.stem.removesuffix("_final"))
        if source is None:
            left_out.append(
                f"{path.name}: no source of WavCaps by its name, expected one of {', '.join(SOURCES)}_final.json"
            )
            continue
        content = json_of(path)
        rows = content.get("data") if isinstance(content, dict) else content
        for where, row in objects(path, rows, {"id": str | int, "caption": str}, left_out, "data"):
            with named(where, left_out):
                name = str(row["id"]).removesuffix(".wav")
                group = {"FreeSound": f"freesound/{name}", "AudioSet_SL": f"youtube/{name.removeprefix('Y')}"}
                line = {
                    "file": files.sound(name, under=source),
                    "caption": row["caption"],
                    "id": f"wavcaps-{source}-{name}",
                    "group": group.get(source, f"{source}/{name}"),
                }
                yield where, line
