"""One tokenizer for all: text is never parsed, codes land in their own blocks by time, and everything comes back."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from conftest import ENCODEC, QWEN
from hypothesis import example, given, settings
from hypothesis import strategies as st
from refusals import check_line, refused
from safetensors.torch import load_file, save_file
from transformers import EncodecConfig, EncodecModel, Qwen3Config

from lumo import tokenizer as tokenizing
from lumo.codecs import CodecError, CodecSet, load_codecs
from lumo.codecs.encodec import EncodecCodec
from lumo.codecs.twotone import TwoToneCodec
from lumo.datasets import world
from lumo.params import ParamsError, load_profile
from lumo.space import CONTROL, SpaceError, TokenSpace
from lumo.tokenizer import load_text_tokenizer, load_tokenizer, make_space

SPECIAL = "<|endoftext|>"


@pytest.fixture(scope="module")
def media():
    scenes = {"image": world.scenes("image")[::200], "audio": world.scenes("music")[::40] + world.scenes("sfx")[:2]}
    draw = {"image": world.draw, "audio": world.play}
    return {m: [draw[m](s, np.random.default_rng(n)) for n, s in enumerate(scenes[m])] for m in scenes}


# --- text -------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=150)
@given(st.text(max_size=80))
@example("")
@example("  two  spaces , and a comma .\n")
@example("🎈 é \u2028 \x00\x07\x1b \r\n")
@example("x" * 10_000)
@example(f"{SPECIAL} {' '.join(CONTROL)} <b>&amp;</b>")
def test_any_text_comes_back_as_it_was(tokenizer, text):
    ids = tokenizer.encode_text(text)
    assert ids.dtype == np.int64 and set(ids.tolist()) <= set(tokenizer.text_ids.tolist())
    assert tokenizer.decode_text(ids) == text
    assert ids.tolist() == tokenizer.text(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


@pytest.mark.parametrize("token", [*CONTROL, SPECIAL])
def test_special_tokens_in_a_caption_stay_text(tokenizer, token):
    ids = tokenizer.encode_text(f"a {token} b")
    assert len(ids) > 4
    assert (ids < tokenizer.space.text_size).all()
    assert not set(ids.tolist()) & set(tokenizer.text.all_special_ids)


def test_text_ids_are_neither_special_nor_rows_without_a_token(tokenizer):
    ids = set(tokenizer.text_ids.tolist())
    assert tokenizer.text.convert_tokens_to_ids(SPECIAL) not in ids
    assert max(ids) < len(tokenizer.text) < tokenizer.space.text_size


def test_ids_that_are_no_text_are_refused(tokenizer):
    start = tokenizer.space.control("<|img_start|>")
    with refused(SpaceError, "block 'text'", "got", "of <|img_start|>"):
        tokenizer.decode_text(np.array([5, start]))


# --- pictures and sound -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modality", ["image", "audio"])
def test_a_line_is_the_codes_by_time_each_in_its_own_block(tokenizer, media, modality):
    """Frame t gives cb0[t] cb1[t] … cbK-1[t], against a slow loop."""
    codec, space = tokenizer.codecs[modality], tokenizer.space
    lines, codes = tokenizer.encode(modality, media[modality]), codec.encode(media[modality])
    assert lines.shape == (len(media[modality]), codec.codebooks * codec.frames)
    assert len({line.tobytes() for line in lines}) > 1
    for line, clip in zip(lines, codes, strict=True):
        slow = []
        for t in range(codec.frames):
            for k, block in enumerate(tokenizer.blocks(modality)):
                slow.append(space.block(block).start + int(clip[k, t]))
        assert line.tolist() == slow


def test_lines_decode_to_what_the_codec_gives(tokenizer, media):
    for modality, field in (("image", "pixels"), ("audio", "samples")):
        codec = tokenizer.codecs[modality]
        true = codec.decode(codec.encode(media[modality]))
        got = tokenizer.decode(modality, tokenizer.encode(modality, media[modality]))
        assert all(np.array_equal(getattr(a, field), getattr(b, field)) for a, b in zip(true, got, strict=True))


@settings(deadline=None, max_examples=20)
@given(st.data())
@pytest.mark.parametrize("modality", ["image", "audio"])
def test_one_id_of_another_block_is_refused(tokenizer, modality, data):
    """Any valid line with any one id moved into another block: also one codebook's id in another codebook's place."""
    codec, space, names = tokenizer.codecs[modality], tokenizer.space, tokenizer.blocks(modality)
    n = codec.codebooks * codec.frames
    line = np.array([space.block(names[i % len(names)]).start for i in range(n)])
    at = data.draw(st.integers(0, n - 1))
    other = data.draw(st.sampled_from([block for block in space.blocks if block.name != names[at % len(names)]]))
    line[at] = data.draw(st.integers(other.start, other.end - 1))
    with refused(SpaceError, f"block '{names[at % len(names)]}'", f"got {line[at]}", "with its own block"):
        tokenizer.decode(modality, line[None])


def test_lines_that_are_not_whole_are_refused(tokenizer):
    space = tokenizer.space
    audio = np.array([[space.block("audio0").start, space.block("audio1").start, space.block("audio0").start]])
    with pytest.raises(ValueError) as caught:
        tokenizer.decode("audio", audio)
    check_line(str(caught.value), "line of 3 codes", "multiple of 2 codebooks")
    with refused(CodecError, "codec 'image' decodes", "got (2, 15)"):
        tokenizer.decode("image", np.array([[space.block("image0").start, space.block("image1").start] * 15]))


# --- the space of a backbone and its codecs ---------------------------------------------------------------------------


@pytest.fixture
def folder(toy_folder, tmp_path):
    return shutil.copytree(toy_folder, tmp_path / "toys")


def codecs_of(folder) -> CodecSet:
    return CodecSet(TwoToneCodec(folder / "image_codec"), EncodecCodec(folder / "encodec", 0.4, 1.0))


@pytest.mark.parametrize("rows", [599, 5000])
def test_text_takes_the_rows_of_the_embedding(folder, codecs, rows):
    Qwen3Config(**QWEN | {"vocab_size": rows}).save_pretrained(folder / "backbone")
    space, length = make_space(folder / "backbone", codecs), len(load_text_tokenizer(folder / "backbone"))
    assert length == 599
    assert space.text_size == rows
    assert (space.text["length"], space.text["embedding_rows"]) == (length, rows)


def test_the_space_is_the_same_every_time_and_in_every_folder(folder, tokenizer):
    assert make_space(folder / "backbone", codecs_of(folder)).sha256 == tokenizer.space.sha256


@pytest.mark.parametrize(("part", "field"), [("image_codec", "image"), ("encodec", "audio")])
def test_one_changed_weight_is_another_space_and_named(folder, tokenizer, part, field):
    path = folder / part / "model.safetensors"
    weights = load_file(path)
    with torch.no_grad():
        weights[sorted(weights)[0]].view(-1)[0] += 1
    save_file(weights, path, metadata={"format": "pt"})
    other = make_space(folder / "backbone", codecs_of(folder))
    with refused(SpaceError, f"field '{field}.weights_sha256' is"):
        tokenizer.space.check_same(other, "here")


def test_another_vocabulary_of_the_same_length_is_another_space_and_named(folder, tokenizer, codecs):
    path = folder / "backbone" / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(content))
    other = make_space(folder / "backbone", codecs)
    assert dataclasses.replace(other, text=tokenizer.space.text).sha256 == tokenizer.space.sha256
    with refused(SpaceError, "field 'text.sha256' is"):
        tokenizer.space.check_same(other, "here")


@pytest.mark.parametrize(
    ("change", "kbps", "field"),
    [
        (
            {"sampling_rate": 24000, "upsampling_ratios": [8, 5, 4, 3]},
            0.4,
            "audio.sample_rate_hz' is 16000, expected 24000",
        ),
        ({"codebook_size": 4}, 0.4, "audio.cardinality' is 16, expected 4"),
        ({}, 0.2, "audio.bandwidth_kbps' is 0.4, expected 0.2"),
        ({"audio_channels": 2}, 0.4, "audio.channels' is 1, expected 2"),
    ],
)
def test_a_codec_of_another_rate_or_size_than_the_spaces_is_named(folder, tokenizer, codecs, change, kbps, field):
    EncodecModel(EncodecConfig(**ENCODEC | change)).save_pretrained(folder / "encodec")
    now = make_space(folder / "backbone", CodecSet(codecs.image, EncodecCodec(folder / "encodec", kbps, 1.0)))
    tokenizer.space.save(folder)
    with refused(SpaceError, f"{folder}: another token space", f"field '{field}", "make it again with this profile"):
        now.check_same(TokenSpace.load(folder), str(folder))


@pytest.mark.parametrize("length", [0, 1, 500, -3])
def test_a_cut_tokenizer_is_refused(folder, length):
    path = folder / "backbone" / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:length])
    with refused(
        CodecError, f"{folder / 'backbone'}: no tokenizer that can be read", "expected a Hugging Face model folder"
    ):
        load_text_tokenizer(folder / "backbone")


def test_the_tokenizer_of_a_profile(toy_folder, tmp_path, tokenizer):
    def profile(backbone):
        audio = {"name": "encodec", "path": str(toy_folder / "encodec"), "bandwidth_kbps": 0.4}
        codecs = {"image": {"path": str(toy_folder / "image_codec")}, "audio": audio}
        return load_profile("smoke", {"codecs": codecs, "backbone": {"path": str(backbone)}})

    assert load_tokenizer(profile(toy_folder / "backbone")).space.sha256 == tokenizer.space.sha256
    with refused(ParamsError, f"{tmp_path}: no config.json there"):
        load_tokenizer(profile(tmp_path))
    with refused(CodecError, "encodec: no tokenizer that can be read"):
        load_tokenizer(profile(toy_folder / "encodec"))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_codecs_take_the_profiles_device(monkeypatch, device):
    asked = []
    monkeypatch.setattr(tokenizing, "device_of", lambda wanted: wanted)  # as if every machine had both
    monkeypatch.setattr(tokenizing, "load_codecs", lambda params, device: asked.append(device) or load_codecs(params))
    load_tokenizer(load_profile("smoke", {"device": device}))
    assert asked == [device]
