"""VQGAN: a naive forward pass, written from the checkpoint's keys alone, gives the same codes and pixels."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image as PILImage
from refusals import refused
from slow_vqgan import (  # noqa: F401 - fixtures
    NARROW,
    PUBLISHED,
    TOY,
    Naive,
    config_of,
    fixture_codec,
    fixture_folder,
    fixture_pictures,
    fixture_state,
    fixture_whole,
    layout,
    pixels_of,
    random_state,
    save,
)

from lumo import adoption
from lumo.adoption import Options
from lumo.codecs import CodecError, load_codecs
from lumo.codecs.sizes import image_sizes
from lumo.codecs.taming import VqganConfig
from lumo.codecs.vectors import nearest
from lumo.codecs.vqgan import Vqgan, VqganCodec
from lumo.datasets.manifest import read_manifest
from lumo.files import sha256_of
from lumo.media import Image, MediaError, png_bytes
from lumo.params import ImageCodec, ParamsError, load_profile
from lumo.shards import Plan, read_shards, write_shards
from lumo.tokenizer import load_tokenizer

# --- against the slow way ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [{}, {"ch_mult": [2, 1, 3], "num_res_blocks": 2, "attn_resolutions": [32]}, {"attn_resolutions": []},
     {"ch_mult": [1]}],
)  # fmt: skip
def test_both_ways_give_equal_codes_and_pixels(pictures, other):
    sizes, pixels = TOY | other, pixels_of(pictures[:2])
    sizes["resolution"] = 64 if len(sizes["ch_mult"]) > 1 else 16
    pixels = pixels[..., : sizes["resolution"], -sizes["resolution"] :]
    state = random_state(sizes, 24, 6, pixels)
    naive, model = Naive(state, sizes), Vqgan(VqganConfig(ddconfig=sizes, n_embed=24, embed_dim=6))
    model.load_state_dict(state)
    with torch.no_grad():
        codes = model.double().encode(pixels.double() / 127.5 - 1)
        assert len(codes.unique()) > 12 and torch.equal(codes, naive.codes(pixels))
        assert torch.allclose(model.decode(codes), naive.decoded(codes), atol=1e-8)
    assert naive.used | {"quantize.embedding.weight"} == state.keys()


def test_single_precision_and_eight_bits_change_next_to_nothing(codec, state, pictures):
    naive, codes = Naive(state, TOY), codec.encode(pictures)
    assert codes.shape == (4, 1, 256) and codes.dtype == np.int64
    assert len({picture.tobytes() for picture in codes}) == 4
    # a picture's empty parts have next to no variance, and dividing by it makes rounding large
    assert (codes[:, 0] == naive.codes(pixels_of(pictures)).numpy()).mean() > 0.99
    true = naive.decoded(torch.from_numpy(codes[:, 0]))
    expected = ((true.clamp(-1, 1) + 1) / 2 * 255).permute(0, 2, 3, 1).numpy()
    assert true.abs().max() > 1  # what lies beyond the range is clipped, and doesn't wrap around
    for picture, wanted in zip(codec.decode(codes), expected, strict=True):
        assert picture.pixels.dtype == np.uint8 and np.abs(picture.pixels - wanted).max() < 0.51


@pytest.mark.parametrize(("cardinality", "numbers"), [(1024, 72_141_699), (16_384, 76_073_859)])
def test_the_published_sizes(tmp_path, cardinality, numbers):
    """The counts are those of taming-transformers' own modules. Each tensor is one zero, stretched, so that its file is small."""
    state = {key: torch.zeros(1).expand(shape) for key, shape in layout(PUBLISHED, cardinality, 256).items()}
    assert (len(state), sum(value.numel() for value in state.values())) == (343, numbers)
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(config_of(PUBLISHED, cardinality, 256)))
    save(tmp_path, state)
    codec = VqganCodec(tmp_path)
    assert (codec.cardinalities, codec.frames, codec.resolution) == ((cardinality,), 256, 256)
    shapes = codec.model.to("meta")
    codes = shapes.encode(torch.empty(2, 3, 256, 256, device="meta"))
    assert codes.shape == (2, 256) and shapes.decode(codes).shape == (2, 3, 256, 256)


# --- codes and pixels -------------------------------------------------------------------------------------------------


def test_a_batch_is_its_members_one_by_one(codec, pictures):
    codes = codec.encode(pictures)
    assert codes.min() >= 0 and codes.max() < codec.cardinalities[0]
    assert np.array_equal(codes, np.concatenate([codec.encode([picture]) for picture in pictures]))
    assert np.array_equal(codes[::-1], codec.encode(pictures[::-1]))
    made = codec.decode(codes)
    assert len({picture.pixels.tobytes() for picture in made}) == 4
    for picture, code in zip(made, codes, strict=True):
        assert picture.resolution == (64, 64) and np.array_equal(picture.pixels, codec.decode(code[None])[0].pixels)


def test_cells_stand_row_by_row(codec, pictures):
    """Another code changes pixels around its cell more than any others; attention reaches all of them a little."""
    codes = codec.encode(pictures[:1])
    before = codec.decode(codes)[0].pixels.astype(int)
    for row, column in ((2, 12), (13, 5)):
        changed = codes.copy()
        changed[0, 0, 16 * row + column] += 1 if changed[0, 0, 16 * row + column] == 0 else -1
        moved = np.abs(codec.decode(changed)[0].pixels - before).sum(2)
        around = moved[4 * row - 8 : 4 * row + 12, 4 * column - 8 : 4 * column + 12]
        assert around.max() == moved.max() > 0 and around.mean() > 3 * moved.mean()


@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_a_vector_of_the_book_is_nearest_to_itself(scale):
    """Vectors that training never used stay as small as they began, beside others that grew."""
    generator = torch.Generator().manual_seed(0)
    book = torch.randn(1024, 256, generator=generator) * torch.where(torch.arange(1024) % 3 == 0, 1.0, scale)[:, None]
    assert torch.equal(nearest(book, book), torch.arange(1024))


def test_loading_twice_gives_the_same_codec(codec, whole, pictures):
    again = VqganCodec(whole)
    assert again.card == codec.card and np.array_equal(again.encode(pictures), codec.encode(pictures))


def test_the_card_says_what_the_codes_mean(codec, whole):
    card = codec.card
    assert json.loads(json.dumps(card)) == card
    assert card["weights_sha256"] == sha256_of(whole / "last.ckpt")
    assert {key: card[key] for key in ("name", "resolution", "codebooks", "cardinality", "frames")} == {
        "name": "vqgan", "resolution": 64, "codebooks": 1, "cardinality": 24, "frames": 256}  # fmt: skip


def test_a_picture_of_another_size_is_refused(codec, pictures, tmp_path):
    other = Image(np.zeros((256, 128, 3), np.uint8))
    with refused(CodecError, "codec 'image' reads 64x64 pixels, got 128x256; resize it first"):
        codec.encode([pictures[0], other])
    (tmp_path / "a.png").write_bytes(png_bytes(other))
    with refused(MediaError, "a.png: picture is 128x256 pixels, expected 64x64; resize it first"):
        codec.read(tmp_path / "a.png")


@pytest.mark.parametrize(("shape", "code"), [((2, 256), 0), ((1, 255), 0), ((1, 256), -1), ((1, 256), 24)])
def test_codes_of_another_codec_are_refused(codec, shape, code):
    with refused(CodecError, "codec 'image' decodes (codebooks, cells) (1, 256) of codes below 24", f"got {shape}"):
        codec.decode(np.full((1, *shape), code))


# --- in a run, on a device --------------------------------------------------------------------------------------------


def profile_of(toy_folder, folder):
    image = {"name": "vqgan", "path": None if folder is None else str(folder)}
    audio = {"name": "encodec", "path": str(toy_folder / "encodec"), "bandwidth_kbps": 0.4}
    return load_profile(
        "smoke", {"codecs": {"image": image, "audio": audio}, "backbone": {"path": str(toy_folder / "backbone")}}
    )


def test_a_folder_of_pictures_becomes_shards_of_256_ids(toy_folder, tmp_path):
    """As it will be with the published weights: 256 x 256 pixels, whatever the pictures' own size, 256 ids, and back."""
    rng, media, weights = np.random.default_rng(0), tmp_path / "media", tmp_path / "weights"
    media.mkdir(), weights.mkdir()
    for n, (width, height) in enumerate([(300, 200), (256, 256), (90, 400)]):
        small = PILImage.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        small.resize((width, height)).save(media / f"p{n}.png")
    (tmp_path / "captions.csv").write_text("file,caption\n" + "".join(f"p{n}.png,sheet {n}\n" for n in range(3)))
    (weights / "model.yaml").write_text(yaml.safe_dump(config_of(NARROW, 64, 4)))
    save(weights, random_state(NARROW, 64, 4, torch.randint(256, (1, 3, 256, 256))))
    profile = profile_of(toy_folder, weights)
    result, _ = adoption.adopt(profile, media, tmp_path / "captions.csv", tmp_path / "out", Options(golden=1))
    assert result.rows["image"] == 3 and result.done["pictures resized"] == 2
    tokenizer = load_tokenizer(profile)
    (block,) = (tokenizer.space.block(name) for name in tokenizer.blocks("image"))
    assert block.end - block.start == 64
    write_shards(result.manifest, tmp_path / "shards", tokenizer, Plan(0.3, "none", 10))
    splits = json.loads((tmp_path / "shards" / "shards.json").read_text())["splits"]
    samples = [sample for split in splits for sample in read_shards(tmp_path / "shards", split, tokenizer.space)]
    files = {row.id: row.modalities.image.path for row in read_manifest(result.manifest)[0]}
    assert {sample.id for sample in samples} == files.keys() and len(files) == 3
    for sample in samples:
        (line,) = tokenizer.encode("image", [tokenizer.codecs.image.read(tmp_path / "out" / files[sample.id])])
        assert sample.ids["image"].shape == (256,) and np.array_equal(sample.ids["image"], line)
        assert tokenizer.decode("image", line[None])[0].resolution == (256, 256)


def test_a_profile_names_the_folder(toy_folder, folder, codec):
    assert load_codecs(profile_of(toy_folder, folder).codecs).image.card == codec.card
    with refused(ParamsError, "codecs.image is", "vqgan wants path, the folder with its weights"):
        profile_of(toy_folder, None)
    for file in ("last.ckpt", "model.yaml"):
        (folder / file).unlink()
        with refused(ParamsError, f"{folder}: no {file} there; expected a folder with model.yaml and last.ckpt"):
            load_codecs(profile_of(toy_folder, folder).codecs)
        with refused(CodecError, f"{folder / file}: no VQGAN", "No such file"):
            VqganCodec(folder)


def test_its_sizes_stand_in_model_yaml(folder, codec):
    """All that a plan needs, before the checkpoint is fetched."""
    (folder / "last.ckpt").unlink()
    known = image_sizes(ImageCodec(name="vqgan", path=str(folder)))
    assert (known.cardinalities, known.frames, known.codebooks) == (codec.cardinalities, codec.frames, 1)
    (folder / "model.yaml").unlink()
    with refused(ParamsError, f"{folder}: no model.yaml there"):
        image_sizes(ImageCodec(name="vqgan", path=str(folder)))


def test_what_goes_in_follows_the_model_and_what_comes_out_is_here(whole, pictures, codec, monkeypatch):
    """On "meta", which has no values: an input left behind would be on another device than the weights."""
    monkeypatch.setattr(torch.Tensor, "cpu", lambda it: torch.zeros(it.shape, dtype=it.dtype))
    moved = VqganCodec(whole, "meta")
    assert {value.device.type for value in moved.model.state_dict().values()} == {"meta"}
    codes = moved.encode(pictures)
    assert codes.shape == codec.encode(pictures).shape
    assert [made.resolution for made in moved.decode(codes)] == [picture.resolution for picture in pictures]
