"""SEED-2 gives the codes of a slow copy that reads the published names as they are."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from refusals import refused
from slow_seed2 import SMALL, Slow, fixture_codec, fixture_folder, fixture_pictures, fixture_state, layout, normalised  # noqa: F401 - fixtures

from lumo.codecs import CodecError, CodecSet, load_codecs
from lumo.codecs.seed2 import Seed2Codec
from lumo.codecs.seed2_network import Seed2, Seed2Config, file_keys
from lumo.codecs.vectors import nearest
from lumo.datasets.fitting import Adoption, fitted
from lumo.files import sha256_of
from lumo.media import Image, MediaError, png_bytes
from lumo.params import ParamsError, load_profile

# --- against the slow copy --------------------------------------------------------------------------------------------


def test_the_published_layout():
    with torch.device("meta"):
        model = Seed2(Seed2Config())
    published = layout(Seed2Config())
    keys = [key for name in model.state_dict() for key in file_keys(name)]
    assert sorted(keys) == sorted(published)
    # what AnyGPT's issue 14 saw missing in the published file, which has no tower
    assert sum(key.startswith("visual_encoder.") for key in keys) == 511
    for name, value in model.state_dict().items():
        first, *more = (published[key] for key in file_keys(name))
        assert value.shape == ((3 * first[0],) if more else first), name
    assert published["query_tokens"] == (1, 32, 768) and published["quantize.embedding.weight"] == (8192, 32)


@torch.no_grad()
def test_vectors_and_codes_are_those_of_the_slow_copy(codec, state, pictures):
    slow = Slow(state, SMALL)
    for picture, codes in zip(pictures, codec.encode(pictures), strict=True):
        vectors = slow.vectors(picture)
        assert torch.allclose(codec.model.vectors(normalised(picture)[None])[0], vectors, atol=1e-4)
        assert np.array_equal(codes[0], torch.cdist(vectors, state["quantize.embedding.weight"]).argmin(1).numpy())
        assert np.allclose(codec.embed(codes[None])[0], slow.embed(codes[0]), atol=1e-4)


# --- codes ------------------------------------------------------------------------------------------------------------


def test_a_batch_is_its_pictures_one_by_one(codec, pictures):
    codes = codec.encode(pictures)
    assert (codes.shape, codes.dtype) == ((3, 1, 8), np.int64)
    assert codes.min() >= 0 and codes.max() < 64
    assert np.array_equal(codes, np.concatenate([codec.encode([picture]) for picture in pictures]))
    assert len({line.tobytes() for line in codes}) == 3
    assert np.allclose(codec.embed(codes), np.concatenate([codec.embed(line[None]) for line in codes]), atol=1e-5)


def test_a_code_is_the_nearest_to_its_own_vector(codec):
    book = codec.model.codebook.weight
    assert torch.equal(nearest(book, book), torch.arange(64))


@torch.no_grad()
def test_a_query_knows_only_those_before_it(folder, pictures):
    """SEED-2's codes have an order, which BLIP-2's queries haven't."""
    model = Seed2Codec(folder, config=SMALL).model
    pixels = normalised(pictures[0])[None]
    before = model.vectors(pixels)[0]
    model.query_tokens[0, 5, 0] += 1  # all of it at once would be no change to its norm
    after = model.vectors(pixels)[0]
    assert torch.allclose(before[:5], after[:5], atol=1e-6)
    assert ((before[5:] - after[5:]).abs().amax(1) > 1e-3).all()


def test_pictures_of_any_size_are_stretched_as_they_are_adopted(codec, codecs, rng):
    wide = Image(rng.integers(0, 256, (60, 150, 3), dtype=np.uint8))
    how = Adoption.of(CodecSet(codec, codecs.audio))
    expected = PILImage.fromarray(wide.pixels).resize((224, 224), PILImage.Resampling.BICUBIC)
    assert np.array_equal(fitted(wide, how, Counter()).pixels, np.asarray(expected))
    assert (how.fit, Adoption.of(codecs).fit) == ("stretch", "crop")


def test_a_picture_of_another_size_is_refused(codec, pictures, tmp_path):
    wide = Image(np.zeros((32, 48, 3), np.uint8))
    with refused(CodecError, "codec 'image' reads 224x224 pixels, got 48x32; resize it first"):
        codec.encode([pictures[0], wide])
    (tmp_path / "wide.png").write_bytes(png_bytes(wide))
    with refused(MediaError, "wide.png: picture is 48x32 pixels, expected 224x224; resize it first, as lumo adopt"):
        codec.read(tmp_path / "wide.png")


@pytest.mark.parametrize(
    "codes", [np.zeros((1, 1, 7)), np.zeros((1, 2, 8)), np.full((1, 1, 8), 64), np.full((1, 1, 8), -1)]
)
def test_other_codes_are_refused(codec, codes):
    for way in (codec.embed, codec.decode):
        with refused(
            CodecError, "codec 'image' decodes (codebooks, cells) (1, 8) of codes below 64", "another codec's"
        ):
            way(codes.astype(np.int64))


def test_the_card_says_what_the_codes_mean(codec, folder):
    card = codec.card
    assert json.loads(json.dumps(card)) == card
    assert card["weights_sha256"] == sha256_of(folder / "seed_quantizer.pt") and "vision_sha256" not in card
    assert (card["resolution"], card["codebooks"], card["cardinality"], card["frames"]) == (224, 1, 64, 8)


# --- in a profile, on a device ----------------------------------------------------------------------------------------


def test_a_profile_names_it(folder, tmp_path):
    def params(**image):
        return load_profile("smoke", {"codecs": {"image": {"name": "seed2"} | image}}).codecs

    # small weights where the published sizes are meant: it was this folder that was read, as SEED-2
    with refused(CodecError, f"{folder / 'seed_quantizer.pt'}: no weights of SEED-2 that fit: it lacks ", " more"):
        load_codecs(params(path=str(folder), steps=5))
    with refused(ParamsError, f"{tmp_path}: no seed_quantizer.pt there; expected a folder with seed_quantizer.pt"):
        load_codecs(params(path=str(tmp_path)))
    with refused(ParamsError, "codecs.image is ", "seed2 wants path, the folder with its weights"):
        params()
    with refused(ParamsError, "twotone has no steps; remove it"):
        load_profile("smoke", {"codecs": {"image": {"steps": 5}}})


def test_what_goes_in_follows_the_model_and_what_comes_out_is_here(folder, pictures, codec, monkeypatch):
    """On "meta", which has no values: an input left behind would be on another device than the weights."""
    monkeypatch.setattr(torch.Tensor, "cpu", lambda it: torch.zeros(it.shape, dtype=it.dtype))
    moved = Seed2Codec(folder, config=SMALL, device="meta")
    assert {value.device.type for value in moved.model.state_dict().values()} == {"meta"}
    codes = moved.encode(pictures)
    assert codes.shape == codec.encode(pictures).shape
    assert moved.embed(codes).shape == codec.embed(codes).shape
