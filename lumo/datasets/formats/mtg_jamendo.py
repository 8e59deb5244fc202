"""MTG-Jamendo: `autotagging.tsv`, or its split 0 as `split-0/autotagging-{train,validation,test}.tsv`: TRACK_ID, ARTIST_ID, ALBUM_ID, PATH,
DURATION, TAGS, and as many more fields as there are tags (`genre---rock`, `instrument---piano`, `mood/theme---happy`). The sounds are
`14/214.mp3`, or `14/214.low.mp3`. `audio_licenses.txt` has blocks of a path, a title, and a line that ends in the licence's address.
Source: https://github.com/MTG/mtg-jamendo-dataset
"""

from __future__ import annotations

import re

from lumo.datasets.formats.prompts import music_prompt
from lumo.datasets.formats.reading import Files, license_name, named, stem, text_of
from lumo.datasets.manifest import ManifestError
from lumo.datasets.splits import SPLIT_WORDS
from lumo.datasets.table import Lines


def read(files: Files, left_out: list[str]) -> Lines:
    known = licenses(files)
    split = [path for path in files.any_named("autotagging-*.tsv") if path.parent.name == "split-0"]
    for path in split or files.named("autotagging.tsv"):
        part = SPLIT_WORDS.get(path.stem.partition("-")[2])
        for number, text in enumerate(text_of(path).splitlines()[1:], start=2):
            where = f"{path.name}:{number}"
            with named(where, left_out):
                track, file, tags = fields(text)
                yield (
                    where,
                    {
                        "file": files.sound(stem(file), f"{stem(file)}.low"),
                        "caption": music_prompt(tags, track),
                        "id": f"mtg-jamendo-{track}",
                        "group": f"jamendo/{track_number(file)}",
                        "license": track_license(known, file),
                        "split": part,
                    },
                )


def fields(text: str) -> tuple[str, str, dict[str, list[str]]]:
    """Track, path, and tags by kind. Raises ManifestError for a line that has none, or others.

    >>> fields("track_0000214\\tartist_000014\\talbum_000031\\t14/214.mp3\\t124.6\\tgenre---punkrock\\tgenre---metal")
    ('track_0000214', '14/214.mp3', {'genre': ['punkrock', 'metal']})
    """
    if text.count("\t") < 5:
        raise ManifestError(
            f"{text!r:.60}: expected a track, its artist, album, path, duration and tags, with tabs; mend the row"
        )
    track, _, _, file, _, *tags = text.split("\t")
    words: dict[str, list[str]] = {}
    for kind, _, word in (tag.partition("---") for tag in tags):
        words.setdefault(kind, []).append(word)
    if not words or not words.keys() <= {"genre", "instrument", "mood/theme"} or not all(map(all, words.values())):
        raise ManifestError(f"{file}: tags are {tags!r:.60}, expected at least one such as genre---rock; mend the row")
    return track, file, words


def track_number(file: str) -> str:
    """
    >>> track_number("34/1004034.2min.mp3")
    '1004034'
    """
    return file.split("/")[-1].split(".")[0]


def licenses(files: Files) -> dict[str, str] | None:
    """Addresses of licences by track number; None where `audio_licenses.txt` isn't there."""
    paths = files.any_named("audio_licenses.txt")
    blocks = [block.split() for path in paths for block in re.split(r"\n\s*\n", text_of(path).strip())]
    return {track_number(words[0]): words[-1] for words in blocks if words} if paths else None


def track_license(known: dict[str, str] | None, file: str) -> str | None:
    """Raises ManifestError for a track that isn't among the licences, or whose licence isn't known."""
    if known is None:
        return None
    if track_number(file) not in known:
        raise ManifestError(f"{file}: no licence in audio_licenses.txt")
    return license_name(known[track_number(file)])
