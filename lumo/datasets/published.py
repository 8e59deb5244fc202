"""The published datasets that lumo reads: their licences and terms, what their sounds are, and the reader of their format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from lumo.datasets.formats import (
    anyinstruct,
    audiocaps,
    clotho,
    coco_captions,
    fsd50k,
    jamendo_fma,
    laion_audio,
    llava_pretrain,
    mtg_jamendo,
    musiccaps,
    song_describer,
    vggsound,
    wavcaps,
)
from lumo.datasets.formats.reading import Files
from lumo.datasets.manifest import ManifestError, Row
from lumo.datasets.table import Lines


@dataclass(frozen=True)
class Published:
    """A dataset as its authors publish it.

    license: of rows that don't say; terms: what a user of it agrees to, or has to know; subtype: of sounds whose row doesn't say
    """

    name: str
    license: str
    terms: str
    subtype: str | None
    homepage: str
    read: Callable[[Files, list[str]], Lines]

    def lines(self, folder: Path, left_out: list[str]) -> Lines:
        """Raises ManifestError when the folder hasn't the dataset's metadata."""
        if not folder.is_dir():
            raise ManifestError(f"{folder}: no folder there; name the one that holds the files")
        return self.read(Files(folder), left_out)

    def __str__(self) -> str:
        return self.name


YOUTUBE = "the sounds are their YouTube uploaders'"

PUBLISHED = {
    dataset.name: dataset
    for dataset in (
        Published(
            "clotho",
            "by clip",
            "captions for non-commercial use with attribution (Tampere University's licence); each clip by its own licence",
            "sfx",
            "https://zenodo.org/records/4783391",
            clotho.read,
        ),
        Published(
            "audiocaps",
            "academic use only",
            f"academic use only, with citation; {YOUTUBE}",
            "sfx",
            "https://github.com/cdjkim/audiocaps",
            audiocaps.read,
        ),
        Published(
            "wavcaps",
            "academic use only",
            "academic use only; Freesound's, the BBC's and SoundBible's own licences apply besides",
            "sfx",
            "https://huggingface.co/datasets/cvssp/WavCaps",
            wavcaps.read,
        ),
        Published(
            "musiccaps",
            "CC-BY-SA-4.0 (captions)",
            f"attribution, share alike; {YOUTUBE}",
            "music",
            "https://huggingface.co/datasets/google/MusicCaps",
            musiccaps.read,
        ),
        Published(
            "song-describer",
            "CC-BY-SA-4.0",
            "attribution, share alike; each track by its own Creative Commons licence; made for evaluation: what learns from it can't be judged by it",
            "music",
            "https://zenodo.org/records/10072001",
            song_describer.read,
        ),
        Published(
            "laion-audio",
            "research use only",
            "research only, unless the owner of a source permits more",
            "sfx",
            "https://github.com/LAION-AI/audio-dataset",
            laion_audio.read,
        ),
        Published(
            "mtg-jamendo",
            "Creative Commons, by track",
            "tags under CC-BY-NC-SA-4.0; each track by its own Creative Commons licence, many of them non-commercial",
            "music",
            "https://github.com/MTG/mtg-jamendo-dataset",
            mtg_jamendo.read,
        ),
        Published(
            "jamendo-fma",
            "MIT (captions)",
            "each track by its own Creative Commons licence; the captions are a model's",
            "music",
            "https://huggingface.co/datasets/disco-eth/jamendo-fma-captions",
            jamendo_fma.read,
        ),
        Published(
            "fsd50k",
            "by clip",
            "CC-BY-4.0 as a whole; each clip by its own: CC0, CC-BY, CC-BY-NC or CC Sampling+",
            "sfx",
            "https://zenodo.org/records/4060432",
            fsd50k.read,
        ),
        Published(
            "vggsound",
            "CC-BY-4.0 (labels)",
            "attribution; the videos are their YouTube uploaders'",
            "sfx",
            "https://www.robots.ox.ac.uk/~vgg/data/vggsound/",
            vggsound.read,
        ),
        Published(
            "llava-pretrain",
            "by source",
            "the terms of LAION, CC-3M and SBU, from which the pictures come, and of BLIP, which wrote captions",
            None,
            "https://huggingface.co/datasets/liuhaotian/LLaVA-Pretrain",
            llava_pretrain.read,
        ),
        Published(
            "coco-captions",
            "by picture",
            "captions under CC-BY-4.0; each picture by its own licence on Flickr, many of them non-commercial",
            None,
            "https://cocodataset.org",
            coco_captions.read,
        ),
        Published(
            "anyinstruct",
            "not stated",
            "no licence is stated; made with GPT-4 and Azure's voices, whose terms of use apply",
            "speech",
            "https://huggingface.co/datasets/OpenMOSS-Team/AnyInstruct",
            anyinstruct.read,
        ),
    )
}


def captions_of(name: str) -> Path | Published:
    """A published dataset by its name, or the path of a table. Raises ManifestError for what is neither."""
    path = Path(name).expanduser().resolve()
    if name in PUBLISHED:
        return PUBLISHED[name]
    if not path.suffix and not path.exists():
        raise ManifestError(
            f"{name}: neither a table of captions nor a published dataset, which are {', '.join(PUBLISHED)}"
        )
    return path


def ledger(rows: Iterable[Row]) -> list[tuple[str, str, str, int, str]]:
    """(source, licence, subtype, rows, terms) of what is in a manifest; without a subtype a row is a `sound` or a `picture`."""
    counts = Counter(
        (row.source, row.license, row.subtype or ("sound" if row.modalities.audio else "picture")) for row in rows
    )
    terms = {name: dataset.terms for name, dataset in PUBLISHED.items()}
    return [(*key, count, terms.get(key[0], "")) for key, count in sorted(counts.items())]
