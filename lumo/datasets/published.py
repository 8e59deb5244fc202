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
from lumo.files import place_of, printable
from lumo.wording import perhaps


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
            name="clotho",
            license="by clip",
            terms="captions for non-commercial use with attribution (Tampere University's licence); each clip by its own licence",
            subtype="sfx",
            homepage="https://zenodo.org/records/4783391",
            read=clotho.read,
        ),
        Published(
            name="audiocaps",
            license="academic use only",
            terms=f"academic use only, with citation; {YOUTUBE}",
            subtype="sfx",
            homepage="https://github.com/cdjkim/audiocaps",
            read=audiocaps.read,
        ),
        Published(
            name="wavcaps",
            license="academic use only",
            terms="academic use only; Freesound's, the BBC's and SoundBible's own licences apply besides",
            subtype="sfx",
            homepage="https://huggingface.co/datasets/cvssp/WavCaps",
            read=wavcaps.read,
        ),
        Published(
            name="musiccaps",
            license="CC-BY-SA-4.0 (captions)",
            terms=f"attribution, share alike; {YOUTUBE}",
            subtype="music",
            homepage="https://huggingface.co/datasets/google/MusicCaps",
            read=musiccaps.read,
        ),
        Published(
            name="song-describer",
            license="CC-BY-SA-4.0",
            terms="attribution, share alike; each track by its own Creative Commons licence; made for evaluation: what learns from it can't be judged by it",
            subtype="music",
            homepage="https://zenodo.org/records/10072001",
            read=song_describer.read,
        ),
        Published(
            name="laion-audio",
            license="research use only",
            terms="research only, unless the owner of a source permits more",
            subtype="sfx",
            homepage="https://github.com/LAION-AI/audio-dataset",
            read=laion_audio.read,
        ),
        Published(
            name="mtg-jamendo",
            license="Creative Commons, by track",
            terms="tags under CC-BY-NC-SA-4.0; each track by its own Creative Commons licence, many of them non-commercial",
            subtype="music",
            homepage="https://github.com/MTG/mtg-jamendo-dataset",
            read=mtg_jamendo.read,
        ),
        Published(
            name="jamendo-fma",
            license="MIT (captions)",
            terms="each track by its own Creative Commons licence; the captions are a model's",
            subtype="music",
            homepage="https://huggingface.co/datasets/disco-eth/jamendo-fma-captions",
            read=jamendo_fma.read,
        ),
        Published(
            name="fsd50k",
            license="by clip",
            terms="CC-BY-4.0 as a whole; each clip by its own: CC0, CC-BY, CC-BY-NC or CC Sampling+",
            subtype="sfx",
            homepage="https://zenodo.org/records/4060432",
            read=fsd50k.read,
        ),
        Published(
            name="vggsound",
            license="CC-BY-4.0 (labels)",
            terms="attribution; the videos are their YouTube uploaders'",
            subtype="sfx",
            homepage="https://www.robots.ox.ac.uk/~vgg/data/vggsound/",
            read=vggsound.read,
        ),
        Published(
            name="llava-pretrain",
            license="by source",
            terms="the terms of LAION, CC-3M and SBU, from which the pictures come, and of BLIP, which wrote captions",
            subtype=None,
            homepage="https://huggingface.co/datasets/liuhaotian/LLaVA-Pretrain",
            read=llava_pretrain.read,
        ),
        Published(
            name="coco-captions",
            license="by picture",
            terms="captions under CC-BY-4.0; each picture by its own licence on Flickr, many of them non-commercial",
            subtype=None,
            homepage="https://cocodataset.org",
            read=coco_captions.read,
        ),
        Published(
            name="anyinstruct",
            license="not stated",
            terms="no licence is stated; made with GPT-4 and Azure's voices, whose terms of use apply",
            subtype="speech",
            homepage="https://huggingface.co/datasets/OpenMOSS-Team/AnyInstruct",
            read=anyinstruct.read,
        ),
    )
}


def captions_of(name: str) -> Path | Published:
    """A published dataset by its name, or the path of a table. Raises ManifestError for what is neither."""
    path = place_of(name)
    if name in PUBLISHED:
        return PUBLISHED[name]
    if path.exists():
        return path
    if not path.suffix:
        raise ManifestError(
            f"{name}: neither a table of captions nor a published dataset{perhaps(name, PUBLISHED)}, which are {', '.join(PUBLISHED)}"
        )
    beside = [printable(file.name) for file in path.parent.iterdir()] if path.parent.is_dir() else []
    raise ManifestError(
        f"{path}: no file there{perhaps(path.name, beside)}; name a table of captions, or a folder of parquets"
    )


def ledger(rows: Iterable[Row]) -> list[tuple[str, str, str, int, str]]:
    """(source, licence, subtype, rows, terms) of what is in a manifest; without a subtype a row is a `sound` or a `picture`."""
    counts = Counter(
        (row.source, row.license, row.subtype or ("sound" if row.modalities.audio else "picture")) for row in rows
    )
    terms = {name: dataset.terms for name, dataset in PUBLISHED.items()}
    return [(*key, count, terms.get(key[0], "")) for key, count in sorted(counts.items())]
