"""VQGAN: a naive forward pass, written from the checkpoint's keys alone, gives the same codes and pixels; files that aren't one are refused."""

from __future__ import annotations

import json
import math
import os
import pickle
import shutil
import sys
from itertools import pairwise
from types import ModuleType

import numpy as np
import pytest
import torch
import yaml
from PIL import Image as PILImage
from refusals import refused
from torch.nn import functional as F

from lumo import stages
from lumo.codecs import CodecError, load_codecs
from lumo.codecs.sizes import image_sizes
from lumo.codecs.taming import VqganConfig
from lumo.codecs.vectors import nearest
from lumo.codecs.vqgan import Vqgan, VqganCodec
from lumo.datasets import world
from lumo.datasets.manifest import read_manifest
from lumo.files import sha256_of
from lumo.media import Image, MediaError, png_bytes
from lumo.params import ImageCodec, ParamsError, load_profile
from lumo.shards import Plan, read_shards, write_shards
from lumo.tokenizer import load_tokenizer

# as published for vqgan_imagenet_f16_1024 and _16384
PUBLISHED = {"double_z": False, "z_channels": 256, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
             "ch_mult": [1, 1, 2, 2, 4], "num_res_blocks": 2, "attn_resolutions": [16], "dropout": 0.0}  # fmt: skip
TOY = PUBLISHED | {"z_channels": 8, "resolution": 64, "ch": 32, "ch_mult": [1, 1, 2], "num_res_blocks": 1}
# small channels at the published size: 256 x 256 pixels to 256 cells
NARROW = PUBLISHED | {"z_channels": 8, "ch": 32, "ch_mult": [1, 1, 1, 1, 1], "num_res_blocks": 1}


# --- the slow way: a state dict and nothing else ----------------------------------------------------------------------


def layout(sizes: dict, cardinality: int, embed_dim: int) -> dict[str, tuple[int, ...]]:
    """Every tensor of a checkpoint, and its shape."""
    found = {"quantize.embedding.weight": (cardinality, embed_dim)}

    def conv(key, inside, width, kernel=3):
        found.update({f"{key}.weight": (width, inside, kernel, kernel), f"{key}.bias": (width,)})

    def norm(key, width):
        found.update({f"{key}.weight": (width,), f"{key}.bias": (width,)})

    def block(key, inside, width):
        norm(f"{key}.norm1", inside)
        conv(f"{key}.conv1", inside, width)
        norm(f"{key}.norm2", width)
        conv(f"{key}.conv2", width, width)
        if inside != width:
            conv(f"{key}.nin_shortcut", inside, width, 1)

    def attention(key, width):
        norm(f"{key}.norm", width)
        for part in ("q", "k", "v", "proj_out"):
            conv(f"{key}.{part}", width, width, 1)

    z, first = sizes["z_channels"], sizes["ch"]
    widths = [first * times for times in sizes["ch_mult"]]
    for side, before, name in (("encoder", [first, *widths], "down"), ("decoder", [*widths[1:], widths[-1]], "up")):
        conv(f"{side}.conv_in", *((3, first) if side == "encoder" else (z, widths[-1])))
        for part in ("block_1", "block_2"):
            block(f"{side}.mid.{part}", widths[-1], widths[-1])
        attention(f"{side}.mid.attn_1", widths[-1])
        for n, width in enumerate(widths):
            steps = [before[n]] + [width] * (sizes["num_res_blocks"] + (side == "decoder"))
            for m, (inside, outside) in enumerate(pairwise(steps)):
                block(f"{side}.{name}.{n}.block.{m}", inside, outside)
                if sizes["resolution"] // 2**n in sizes["attn_resolutions"]:
                    attention(f"{side}.{name}.{n}.attn.{m}", outside)
        norm(f"{side}.norm_out", widths[-1] if side == "encoder" else widths[0])
        conv(f"{side}.conv_out", *((widths[-1], z) if side == "encoder" else (widths[0], 3)))
    for n, width in enumerate(widths):
        if n < len(widths) - 1:
            conv(f"encoder.down.{n}.downsample.conv", width, width)
        if n > 0:
            conv(f"decoder.up.{n}.upsample.conv", width, width)
    conv("quant_conv", z, embed_dim, 1)
    conv("post_quant_conv", embed_dim, z, 1)
    return found


class Naive:
    """One operation after the other, in double precision. used: the keys that were asked for."""

    def __init__(self, state: dict[str, torch.Tensor], sizes: dict):
        self.state, self.sizes, self.used = {key: value.double() for key, value in state.items()}, sizes, set()

    def of(self, key):
        self.used |= {f"{key}.weight", f"{key}.bias"}
        return self.state[f"{key}.weight"], self.state[f"{key}.bias"]

    def conv(self, key, x, padding=1):
        return F.conv2d(x, *self.of(key), padding=padding)

    def norm(self, key, x):
        weight, bias = self.of(key)
        groups = x.unflatten(1, (32, -1))
        mean, var = groups.mean((2, 3, 4), keepdim=True), groups.var((2, 3, 4), keepdim=True, correction=0)
        normed = ((groups - mean) / (var + 1e-6).sqrt()).flatten(1, 2)
        return normed * weight[:, None, None] + bias[:, None, None]

    def swish(self, key, x):
        x = self.norm(key, x)
        return x / (1 + (-x).exp())

    def block(self, key, x):
        inner = self.conv(f"{key}.conv1", self.swish(f"{key}.norm1", x))
        inner = self.conv(f"{key}.conv2", self.swish(f"{key}.norm2", inner))
        return inner + (self.conv(f"{key}.nin_shortcut", x, 0) if f"{key}.nin_shortcut.bias" in self.state else x)

    def attention(self, key, x):
        if f"{key}.q.bias" not in self.state:
            return x
        inner = self.norm(f"{key}.norm", x)
        q, k, v = (self.conv(f"{key}.{part}", inner, 0).flatten(2) for part in "qkv")
        weights = (torch.einsum("bci,bcj->bij", q, k) / q.shape[1] ** 0.5).softmax(2)
        return x + self.conv(f"{key}.proj_out", torch.einsum("bij,bcj->bci", weights, v).view_as(x), 0)

    def middle(self, key, x):
        return self.block(f"{key}.block_2", self.attention(f"{key}.attn_1", self.block(f"{key}.block_1", x)))

    def encoded(self, pixels):
        """[b 3 h w] in 0…255 to vectors [b t d]"""
        x, levels = self.conv("encoder.conv_in", pixels.double() / 255 * 2 - 1), len(self.sizes["ch_mult"])
        for n in range(levels):
            for m in range(self.sizes["num_res_blocks"]):
                x = self.attention(f"encoder.down.{n}.attn.{m}", self.block(f"encoder.down.{n}.block.{m}", x))
            if n < levels - 1:
                larger = x.new_zeros(*x.shape[:2], x.shape[2] + 1, x.shape[3] + 1)
                larger[..., :-1, :-1] = x
                x = F.conv2d(larger, *self.of(f"encoder.down.{n}.downsample.conv"), stride=2)
        x = self.conv("encoder.conv_out", self.swish("encoder.norm_out", self.middle("encoder.mid", x)))
        return self.conv("quant_conv", x, 0).flatten(2).transpose(1, 2)

    def codes(self, pixels):
        vectors, book = self.encoded(pixels), self.state["quantize.embedding.weight"]
        return (vectors[:, :, None] - book).square().sum(3).argmin(2)

    def decoded(self, codes):
        """[b t] to [b 3 h w], around -1…1"""
        side = round(codes.shape[1] ** 0.5)
        x = self.state["quantize.embedding.weight"][codes].transpose(1, 2).unflatten(2, (side, side))
        x = self.middle("decoder.mid", self.conv("decoder.conv_in", self.conv("post_quant_conv", x, 0)))
        for n in reversed(range(len(self.sizes["ch_mult"]))):
            for m in range(self.sizes["num_res_blocks"] + 1):
                x = self.attention(f"decoder.up.{n}.attn.{m}", self.block(f"decoder.up.{n}.block.{m}", x))
            if n > 0:
                x = self.conv(f"decoder.up.{n}.upsample.conv", x.repeat_interleave(2, 2).repeat_interleave(2, 3))
        return self.conv("decoder.conv_out", self.swish("decoder.norm_out", x))


# --- files as taming writes them --------------------------------------------------------------------------------------


def random_state(sizes: dict, cardinality: int, embed_dim: int, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Weights that keep signals alive, and a codebook of what the encoder makes of a few pictures."""
    generator, state = torch.Generator().manual_seed(0), {}
    for key, shape in layout(sizes, cardinality, embed_dim).items():
        noise = torch.randn(shape, generator=generator)
        is_scale = "norm" in key and key.endswith("weight")
        state[key] = 1 + 0.1 * noise if is_scale else noise * (math.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 0.1)
    vectors = Naive(state, sizes).encoded(pixels).flatten(0, 1).float()
    chosen = vectors[torch.randperm(len(vectors), generator=generator)[:cardinality]]
    state["quantize.embedding.weight"] = chosen + 0.1 * torch.randn(chosen.shape, generator=generator)
    return state


def config_of(sizes: dict, cardinality: int, embed_dim: int) -> dict:
    params = {"embed_dim": embed_dim, "n_embed": cardinality, "monitor": "val/rec_loss", "ddconfig": sizes,
              "lossconfig": {"target": "taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator", "params": {}}}  # fmt: skip
    model = {"base_learning_rate": 4.5e-06, "target": "taming.models.vqgan.VQModel", "params": params}
    return {"model": model, "data": {"target": "main.DataModuleFromConfig"}}


def lightning(monkeypatch, name: str = "ModelCheckpoint") -> type:
    """A class that is pickled as one of PyTorch Lightning's callbacks."""
    module = "pytorch_lightning.callbacks.model_checkpoint"
    kind = type(name, (), {"__module__": module})
    for part in ("pytorch_lightning", "pytorch_lightning.callbacks", module):
        monkeypatch.setitem(sys.modules, part, ModuleType(part))
    monkeypatch.setattr(sys.modules[module], name, kind, raising=False)
    return kind


def save(folder, state: dict, *, zipped: bool = True, **more) -> None:
    """As Lightning 1.0 does: its callback is a class, and the loss's weights are among the model's."""
    loss = {"loss.discriminator.main.0.weight": torch.zeros(2, 3), "loss.logvar": torch.zeros(())}
    with pytest.MonkeyPatch.context() as patch:
        notes = {"best_model_score": torch.tensor(0.5), "best_model_path": "epoch=1.ckpt"}
        checkpoint = {"epoch": 3, "global_step": 1000, "pytorch-lightning_version": "1.0.8",
                      "callbacks": {lightning(patch): notes}, "lr_schedulers": [],
                      "optimizer_states": [{"state": {0: {"step": 1000}}, "param_groups": [{"betas": (0.5, 0.9)}]}],
                      "state_dict": state | loss} | more  # fmt: skip
        torch.save(checkpoint, folder / "last.ckpt", _use_new_zipfile_serialization=zipped)


def pixels_of(pictures: list[Image]) -> torch.Tensor:
    return torch.from_numpy(np.stack([picture.pixels for picture in pictures])).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def pictures():
    return [world.draw(scene, np.random.default_rng(n)) for n, scene in enumerate(world.scenes("image")[::200])]


@pytest.fixture(scope="module")
def state(pictures):
    return random_state(TOY, 24, 6, pixels_of(pictures))


@pytest.fixture(scope="module")
def whole(state, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vqgan")
    (folder / "model.yaml").write_text(yaml.safe_dump(config_of(TOY, 24, 6)))
    save(folder, state)
    return folder


@pytest.fixture(scope="module")
def codec(whole):
    return VqganCodec(whole)


@pytest.fixture
def folder(whole, tmp_path):
    """A copy to damage."""
    return shutil.copytree(whole, tmp_path / "vqgan")


# --- codes and pixels -------------------------------------------------------------------------------------------------


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


# --- in a run ---------------------------------------------------------------------------------------------------------


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
    result, _ = stages.adopt(profile, media, tmp_path / "captions.csv", tmp_path / "out", golden=1)
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


# --- what isn't as it should be ---------------------------------------------------------------------------------------


def test_its_sizes_stand_in_model_yaml(folder, codec):
    """All that a plan needs, before the checkpoint is fetched."""
    (folder / "last.ckpt").unlink()
    known = image_sizes(ImageCodec(name="vqgan", path=str(folder)))
    assert (known.cardinalities, known.frames, known.codebooks) == (codec.cardinalities, codec.frames, 1)
    (folder / "model.yaml").unlink()
    with refused(ParamsError, f"{folder}: no model.yaml there"):
        image_sizes(ImageCodec(name="vqgan", path=str(folder)))


def test_a_picture_of_another_size_is_refused(codec, pictures, tmp_path):
    other = Image(np.zeros((256, 128, 3), np.uint8))
    with refused(CodecError, "codec 'image' reads 64x64 pixels, got 128x256; resize it first"):
        codec.encode([pictures[0], other])
    (tmp_path / "a.png").write_bytes(png_bytes(other))
    with refused(MediaError, "a.png: picture is 128x256 pixels, expected 64x64; resize it first"):
        codec.read(tmp_path / "a.png")


@pytest.mark.parametrize("shape", [(2, 256), (1, 255)])
def test_codes_of_another_shape_are_refused(codec, shape):
    with refused(CodecError, f"codec 'image' decodes (codebooks, cells) (1, 256), got {shape}"):
        codec.decode(np.zeros((1, *shape), np.int64))


@pytest.mark.parametrize(
    ("where", "value", "fault"),
    [
        ("ddconfig.ch", None, "model.params.ddconfig.ch: field required"),
        ("ddconfig.ch", "many", "model.params.ddconfig.ch: input should be a valid integer"),
        ("ddconfig.ch", 48, "ch 48 is no multiple of 32"),
        ("ddconfig.ch_mult", [], "model.params.ddconfig.ch_mult: "),
        ("ddconfig.resolution", 66, "resolution 66 can't be halved 2 times"),
        ("ddconfig.in_channels", 1, "model.params.ddconfig.in_channels: input should be 3"),
        ("ddconfig.double_z", True, "model.params.ddconfig.double_z: input should be False"),
        ("ddconfig.attn_type", "linear", "model.params.ddconfig.attn_type: extra inputs are not permitted"),
        ("n_embed", None, "model.params.n_embed: field required"),
        ("remap", "used.npy", "model.params.remap: input should be None"),
        ("kl_weight", 1e-8, "model.params.kl_weight: extra inputs are not permitted"),
    ],
)
def test_a_config_with_other_keys_or_values_is_refused(folder, where, value, fault):
    config = yaml.safe_load((folder / "model.yaml").read_text())
    section, _, key = f"params.{where}".rpartition(".")
    inner = config["model"]
    for part in section.split("."):
        inner = inner[part]
    inner.pop(key, None)
    if value is not None:
        inner[key] = value
    (folder / "model.yaml").write_text(yaml.safe_dump(config))
    with refused(CodecError, f"{folder / 'model.yaml'}: no VQGAN config that can be read", fault, "take model.yaml of"):
        VqganCodec(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"a: b", b"model: 3", b"\xff\xfe", b"model: {params: {}}"])
def test_a_config_that_is_none_is_refused(folder, content):
    (folder / "model.yaml").write_bytes(content)
    with refused(CodecError, f"{folder / 'model.yaml'}: no VQGAN config that can be read", "take model.yaml of"):
        VqganCodec(folder)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("taming.models.vqgan.GumbelVQ", "scores its codes by a layer of their own"),
        ("ldm.models.autoencoder.VQModel", "expected taming"),
    ],
)
def test_another_kind_of_model_is_refused(folder, target, reason):
    config = config_of(TOY, 24, 6)
    config["model"]["target"] = target
    (folder / "model.yaml").write_text(yaml.safe_dump(config))
    with refused(CodecError, f"model.target: got {target}" if "ldm" in target else f"model.target: {target}", reason):
        VqganCodec(folder)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_of_either_format_is_read(folder, state, codec, pictures, zipped):
    """torch before 1.6 wrote no zip."""
    save(folder, state, zipped=zipped)
    assert np.array_equal(VqganCodec(folder).encode(pictures), codec.encode(pictures))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.99])
def test_a_cut_checkpoint_is_refused(folder, state, zipped, kept):
    save(folder, state, zipped=zipped)
    data = (folder / "last.ckpt").read_bytes()
    (folder / "last.ckpt").write_bytes(data[: kept if kept in (0, 1, 100) else int(kept * len(data))])
    with refused(CodecError, f"{folder / 'last.ckpt'}: no VQGAN checkpoint that can be read", "fetch it again"):
        VqganCodec(folder)


@pytest.mark.parametrize("content", ["state", [1], torch.zeros(3), {"state_dict": None}, {"state_dict": {"a": 1}}])
def test_what_is_no_lightning_checkpoint_is_refused(folder, state, content):
    torch.save(state if isinstance(content, str) else content, folder / "last.ckpt")
    with refused(CodecError, f"{folder / 'last.ckpt'}: no VQGAN checkpoint that can be read", "fetch it again"):
        VqganCodec(folder)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"decoder.mid.attn_1.k.bias": None}, "lacks decoder.mid.attn_1.k.bias;"),
        ({"model_ema.decay": torch.zeros(1)}, "has model_ema.decay, which the model hasn't;"),
        ({"lossy.weight": torch.zeros(1)}, "has lossy.weight, which the model hasn't;"),
        ({"quantize.embedding.weight": torch.zeros(16, 6)}, "quantize.embedding.weight is (16, 6), model.yaml says (24, 6);"),
        ({f"a{n}": torch.zeros(1) for n in range(5)}, "has a2, which the model hasn't; and 2 faults more;"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit_are_named(folder, state, change, fault):
    save(folder, {key: value for key, value in (state | change).items() if value is not None})
    with refused(CodecError, f"{folder / 'last.ckpt'}: ", fault, "take model.yaml and last.ckpt of one VQGAN"):
        VqganCodec(folder)


# --- pickles that want more than tensors ------------------------------------------------------------------------------


class Calls:
    """Pickled as a call; unpickled, it would make it."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["state_dict", "callbacks", "optimizer_states"])
@pytest.mark.parametrize("function", [open, os.mkdir, exec])
def test_a_pickle_that_runs_code_is_refused(folder, state, tmp_path, zipped, place, function):
    ran = tmp_path / "ran"
    arguments = {open: (str(ran), "w"), os.mkdir: (str(ran),), exec: (f"open({str(ran)!r}, 'w')",)}[function]
    evil = Calls(function, *arguments)
    save(
        folder, state, zipped=zipped, **{place: state | {"quant_conv.bias": evil} if place == "state_dict" else [evil]}
    )
    with refused(
        CodecError,
        "no VQGAN checkpoint",
        f"{function.__name__}, which could run code",
        "save {'state_dict': ...} alone",
    ):
        VqganCodec(folder)
    assert not ran.exists()
    pickle.loads(pickle.dumps(evil))
    assert ran.exists()  # so it would have run


def test_lightnings_own_class_does_nothing_here(folder, state, monkeypatch):
    """Its name alone is known, for as long as the file is read; whatever it is called with, there is no code to run."""
    kind, known = lightning(monkeypatch), torch.serialization.get_safe_globals()
    torch.save({"state_dict": state, "callbacks": [Calls(kind)]}, folder / "last.ckpt")
    VqganCodec(folder)
    torch.save({"state_dict": state, "callbacks": [Calls(kind, "an argument")]}, folder / "last.ckpt")
    with refused(CodecError, "no VQGAN checkpoint that can be read"):
        VqganCodec(folder)
    assert torch.serialization.get_safe_globals() == known


def test_another_class_of_lightnings_is_refused_by_its_name(folder, state, monkeypatch):
    kind = lightning(monkeypatch, "Other")
    torch.save({"state_dict": state, "callbacks": {kind: {}}}, folder / "last.ckpt")
    with refused(CodecError, "pytorch_lightning.callbacks.model_checkpoint.Other", "save {'state_dict': ...} alone"):
        VqganCodec(folder)


def test_what_goes_in_follows_the_model_and_what_comes_out_is_here(whole, pictures, codec, monkeypatch):
    """On "meta", which has no values: an input left behind would be on another device than the weights."""
    monkeypatch.setattr(torch.Tensor, "cpu", lambda it: torch.zeros(it.shape, dtype=it.dtype))
    moved = VqganCodec(whole, "meta")
    assert {value.device.type for value in moved.model.state_dict().values()} == {"meta"}
    codes = moved.encode(pictures)
    assert codes.shape == codec.encode(pictures).shape
    assert [made.resolution for made in moved.decode(codes)] == [picture.resolution for picture in pictures]


@pytest.mark.parametrize(
    "damage",
    [lambda it: it.fill_(math.nan), lambda it: it.to(torch.int32), lambda it: it.to("meta"), lambda it: it * 1j],
)
def test_weights_that_are_no_finite_numbers_are_refused(folder, state, damage):
    """NaN would give code 0 in every cell, and black pictures, without a word."""
    state = {name: value.clone() for name, value in state.items()}
    state["quantize.embedding.weight"] = damage(state["quantize.embedding.weight"])
    save(folder, state)
    with refused(
        CodecError,
        "last.ckpt: no VQGAN checkpoint that can be read (quantize.embedding.weight holds no finite numbers)",
    ):
        VqganCodec(folder)
