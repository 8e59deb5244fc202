"""The readers judge the model, so they are judged first: right on true media, wrong on wrong media, calm under noise."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lumo.datasets import readers, world
from lumo.media import Audio, Image

KINDS = sorted(world.ATTRIBUTES)
DRAWINGS = {"image": 1, "music": 2, "sfx": 6}


def render(scene: world.Scene, seed: int) -> Image | Audio:
    return world.render({"kind": scene.kind, **scene.attributes, "seed": seed})


@pytest.fixture(scope="module")
def true_media() -> dict[str, list[tuple[world.Scene, Image | Audio]]]:
    """Every combination of every kind, each drawing with a seed of its own."""
    return {
        kind: [
            (scene, render(scene, 1000 * seed + number))
            for seed in range(DRAWINGS[kind])
            for number, scene in enumerate(world.scenes(kind))
        ]
        for kind in KINDS
    }


def accuracy(pairs) -> dict[str, float]:
    """For each attribute the share that was read right."""
    table = [readers.right(media, scene) for scene, media in pairs]
    return {name: float(np.mean([row[name] for row in table])) for name in table[0]}


def with_noise(media: Image | Audio, rng: np.random.Generator) -> Image | Audio:
    """Pixels: standard deviation 4 of 255. Samples: 40 dB below the clip."""
    if isinstance(media, Image):
        return Image(np.clip(media.pixels + rng.normal(0, 4, media.pixels.shape), 0, 255).round().astype(np.uint8))
    rms = np.sqrt(np.mean(media.samples**2))
    noise = 0.01 * rms * rng.standard_normal(media.samples.shape)
    return Audio((media.samples + noise).astype(np.float32), media.sample_rate_hz)


@pytest.mark.parametrize("kind", KINDS)
def test_right_on_true_media_of_every_combination(true_media, kind):
    wrong = [scene.name for scene, media in true_media[kind] if not all(readers.right(media, scene).values())]
    assert not wrong


@pytest.mark.parametrize("kind", KINDS)
def test_small_noise_changes_no_reading(true_media, kind, rng):
    chosen = true_media[kind][:: 3 if kind == "image" else 1]
    wrong = [scene.name for scene, media in chosen if not all(readers.right(with_noise(media, rng), scene).values())]
    assert not wrong


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_on_another_scenes_media(true_media, kind, rng):
    """A reader that always says the same, or looks at something else, would not fall to chance."""
    chosen = true_media[kind][:: 3 if kind == "image" else 1]
    other = rng.permutation(len(chosen))
    shuffled = [(scene, chosen[i][1]) for (scene, _), i in zip(chosen, other, strict=True)]
    for name, share in accuracy(shuffled).items():
        values = [scene.attributes[name] for scene, _ in chosen]
        chance = sum((values.count(value) / len(values)) ** 2 for value in set(values))
        assert share < chance + 0.12, (name, share, chance)


@pytest.mark.parametrize("kind", KINDS)
def test_a_change_of_one_attribute_is_read_as_that_one(kind):
    """Neighbours in all but one attribute: the reader sees the one, and keeps the others."""
    scenes = world.scenes(kind)
    for scene in scenes[:: max(1, len(scenes) // 25)]:
        for name, at in zip(world.ATTRIBUTES[kind], itertools.count()):
            others = [
                s for s in scenes if s.values[:at] + s.values[at + 1 :] == scene.values[:at] + scene.values[at + 1 :]
            ]
            neighbour = next((s for s in others if s != scene), None)
            if neighbour:
                right = readers.right(render(neighbour, 4), scene)
                assert [key for key, same in right.items() if not same] == [name]


def test_a_blank_picture_has_nothing_but_its_ground():
    for name, colour in world.BACKGROUNDS.items():
        found = readers.read_image(Image(np.full((64, 64, 3), colour, np.uint8)))
        assert found == {**dict.fromkeys(world.ATTRIBUTES["image"]), "background": name}


@pytest.mark.parametrize("samples", [np.zeros((1, 16_000)), np.full((1, 16_000), 1e-5), np.zeros((1, 0))])
def test_silence_has_nothing(samples):
    silence = Audio(samples.astype(np.float32), 16_000)
    for kind in ("music", "sfx"):
        assert set(readers.read(silence, kind).values()) == {None}


@pytest.mark.parametrize("kind", KINDS)
def test_white_noise_is_not_taken_for_the_scene(kind, rng):
    scenes = world.scenes(kind)[:: 20 if kind == "image" else 1]
    right = []
    for scene in scenes:
        if kind == "image":
            noise = Image(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
        else:
            noise = Audio((rng.standard_normal((1, 16_000)) * 0.2).astype(np.float32), 16_000)
        right.append(all(readers.right(noise, scene).values()))
    assert np.mean(right) < 0.1


# --- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_caption_of_every_scene_is_read_right(kind):
    for scene in world.scenes(kind):
        for wording in range(len(world.WORDINGS[kind])):
            assert readers.read_caption(scene.caption(wording), kind) == scene.attributes


def test_a_caption_of_a_picture_and_a_sound_is_read_as_both():
    for row in itertools.islice(world.rows(seed=0, pairs=150), 150):
        for medium in row["modalities"].values():
            scene = world.scene_of(medium["meta"])
            assert readers.right(row["text"]["caption"], scene) == dict.fromkeys(scene.attributes, True), row["text"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["", " ", "nothing of the kind", "redder squares, flutes and sirens"])
def test_a_caption_that_names_nothing_has_nothing(kind, text):
    assert set(readers.read_caption(text, kind).values()) == {None}


@pytest.mark.parametrize("kind", KINDS)
def test_a_caption_that_contradicts_itself_has_none_where_it_does(kind):
    scenes = world.scenes(kind)
    for one, two in zip(scenes, scenes[7:], strict=False):
        found = readers.read_caption(f"{one.caption(0)}. {two.caption(1)}", kind)
        expected = {name: value if value == two.attributes[name] else None for name, value in one.attributes.items()}
        assert found == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_caption_of_another_scene_is_wrong(kind, rng):
    scenes = world.scenes(kind)
    for scene, other in zip(scenes, rng.permutation(len(scenes)), strict=True):
        right = readers.right(scenes[other].caption(0), scene)
        assert right == {name: value == scenes[other].attributes[name] for name, value in scene.attributes.items()}
