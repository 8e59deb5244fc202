"""Every published dataset in a few rows of its true format."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow
import soundfile
from PIL import Image as PILImage
from pyarrow import parquet as pq

from lumo.datasets.published import PUBLISHED
from lumo.datasets.table import usable
from lumo.media import ClipPolicy

HOW = {"resolution": (32, 32), "clips": ClipPolicy(8000, 1, 0.25), "golden": 1}
BY, NC, ZERO = (
    f"http://creativecommons.org/{end}/" for end in ("licenses/by/3.0", "licenses/by-nc/3.0", "publicdomain/zero/1.0")
)


# --- writing files ----------------------------------------------------------------------------------------------------


def sound(folder: Path, *names: str) -> None:
    for n, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, 0.3 * np.sin(np.arange(2000) * 0.1 * (n + 1)), 8000)


def picture(folder: Path, *names: str) -> None:
    for n, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        PILImage.new("RGB", (40, 30), (60 * n, 20, 90)).save(folder / name)


def table(path: Path, *rows: tuple, delimiter: str = ",") -> None:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.getvalue(), encoding="utf-8")


def jsonl(path: Path, content, lines: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in content) if lines else json.dumps(content))


# --- the formats ------------------------------------------------------------------------------------------------------


def clotho(at: Path) -> None:
    for part, names in {"development": ("rain, far.wav", "Café 2.wav"), "evaluation": ("Bell.wav", "Door.wav")}.items():
        sound(at, *(f"{part}/{name}" for name in names))
        table(at / f"clotho_captions_{part}.csv", ("file_name", *(f"caption_{n}" for n in range(1, 6))),
              *((name, *(f"It sounds, {name} {n}" for n in range(5))) for name in names))  # fmt: skip
        table(at / f"clotho_metadata_{part}.csv",
              ("file_name", "keywords", "sound_id", "sound_link", "start_end_samples", "manufacturer", "license"),
              *((name, "a;b", len(part) * 10 + n, "https://freesound.org/…", "[0, 9]", "someone", (ZERO, BY)[n]) for n, name in enumerate(names)))  # fmt: skip


def audiocaps(at: Path) -> None:
    sound(at, "audio/-abc_30.wav", "audio/Yd_f-000.flac", "audio/ghi_000130.wav", "audio/jkl.wav")
    head = ("audiocap_id", "youtube_id", "start_time", "caption")
    table(at / "dataset/train.csv", head, (1, "-abc", 30, "A dog barks, twice"), (2, "d_f-000", 0, "Wind"))
    table(at / "dataset/val.csv", head, *((3 + n, "ghi", 130, f"Ducks {n}") for n in range(5)))
    table(at / "dataset/test.csv", head, *((8 + n, "jkl", 5, f"Steps {n}") for n in range(5)))


def wavcaps(at: Path) -> None:
    for short, source, ids in (("sb", "SoundBible", ("2219", "2218")), ("fsd", "FreeSound", ("2219",)), ("as", "AudioSet_SL", ("Yb0RFKhbpFJA.wav",))):  # fmt: skip
        sound(at, *(f"Zip_files/{source}_flac/{name.removesuffix('.wav')}.flac" for name in ids))
        rows = [{"title": "x", "description": "raw", "author": "y", "href": "z", "caption": f"{source} {name}.", "id": name, "duration": 14.1,
                 "audio": "wav_path", "download_link": "…"} for name in ids]  # fmt: skip
        jsonl(
            at / f"json_files/{source}/{short}_final.json",
            rows if short == "sb" else {"num_captions_per_audio": 1, "data": rows},
        )
    jsonl(at / "json_files/blacklist/blacklist_exclude_all_ac.json", {"AudioSet": []})


def musiccaps(at: Path) -> None:
    names = ("-0Gj8-vB1q4", "abc", "def", "ghi")
    sound(at, "-0Gj8-vB1q4.wav", "[abc]-[30-40].wav", "def_30.wav", "ghi_30_40.mp3")
    table(at / "musiccaps-public.csv",
          ("ytid", "start_s", "end_s", "audioset_positive_labels", "aspect_list", "caption", "author_id", "is_balanced_subset", "is_audioset_eval"),
          *((name, 30, 40, "/m/0140xf,/m/02cjck", "['low quality', 'rubab']", f"A \"slow\" song,\nnumber {n}.", 4, False, n > 1)
            for n, name in enumerate(names)))  # fmt: skip


TRACKS = {"214": BY, "1004034": NC, "1376256": "http://creativecommons.org/licenses/by-nc-sa/2.0/fr/"}


def audio_licenses(at: Path) -> None:
    at.mkdir(parents=True, exist_ok=True)
    (at / "audio_licenses.txt").write_text("\n\n".join(
        f"{name[-2:]}/{name}.mp3\nA Song by A Band from Jamendo: http://www.jamendo.com/track/{name}\nAvailable under a Creative Commons license: {address}"
        for name, address in TRACKS.items()) + "\n")  # fmt: skip


def song_describer(at: Path) -> None:
    sound(at, *(f"audio/{name[-2:]}/{name}.2min.mp3" for name in TRACKS))
    audio_licenses(at)
    table(at / "song_describer.csv",
          ("caption_id", "track_id", "caption", "is_valid_subset", "familiarity", "artist_id", "album_id", "path", "duration"),
          *((n, name, f"caption, number {n}", True, 2, 7, 8, f"{name[-2:]}/{name}.mp3", 202.5) for n, name in enumerate([*TRACKS, "214"])))  # fmt: skip


def laion_audio(at: Path) -> None:
    about = {"title": "Harp", "license": BY, "fname": "145450"}
    free = {"id": 282776, "download_url": "https://freesound.org/apiv2/sounds/282776/download/", "title": "Synth"}
    for part, originals in {"train": (about, free, {}), "test": (about,)}.items():
        (at / part).mkdir(parents=True, exist_ok=True)
        with tarfile.open(at / part / "freesound0.tar", "w") as tar:
            for n, original in enumerate(originals):
                clip = io.BytesIO()
                soundfile.write(clip, 0.3 * np.sin(np.arange(2000) * 0.2 * (n + 1)), 8000, format="FLAC")
                said = {
                    "text": [f"{part} {n} title.", f"{part} {n} described."][: 2 - n % 2],
                    "tag": ["Music"],
                    "original_data": original,
                }
                for name, data in ((f"{n}.flac", clip.getvalue()), (f"{n}.json", json.dumps(said).encode())):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


HEAD = ("TRACK_ID", "ARTIST_ID", "ALBUM_ID", "PATH", "DURATION", "TAGS")
TAGS = {
    "214": ["genre---punkrock"],
    "1004034": ["genre---house", "instrument---piano", "mood/theme---deep"],
    "1376256": ["mood/theme---sad"],
}


def tracks(*names: str) -> list[tuple]:
    return [HEAD] + [
        (f"track_{name:0>7}", "artist_000014", "album_000031", f"{name[-2:]}/{name}.mp3", 124.6, *TAGS[name])
        for name in names
    ]


def mtg_jamendo_splits(at: Path) -> None:
    sound(at, "raw_30s/14/214.mp3", "raw_30s/34/1004034.low.mp3", "raw_30s/56/1376256.mp3")
    audio_licenses(at)
    table(at / "data/autotagging.tsv", *tracks(*TAGS), delimiter="\t")
    table(at / "data/splits/split-0/autotagging-train.tsv", *tracks("214", "1004034"), delimiter="\t")
    table(at / "data/splits/split-0/autotagging-test.tsv", *tracks("1376256"), delimiter="\t")
    table(at / "data/splits/split-1/autotagging-test.tsv", *tracks("214"), delimiter="\t")


def fsd50k(at: Path) -> None:
    labels = {
        "64760": "Electric_guitar,Guitar,Musical_instrument,Music",
        "16399": "Rain,Water",
        "16401": "Speech,Human_voice",
        "37199": "Bark,Dog",
    }
    sound(at, *(f"FSD50K.dev_audio/{name}.wav" for name in ("64760", "16399", "16401")), "FSD50K.eval_audio/37199.wav")
    table(at / "FSD50K.ground_truth/dev.csv", ("fname", "labels", "mids", "split"),
          *((name, labels[name], "/m/0,/m/1", split) for name, split in (("64760", "train"), ("16399", "train"), ("16401", "val"))))  # fmt: skip
    table(at / "FSD50K.ground_truth/eval.csv", ("fname", "labels", "mids"), ("37199", labels["37199"], "/m/0"))
    for part, names in {"dev": ("64760", "16399", "16401"), "eval": ("37199",)}.items():
        jsonl(at / f"FSD50K.metadata/{part}_clips_info_FSD50K.json",
              {name: {"title": "t", "description": "d", "tags": ["x"], "license": "http://creativecommons.org/licenses/sampling+/1.0/", "uploader": "u"}
               for name in names})  # fmt: skip


def vggsound(at: Path) -> None:
    names = ("---g-f_I2yQ_000001", "abc_000030", "def_000110", "ghi_000000")
    sound(at, *(f"audio/{name}.wav" for name in names))
    picture(at, *(f"frames/{name}.jpg" for name in names[:3]))
    table(at / "vggsound.csv", ("---g-f_I2yQ", 1, "people marching", "test"), ("abc", 30, "playing harp", "train"),
          ("def", 110, "male speech, man speaking", "train"), ("ghi", 0, "playing table tennis", "train"))  # fmt: skip


def llava_pretrain(at: Path) -> None:
    picture(at, "00453/004539375.jpg", "images/00223/002239345.jpg")
    rows = [{"id": name, "image": f"{name[:5]}/{name}.jpg", "conversations": [
        {"from": "human", "value": "Render a clear and concise summary of the photo.\n<image>"}, {"from": "gpt", "value": f"a sheet, {name}"}]}
        for name in ("004539375", "002239345")]  # fmt: skip
    jsonl(at / "blip_laion_cc_sbu_558k.json", rows)


def coco_captions(at: Path) -> None:
    licenses = [{"url": "http://creativecommons.org/licenses/by-nc-sa/2.0/", "id": 1, "name": "Attribution-NonCommercial-ShareAlike License"},
                {"url": "http://flickr.com/commons/usage/", "id": 7, "name": "No known copyright restrictions"}]  # fmt: skip
    for part, ids in {"train": (9, 25), "val": (139, 285)}.items():
        picture(at, *(f"{part}2017/{n:012d}.jpg" for n in ids))
        jsonl(at / f"annotations/captions_{part}2017.json", {
            "info": {"year": 2017}, "licenses": licenses,
            "images": [{"license": 7 if n == 9 else 1, "file_name": f"{n:012d}.jpg", "height": 30, "width": 40, "id": n} for n in ids],
            "annotations": [{"image_id": n, "id": 10 * n + k, "caption": f"A sheet, {n} {k}."} for n in ids for k in range(5)]})  # fmt: skip


def anyinstruct(at: Path) -> None:
    sound(at, *(f"speech_conv/speech/chunk_0000{c}/000{n}.mp3" for c in range(2) for n in (1, 2)))
    jsonl(at / "speech_conv/metadata.jsonl", [{"chat": [
        {"role": "USER", "message": f"How are you, {c}?", "speech": f"chunk_0000{c}/0001.mp3"},
        {"role": "AnyGPT", "message": "Well.", "speech": f"chunk_0000{c}/0002.mp3"}]} for c in range(2)], lines=True)  # fmt: skip


def jamendo_fma(at: Path) -> None:
    """Two tracks of each, in numbers that only the folder tells apart; one with two captions, one in a JSON of the authors' own tool."""
    sound(at, "raw_30s/56/123456.low.mp3", "raw_30s/14/214.mp3", "fma_large/000/000002.mp3", "fma_large/123/123457.mp3")
    rows = [{"id": name, "salmonn_text": text, "chatgpt_texts": short, "tags_text": "genres: folk; instrument: harp"}
            for name, text, short in (("123456", "A harp plays.", ["Harp."]), ("000002", None, ["Drums."]), ("123457", "A choir.", []))]  # fmt: skip
    (at / "data").mkdir(parents=True, exist_ok=True)
    pq.write_table(pyarrow.Table.from_pylist(rows), at / "data/train-00000-of-00001.parquet")
    jsonl(at / "salmonn.json", {"214": {"salmonn_text": "Punk rock."}})
    (at / "audio_licenses.txt").write_text(f"56/123456.mp3\nA Song\n{BY}\n\n14/214.mp3\nA Song\n{NC}\n")
    table(at / "fma_metadata/raw_tracks.csv", ("track_id", "album_id", "license_url"), (2, 1, NC), (123457, "", ZERO))


# --- all of them ------------------------------------------------------------------------------------------------------


# name → its fixture; rows, recordings, rows for eval; licences; subtypes; a caption
CASES = {
    "clotho": (clotho, 20, 4, 10, {"CC0-1.0", "CC-BY-3.0"}, {"sfx"}, "It sounds, rain, far.wav 0"),
    "audiocaps": (audiocaps, 12, 4, 10, {"academic use only"}, {"sfx"}, "A dog barks, twice"),
    "wavcaps": (wavcaps, 4, 4, 0, {"academic use only"}, {"sfx"}, "FreeSound 2219."),
    "musiccaps": (musiccaps, 4, 4, 2, {"CC-BY-SA-4.0 (captions)"}, {"music"}, 'A "slow" song, number 0.'),
    "song-describer": (song_describer, 4, 3, 0, {"CC-BY-3.0", "CC-BY-NC-3.0", "CC-BY-NC-SA-2.0-FR"}, {"music"}, "caption, number 3"),
    "laion-audio": (laion_audio, 7, 4, 2, {"CC-BY-3.0", "research use only"}, {"sfx"}, "train 1 title."),
    "mtg-jamendo": (mtg_jamendo_splits, 3, 3, 1, {"CC-BY-3.0", "CC-BY-NC-3.0", "CC-BY-NC-SA-2.0-FR"}, {"music"}, None),
    "fsd50k": (fsd50k, 4, 4, 2, {"CC-SAMPLING+-1.0"}, {"music", "speech", "sfx"}, None),
    "vggsound": (vggsound, 10, 4, 3, {"CC-BY-4.0 (labels)"}, {"music", "speech", "sfx", None}, None),
    "llava-pretrain": (llava_pretrain, 2, 2, 0, {"by source"}, {None}, "a sheet, 004539375"),
    "coco-captions": (coco_captions, 20, 4, 10, {"CC-BY-NC-SA-2.0", "no known copyright restrictions"}, {None}, "A sheet, 9 0."),
    "jamendo-fma": (jamendo_fma, 5, 4, 0, {"CC-BY-3.0", "CC-BY-NC-3.0", "CC0-1.0"}, {"music"}, "A harp plays."),
    "anyinstruct": (anyinstruct, 4, 2, 0, {"not stated"}, {"speech"}, None),
}  # fmt: skip


def of(name: str) -> dict:
    return {"source": name, "license": PUBLISHED[name].license, "subtype": PUBLISHED[name].subtype}


def lines_of(name: str, folder: Path) -> tuple[list[tuple[str, dict]], list[str]]:
    left_out: list[str] = []
    return list(usable(PUBLISHED[name].lines(folder, left_out), left_out)), left_out
