"""SEED-2's pictures: the same codes draw the same one, and an unCLIP that isn't whole or can't be loaded is refused."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, StableUnCLIPImg2ImgPipeline, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from refusals import refused
from safetensors.torch import load_file
from slow_seed2 import SMALL, fixture_codec, fixture_folder, fixture_pictures, fixture_state  # noqa: F401 - fixtures
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from lumo.codecs import CodecError, seed2
from lumo.codecs.seed2 import Seed2Codec, read_unclip
from lumo.media import Image


def make_unclip(folder: Path, embedding: int) -> None:
    """A StableUnCLIPImg2ImgPipeline of the published parts, tiny and random: 16 x 16 pixels."""
    torch.manual_seed(0)
    words = {word: n for n, word in enumerate(["<|startoftext|>", "<|endoftext|>", "a", "a</w>"])}
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(words))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    text = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "projection_dim": 8,
    }
    StableUnCLIPImg2ImgPipeline(
        feature_extractor=CLIPImageProcessor(size=16, crop_size=16),
        image_encoder=CLIPVisionModelWithProjection(CLIPVisionConfig(**text, image_size=16, patch_size=8)),
        image_normalizer=StableUnCLIPImageNormalizer(embedding),
        image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        tokenizer=CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=8),
        text_encoder=CLIPTextModel(CLIPTextConfig(**text, vocab_size=4, max_position_embeddings=8, eos_token_id=1)),
        unet=UNet2DConditionModel(
            sample_size=8, block_out_channels=(8, 8), norm_num_groups=2, attention_head_dim=2, layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=8, class_embed_type="projection", projection_class_embeddings_input_dim=2 * embedding,
        ),
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False),
        vae=AutoencoderKL(
            block_out_channels=(8, 8), norm_num_groups=2, latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        ),
    ).save_pretrained(folder)  # fmt: skip


@pytest.fixture(scope="module")
def whole_folder(folder, tmp_path_factory) -> Path:
    """With unclip/ as well."""
    whole = shutil.copytree(folder, tmp_path_factory.mktemp("whole"), dirs_exist_ok=True)
    make_unclip(whole / "unclip", SMALL.embedding)
    return whole


# --- what is drawn ----------------------------------------------------------------------------------------------------


def difference(one: Image, other: Image) -> int:
    """The largest, in levels of 255."""
    return np.abs(one.pixels.astype(int) - other.pixels).max()


def test_the_same_codes_give_the_same_picture(whole_folder, codec, pictures):
    one, other = (Seed2Codec(whole_folder, steps=2, config=SMALL) for _ in range(2))
    assert one.card == codec.card
    codes = codec.encode(pictures)
    torch.manual_seed(1)
    made = one.decode(codes)
    assert {(image.pixels.shape, image.pixels.dtype.name) for image in made} == {((16, 16, 3), "uint8")}
    assert len({image.pixels.tobytes() for image in made}) == 3
    torch.manual_seed(2)
    for n in (2, 0, 1):
        (alone,) = other.decode(codes[n : n + 1])
        assert difference(alone, made[n]) <= 1


class Spied:
    """A pipeline that notes how many pictures it was asked for at once."""

    def __init__(self, pipeline):
        self.pipeline, self.dtype, self.unet, self.asked = pipeline, pipeline.dtype, pipeline.unet, []

    def __call__(self, prompt, **how):
        self.asked.append(len(prompt))
        return self.pipeline(prompt=prompt, **how)


def test_many_pictures_are_drawn_in_batches(whole_folder, pictures):
    codec = Seed2Codec(whole_folder, steps=2, config=SMALL)
    codec._pipeline = spied = Spied(codec._pipeline)
    codes = codec.encode(pictures)
    many = codec.decode(np.concatenate([codes, codes[::-1], codes, codes[:1]]))
    assert spied.asked == [8, 2]
    expected = codec.decode(codes)
    assert max(map(difference, many, [*expected, *expected[::-1], *expected, expected[0]])) <= 1


def test_half_precision_draws_the_same_pictures(whole_folder, pictures):
    codec, half = (Seed2Codec(whole_folder, steps=2, config=SMALL) for _ in range(2))
    half._pipeline = read_unclip(whole_folder / "unclip", SMALL.embedding, torch.float16)
    codes = codec.encode(pictures)
    assert half._pipeline.unet.dtype == half._pipeline.vae.dtype == torch.float16
    assert max(map(difference, half.decode(codes), codec.decode(codes))) <= 4


@pytest.mark.parametrize(
    ("device", "dtype"), [("cpu", torch.float32), ("cuda", torch.float16), ("cuda:1", torch.float16)]
)
def test_what_draws_follows_the_device(folder, monkeypatch, device, dtype):
    made = []

    class Pipeline:
        def to(self, device):
            made.append(device)

    monkeypatch.setattr(seed2, "read_unclip", lambda *how: made.append(how) or Pipeline())
    codec = Seed2Codec(folder, config=SMALL)
    codec.device = device
    assert codec._pipeline is None
    assert made == [(folder / "unclip", SMALL.embedding, dtype), device]


# --- what can't be ----------------------------------------------------------------------------------------------------


def test_pixels_that_are_no_numbers_are_refused(whole_folder, pictures):
    codec = Seed2Codec(whole_folder, steps=1, config=SMALL)
    with torch.no_grad():
        codec._pipeline.vae.decoder.conv_out.bias.fill_(float("nan"))
    with refused(CodecError, f"{whole_folder / 'unclip'}: draws pixels that aren't numbers", "set device to cpu"):
        codec.decode(codec.encode(pictures[:1]))


def test_codes_are_made_without_unclip_and_pictures_are_not(codec, folder, pictures):
    codes = codec.encode(pictures)
    assert codec.cannot_decode == "the weights of StableUnCLIP aren't there"
    assert codec.embed(codes).shape == (3, 20)
    with refused(CodecError, f"{folder / 'unclip'}: no such folder", "stable-diffusion-2-1-unclip in its place"):
        codec.decode(codes)


def test_without_diffusers_it_says_what_to_install(whole_folder, pictures, monkeypatch):
    codec = Seed2Codec(whole_folder, config=SMALL)
    codes = codec.encode(pictures[:1])
    assert codec.cannot_decode is None
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert codec.cannot_decode == "diffusers isn't installed"
    with refused(CodecError, "draws SEED-2's pictures with diffusers, which can't be loaded ("):
        codec.decode(codes)


@pytest.mark.parametrize("fault", ["no index", "no unet", "cut", "pickle", "another embedding"])
def test_an_unclip_that_is_not_whole_is_refused(whole_folder, pictures, tmp_path, fault):
    folder = shutil.copytree(whole_folder, tmp_path, dirs_exist_ok=True)
    weights = folder / "unclip" / "unet" / "diffusion_pytorch_model.safetensors"
    if fault == "no index":
        (folder / "unclip" / "model_index.json").unlink()
    elif fault == "no unet":
        shutil.rmtree(weights.parent)
    elif fault == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif fault == "pickle":
        torch.save(load_file(weights), weights.with_suffix(".bin"))
        weights.unlink()
    else:
        shutil.rmtree(folder / "unclip")
        make_unclip(folder / "unclip", 12)
    codec = Seed2Codec(folder, config=SMALL)
    with refused(CodecError, f"{folder / 'unclip'}: no unCLIP that can be read (", "fetch it again"):
        codec.decode(codec.encode(pictures[:1]))
