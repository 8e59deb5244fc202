"""The world: the same seed gives the same bytes, held-out combinations stay out, and the files are what the rows say."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter

import numpy as np
import pytest

from lumo.datasets import world
from lumo.media import ClipPolicy, png_bytes, read_audio, read_image, wav_bytes

KINDS = sorted(world.ATTRIBUTES)
POLICY = ClipPolicy(world.SAMPLE_RATE_HZ, 1, world.DURATION_S)
FEW = {"images": 8, "clips": 6, "pairs": 3}


@pytest.fixture(scope="module")
def rows():
    """Enough of each for every combination to have had its turn."""
    return list(world.rows(seed=3, images=900, clips=600, pairs=300))


def media_bytes(meta: dict) -> bytes:
    media = world.render(meta)
    return png_bytes(media) if meta["kind"] == "image" else wav_bytes(media)


def scenes_of(row: dict) -> list[world.Scene]:
    return [world.scene_of(medium["meta"]) for medium in row["modalities"].values()]


# --- what there is ----------------------------------------------------------------------------------------------------


def test_there_is_as_much_of_everything_as_the_specification_asks():
    values = {
        kind: [set(column) for column in zip(*(s.values for s in world.scenes(kind)), strict=True)] for kind in KINDS
    }
    colours, shapes, sizes, places, backgrounds = map(len, values["image"])
    assert colours >= 8 and shapes >= 5 and sizes >= 2 and places >= 5 and backgrounds >= 2
    timbres, pitches, rhythms, _ = map(len, values["music"])
    assert timbres >= 4 and pitches >= 6 and rhythms >= 4
    assert len(values["sfx"][0]) >= 6
    for effect in values["sfx"][0]:  # each effect has a direction or a speed, one of two
        assert len({s.values[1] for s in world.scenes("sfx") if s.values[0] == effect}) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_every_scene_has_its_own_name_and_at_least_three_captions(kind):
    scenes = world.scenes(kind)
    wordings = world.WORDINGS[kind]
    assert len(set(wordings)) >= 3
    assert len({scene.name for scene in scenes}) == len(scenes) == len(set(scenes))
    assert len({scene.caption(w) for scene in scenes for w in range(len(wordings))}) == len(scenes) * len(wordings)
    for scene in scenes:
        assert all(value in scene.caption(w) for value in scene.values for w in range(len(wordings)))


# --- held out ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_tenth_of_the_combinations_is_held_out(kind):
    everything, out = set(world.scenes(kind)), world.held_out(kind)
    assert len(out) == math.ceil(len(everything) / 10)
    assert out < everything
    assert set(world.seen(kind)) == everything - out


@pytest.mark.parametrize("kind", KINDS)
def test_every_value_and_every_pair_of_values_stays_in_training(kind):
    """So that what is tested is a new combination of known parts."""
    for size in (1, 2):

        def parts(scenes, size=size):
            return {part for scene in scenes for part in itertools.combinations(enumerate(scene.values), size)}

        assert parts(world.seen(kind)) == parts(world.scenes(kind))


@pytest.mark.parametrize("kind", ["image", "music"])
def test_the_held_out_combinations_touch_every_value(kind):
    """Of the effects only three are held out, too few for that."""
    assert {part for scene in world.held_out(kind) for part in enumerate(scene.values)} == {
        part for scene in world.scenes(kind) for part in enumerate(scene.values)
    }


def test_held_out_combinations_never_appear_in_training(rows):
    out = frozenset().union(*(world.held_out(kind) for kind in KINDS))
    for row in rows:
        kept_out = [scene in out for scene in scenes_of(row)]
        assert all(kept_out) if row["source"] == "world-held-out" else not any(kept_out), row["id"]


def test_training_rows_cover_every_combination_that_is_seen(rows):
    trained = {scene for row in rows if row["source"] == "world" for scene in scenes_of(row)}
    for kind in KINDS:
        assert trained >= set(world.seen(kind))


def test_held_out_combinations_have_every_wording(rows):
    golden = Counter(row["text"]["caption"] for row in rows if row["source"] == "world-held-out")
    for kind in KINDS:
        for scene in world.held_out(kind):
            for wording in range(len(world.WORDINGS[kind])):
                assert golden[scene.caption(wording)] == 1


def test_training_uses_every_wording(rows):
    for kind in KINDS:
        captions = [row["text"]["caption"] for row in rows if row["source"] == "world" and len(row["modalities"]) == 1]
        for wording in range(len(world.WORDINGS[kind])):
            assert any(scene.caption(wording) in captions for scene in world.seen(kind))


# --- rows and files ---------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_rows_and_another_seed_others():
    amounts = {"images": 20, "clips": 10, "pairs": 5}
    first, again, other = (list(world.rows(seed=seed, **amounts)) for seed in (0, 0, 1))
    assert json.dumps(first) == json.dumps(again) != json.dumps(other)


def test_rows_are_as_many_as_asked_with_ids_of_their_own(rows):
    shape = Counter(tuple(row["modalities"]) for row in rows if row["source"] == "world")
    assert shape == {("image",): 900, ("audio",): 600, ("image", "audio"): 300}
    assert len({row["id"] for row in rows}) == len(rows)
    paths = [medium["path"] for row in rows for medium in row["modalities"].values()]
    assert len(set(paths)) == len(paths)


@pytest.mark.parametrize("kind", KINDS)
def test_rendering_is_repeatable_and_the_seed_matters(kind):
    for scene in world.scenes(kind)[:: 7 if kind == "image" else 3][:12]:
        meta = {"kind": kind, **scene.attributes, "seed": 5}
        assert media_bytes(meta) == media_bytes(dict(meta))
        assert len({media_bytes({**meta, "seed": seed}) for seed in range(6)}) > 1


@pytest.mark.parametrize("kind", ["music", "sfx"])
def test_clips_are_one_second_within_full_scale_and_never_silent(kind):
    for scene in world.scenes(kind):
        audio = world.play(scene, np.random.default_rng(0))
        assert audio.samples.shape == (1, POLICY.samples) and audio.samples.dtype == np.float32
        assert 0.02 < audio.peak < 0.9 and np.isfinite(audio.samples).all()


def test_held_out_pairs_stand_after_all_that_a_world_without_them_has():
    without, more = (list(world.rows(seed=0, images=9, clips=6, pairs=3, held_out_pairs=count)) for count in (0, 70))
    assert more[: len(without)] == without and len(more) == len(without) + 70
    for row in more[len(without) :]:
        scenes = [world.scene_of(medium["meta"]) for medium in row["modalities"].values()]
        assert list(row["modalities"]) == ["image", "audio"] and row["source"] == "world-held-out"
        assert all(scene in world.held_out(scene.kind) for scene in scenes)
    assert {row["subtype"] for row in more[len(without) :]} == {"music", "sfx"}


def tree(folder) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    return folder, world.write_world(folder, seed=0, **FEW)


def test_the_files_are_what_the_rows_say(written):
    folder, manifest = written
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert [row["id"] for row in rows] == [row["id"] for row in world.rows(seed=0, **FEW)]
    for row in rows[::7]:
        for modality, medium in row["modalities"].items():
            path, true = folder / medium["path"], world.render(medium["meta"])
            assert path.read_bytes() == media_bytes(medium["meta"])
            if modality == "image":
                assert np.array_equal(read_image(path, world.RESOLUTION).pixels, true.pixels)
            else:
                assert np.abs(read_audio(path, POLICY).samples - true.samples).max() <= 1.5 / 32768
    listed = {medium["path"] for row in rows for medium in row["modalities"].values()}
    assert set(tree(folder)) == listed | {"manifest.jsonl"}


def test_the_same_seed_gives_the_same_files(written, tmp_path):
    folder, _ = written
    world.write_world(tmp_path, seed=0, **FEW)
    assert tree(tmp_path) == tree(folder)


def test_whole_files_are_kept_and_written_again_without_a_manifest(written):
    folder, manifest = written
    picture = sorted(folder.rglob("*.png"))[0]
    whole = picture.read_bytes()
    picture.write_bytes(b"cut")
    world.write_world(folder, seed=0, **FEW)
    assert picture.read_bytes() == b"cut"  # the manifest stands for the files: nothing was written
    manifest.unlink()
    world.write_world(folder, seed=0, **FEW)
    assert picture.read_bytes() == whole and manifest.is_file()


def test_a_world_of_other_amounts_replaces_the_manifest(tmp_path, monkeypatch):
    few = [next(world.rows(seed=0, images=1))]
    for rows in (few, [*few, next(world.rows(seed=0, clips=1))]):
        monkeypatch.setattr(world.writing, "rows", lambda rows=rows, **_: iter(rows))
        manifest = world.write_world(tmp_path, seed=0)
        assert [json.loads(line)["id"] for line in manifest.read_text().splitlines()] == [row["id"] for row in rows]


def test_a_world_cut_while_it_was_written_has_no_manifest(tmp_path, monkeypatch):
    rows = [next(world.rows(seed=seed, images=1)) for seed in range(3)]
    monkeypatch.setattr(world.writing, "rows", lambda **_: iter(rows))
    drawn, render = [], world.render

    def until_the_third(meta):
        drawn.append(meta)
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return render(meta)

    world.write_world(tmp_path / "whole", seed=0)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "manifest.jsonl").write_text("an older one\n")
    monkeypatch.setattr(world.writing, "render", until_the_third)
    with pytest.raises(KeyboardInterrupt):
        world.write_world(tmp_path / "cut", seed=0)
    assert not (tmp_path / "cut" / "manifest.jsonl").exists()
    monkeypatch.setattr(world.writing, "render", render)
    world.write_world(tmp_path / "cut", seed=0)
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")
