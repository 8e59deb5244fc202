"""Several datasets as one: ids, paths, groups, terms and golden rows stay right, and nothing is learned from what another tests on."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image as PILImage
from refusals import refused

from lumo import adoption
from lumo.__main__ import main
from lumo.datasets import join as joining
from lumo.datasets.fitting import Adoption
from lumo.datasets.folder import adopt
from lumo.datasets.join import join
from lumo.datasets.manifest import ManifestError, read_manifest
from lumo.datasets.published import PUBLISHED, ledger
from lumo.media import ClipPolicy, MediaError
from lumo.params import load_profile
from lumo.shards import Plan, write_shards

HOW = Adoption((64, 64), ClipPolicy(16_000, 1, 1.0), golden=2)
PLAN = Plan(0.3, "none", 100)


def media(folder: Path, kind: str, count: int) -> Path:
    """Generated files and their table; the names are the same in every folder."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(len(folder.name))
    for n in range(count):
        if kind == "image":
            PILImage.fromarray(rng.integers(0, 256, (48, 80, 3), dtype=np.uint8)).save(folder / f"{n}.png")
        else:
            soundfile.write(folder / f"{n}.wav", rng.uniform(-0.3, 0.3, 16_000), 16_000)
    suffix = {"image": "png", "audio": "wav"}[kind]
    table = folder / "captions.csv"
    table.write_text("file,caption\n" + "".join(f"{n}.{suffix},{kind} {n}\n" for n in range(count)))
    return table


@pytest.fixture(scope="module")
def adopted(tmp_path_factory):
    """Folders `pictures` and `sounds`, of ten files each."""
    place = tmp_path_factory.mktemp("adopted")
    for name, kind, license in (("pictures", "image", "CC0-1.0"), ("sounds", "audio", "CC-BY-4.0")):
        table = media(place / "raw" / name, kind, 10)
        adopt(table.parent, table, place / name, Adoption(**{**vars(HOW), "license": license}))
    return place


@pytest.fixture
def parts(adopted, tmp_path):
    shutil.copytree(adopted, tmp_path, dirs_exist_ok=True)
    return [tmp_path / "pictures", tmp_path / "sounds"]


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def edit(folder: Path, change) -> None:
    """Change the rows of an adopted manifest."""
    path = folder / "manifest.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for n, row in enumerate(rows):
        change(n, row, next(iter(row["modalities"].values())))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_rows_files_and_golden_of_both_come_together(parts, tmp_path):
    result = join(parts, tmp_path / "both", "none")
    assert result.rows == {"image": 10, "image golden": 2, "audio": 10, "audio golden": 2} and not result.left_out
    rows, left_out = read_manifest(result.manifest)
    assert not left_out and {row.id.split("/")[0] for row in rows} == {"pictures", "sounds"}
    assert Counter(PLAN.split(row) for row in rows)["golden"] == 4
    for row in rows:
        ((_, medium),) = row.modalities.items()
        assert (tmp_path / "both" / medium.path).samefile(
            tmp_path / medium.path
        )  # the path begins with the dataset's name
    assert [line[:4] for line in ledger(rows)] == [
        ("mine", "CC-BY-4.0", "sound", 10),
        ("mine", "CC0-1.0", "picture", 10),
    ]


def test_joined_again_it_is_the_same_and_follows_what_changed(parts, tmp_path):
    join(parts, tmp_path / "both", "none")
    before = contents(tmp_path / "both")
    join(parts, tmp_path / "both", "none")
    assert contents(tmp_path / "both") == before
    file = next((parts[0] / "image").glob("*.png"))
    other = next(p for p in (parts[0] / "image").glob("*.png") if p != file).read_bytes()
    file.unlink()
    file.write_bytes(other)
    join(parts, tmp_path / "both", "none")
    assert (tmp_path / "both" / "pictures" / "image" / file.name).read_bytes() == other


def test_a_disk_without_links_gets_copies(parts, tmp_path, monkeypatch):
    join(parts, tmp_path / "linked", "none")

    def refuse(source, target):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(joining.os, "link", refuse)
    join(parts, tmp_path / "copied", "none")
    assert contents(tmp_path / "copied") == contents(tmp_path / "linked")
    assert all(os.stat(path).st_nlink == 1 for path in (tmp_path / "copied").rglob("*.png"))


def test_pairs_alone_with_nothing_golden_are_refused(parts, tmp_path):
    """Neither pictures nor sounds by themselves, so no task of one medium notices."""
    manifests = []
    for name in ("a", "b"):
        shutil.copytree(parts[0], tmp_path / name / "pictures")
        shutil.copytree(parts[1], tmp_path / name / "sounds")
        media = zip(*(read_manifest(tmp_path / name / part.name / "manifest.jsonl")[0] for part in parts), strict=True)
        lines = []
        for picture, sound in media:
            row = picture.model_dump(mode="json", exclude_none=True)
            row["modalities"] |= sound.model_dump(mode="json", exclude_none=True)["modalities"]
            for folder, medium in (("pictures", "image"), ("sounds", "audio")):
                content = row["modalities"][medium]
                row["modalities"][medium] = {"path": f"{folder}/{content['path']}", "meta": {"group": row["id"]}}
            lines.append(json.dumps(row | {"task": "ia2t", "subtype": "sfx"}) + "\n")
        manifests.append(tmp_path / name / "manifest.jsonl")
        manifests[-1].write_text("".join(lines))
    with refused(ManifestError, "join: nothing is golden", "meta.split golden"):
        adoption.join(load_profile("smoke"), manifests, tmp_path / "out")


def test_a_first_file_that_is_gone_is_left_out_and_the_next_is_looked_at(parts, tmp_path):
    first = read_manifest(parts[0] / "manifest.jsonl")[0][0]
    (parts[0] / first.modalities.image.path).unlink()
    result, _ = adoption.join(load_profile("smoke"), parts, tmp_path / "out")
    assert len(result.left_out) == 1 and first.id in result.left_out[0]


@pytest.mark.parametrize("strict", ["golden", "eval"])
def test_a_recording_that_one_tests_on_is_learned_from_in_none(parts, tmp_path, strict):
    def name(split):
        def change(n, row, medium):
            if n == 0:
                medium["meta"] |= {"group": "youtube/abc", "split": split}

        return change

    edit(parts[0], name(strict))
    edit(parts[1], name("train"))
    result = join(parts, tmp_path / "both", "none")
    assert result.done == {"rows moved to eval with their recording": 1}
    splits = [PLAN.split(row) for row in read_manifest(result.manifest)[0] if "abc" in str(row.modalities)]
    assert splits == [strict, "eval"]


def test_names_that_are_the_same_by_chance_are_different_recordings(parts, tmp_path):
    rows, _ = read_manifest(join(parts, tmp_path / "both", "none").manifest)
    groups = {next(medium for _, medium in row.modalities.items()).meta["group"] for row in rows}
    assert len(groups) == 20 and "pictures/0.png" in groups and "sounds/0.wav" in groups


def test_a_source_that_is_golden_says_so_afterwards(parts, tmp_path):
    """A manifest of one's own names its golden rows by their source."""
    (parts[0] / "adopted.json").unlink()

    def by_source(n, row, medium):
        medium["meta"].pop("split", None)
        row["source"] = "held" if n < 3 else "mine"

    edit(parts[0], by_source)
    result = join(parts, tmp_path / "both", "held")
    assert result.rows["image golden"] == 3
    with refused(ManifestError, "join: no image is golden, expected some to measure on"):
        join(parts, tmp_path / "none", "none")


def test_what_cant_be_used_is_left_out_by_name(parts, tmp_path):
    def break_some(n, row, medium):
        if n < 3:
            medium["path"] = ("image/none.png", "../../etc/passwd", "")[n]

    edit(parts[0], break_some)
    result = join(parts, tmp_path / "both", "none")
    assert result.rows["image"] == 7 and len(result.left_out) == 3
    reasons = "\n".join(result.left_out)
    assert "no file there" in reasons and "leaves the manifest's folder" in reasons and "path: got ''" in reasons
    assert (tmp_path / "both" / "left_out.txt").read_text().splitlines() == result.left_out


def test_what_cant_be_joined_is_refused(parts, tmp_path):
    pictures, sounds = parts
    with refused(ManifestError, "got 1 manifest, expected two or more"):
        join(parts[:1], tmp_path / "both", "none")
    with refused(ManifestError, "its folder is called 'pictures', as that of", "rename one of the two"):
        join([pictures, tmp_path / "raw" / ".." / "pictures"], tmp_path / "both", "none")
    with refused(ManifestError, "isn't empty and wasn't made by lumo join; choose another folder"):
        join(parts, tmp_path / "raw", "none")
    with refused(ManifestError, f"{tmp_path}: holds {pictures}/manifest.jsonl, which is to be joined"):
        join(parts, tmp_path, "none")
    with refused(ManifestError, "its name is 'a b', expected letters, digits"):
        join(parts, tmp_path / "a b", "none")
    with refused(ManifestError, "nowhere: no manifest there; name a folder that lumo adopt wrote"):
        join([pictures, tmp_path / "nowhere"], tmp_path / "both", "none")
    edit(sounds, lambda n, row, medium: medium["meta"].pop("split", None))
    with refused(ManifestError, "no row says split: golden, as an older lumo left it; run lumo adopt again"):
        join(parts, tmp_path / "both", "none")


def test_terms_of_published_datasets_stay_in_the_ledger(parts, tmp_path):
    edit(parts[1], lambda n, row, medium: row.update(source="clotho", subtype="sfx"))
    lines = ledger(read_manifest(join(parts, tmp_path / "both", "none").manifest)[0])
    assert [(line[0], line[3], line[4]) for line in lines] == [
        ("clotho", 10, PUBLISHED["clotho"].terms),
        ("mine", 10, ""),
    ]


def test_the_command_writes_a_profile_whose_shards_have_both(parts, tmp_path, capsys, tokenizer):
    assert main(["join", str(tmp_path / "both"), *map(str, parts), "--profile", "smoke"]) == 0
    assert "next: lumo report --profile" in capsys.readouterr().out
    profile = load_profile(str(tmp_path / "both" / "profile.yaml"))
    assert (profile.profile, profile.golden.cases, profile.data.eval_share) == ("both", 2, 0.3)
    assert profile.tasks == ["a2t", "i2t", "t2a", "t2i"]
    index = write_shards(Path(profile.data.manifest), tmp_path / "shards", tokenizer, PLAN)
    assert sum(shard["samples"] for shards in index["splits"].values() for shard in shards) == 20
    assert sum(shard["samples"] for shard in index["splits"]["golden"]) == 4 and not index["left_out"]


def test_files_for_other_codecs_are_refused_before_any_work(parts, tmp_path):
    for file in (parts[0] / "image").glob("*.png"):
        PILImage.new("RGB", (32, 32)).save(file)
    with refused(MediaError, "picture is 32x32 pixels, expected 64x64"):
        adoption.join(load_profile("smoke"), parts, tmp_path / "both")
    assert not (tmp_path / "both").exists()
