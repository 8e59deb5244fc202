"""SEED-2's files: the tower in the same one or in its own, every key that is missing, foreign or of another shape named."""

from __future__ import annotations

import builtins
from pathlib import Path

import numpy as np
import pytest
import torch
from refusals import refused
from slow_seed2 import SMALL, fixture_codec, fixture_folder, fixture_pictures, fixture_state  # noqa: F401 - fixtures

from lumo.codecs import CodecError
from lumo.codecs.seed2 import Seed2Codec
from lumo.files import sha256_of


def saved(folder: Path, state: dict, name: str = "seed_quantizer.pt") -> Path:
    folder.mkdir(exist_ok=True)
    torch.save(state, folder / name)
    return folder


def parted(state: dict) -> tuple[dict, dict]:
    """Without its tower, and the tower as LAVIS's own file has it: plain names, fp16, one block and a head more."""
    tower = {
        key.removeprefix("visual_encoder."): value for key, value in state.items() if key.startswith("visual_encoder.")
    }
    more = {key.replace("blocks.0", "blocks.2"): value for key, value in tower.items() if "blocks.0." in key}
    rest = {key: value for key, value in state.items() if not key.startswith("visual_encoder.")}
    return rest, tower | more | {"norm.weight": torch.ones(32), "head.bias": torch.ones(3)}


# --- the tower --------------------------------------------------------------------------------------------------------


def test_the_tower_may_lie_in_a_file_of_its_own(state, codec, pictures, tmp_path):
    rest, tower = parted(state)
    both = Seed2Codec(saved(saved(tmp_path, rest), tower, "eva_vit_g.pth"), config=SMALL)
    assert np.array_equal(both.encode(pictures), codec.encode(pictures))
    assert both.card["vision_sha256"] == sha256_of(tmp_path / "eva_vit_g.pth")
    half = {key: value.half() for key, value in tower.items()}
    rounded = Seed2Codec(saved(tmp_path, half, "eva_vit_g.pth"), config=SMALL)
    assert {value.dtype for value in rounded.model.state_dict().values()} == {torch.float32}
    assert np.mean(rounded.encode(pictures) == codec.encode(pictures)) > 0.8


def test_without_a_tower_both_files_are_wanted(state, tmp_path):
    saved(tmp_path, parted(state)[0])
    with refused(CodecError, f"{tmp_path / 'eva_vit_g.pth'}: no weights of SEED-2 that can be read", "No such file"):
        Seed2Codec(tmp_path, config=SMALL)


def test_a_key_that_the_tower_lacks_is_named(state, tmp_path):
    rest, tower = parted(state)
    del tower["blocks.1.attn.q_bias"]
    with refused(
        CodecError, "eva_vit_g.pth: no weights of SEED-2 that fit: it lacks blocks.1.attn.q_bias; fetch it again"
    ):
        Seed2Codec(saved(saved(tmp_path, rest), tower, "eva_vit_g.pth"), config=SMALL)


# --- keys -------------------------------------------------------------------------------------------------------------


PARTS = [
    "visual_encoder.cls_token", "visual_encoder.blocks.1.attn.v_bias", "ln_vision.bias", "query_tokens",
    "Qformer.bert.encoder.layer.2.crossattention.self.key.weight", "Qformer.bert.encoder.layer.1.output_query.dense.bias",
    "quantize.embedding.weight", "pos_embed_image", "blocks_image.1.attn.qkv.bias", "image_down.4.weight",
]  # fmt: skip


@pytest.mark.parametrize("key", PARTS)
def test_a_key_that_is_missing_or_of_another_shape_is_named(state, tmp_path, key):
    rest = {name: value for name, value in state.items() if name != key}
    with refused(CodecError, f"seed_quantizer.pt: no weights of SEED-2 that fit: it lacks {key}; fetch it again"):
        Seed2Codec(saved(tmp_path, rest), config=SMALL)
    with refused(
        CodecError, f"that fit: it has {key} of shape [2, 2] instead of {list(state[key].shape)}; fetch it again"
    ):
        Seed2Codec(saved(tmp_path, rest | {key: torch.zeros(2, 2)}), config=SMALL)


@pytest.mark.parametrize(
    "key", ["and_one_more", "blocks_image.2.norm1.weight", "Qformer.bert.encoder.layer.1.crossattention.self.key.bias",
            "visual_encoder.blocks.2.norm1.bias", "Reverse_Qformer.bert.embeddings.LayerNorm.bias"],
)  # fmt: skip
def test_a_key_that_is_not_known_is_named(state, tmp_path, key):
    """Reverse_Qformer: a SEED-2 that was trained to decode in another way."""
    with refused(CodecError, f"seed_quantizer.pt: no weights of SEED-2 that fit: it has, and shouldn't, {key}; fetch"):
        Seed2Codec(saved(tmp_path, state | {key: torch.zeros(3)}), config=SMALL)


def test_many_keys_are_counted(tmp_path, state):
    with refused(CodecError, "it lacks pos_embed_image, ", " more; fetch it again"):
        Seed2Codec(saved(tmp_path, {"query_tokens": state["query_tokens"]}), config=SMALL)


@pytest.mark.parametrize(
    "key", ["pos_embed", "blocks.3.mlp.fc1.bias", "Qformer.bert.embeddings.position_ids", "vision_proj.bias", "temp",
            "Qformer.bert.embeddings.word_embeddings.weight", "Qformer.cls.predictions.bias", "blocks_text.0.norm1.bias",
            "Qformer.bert.encoder.layer.2.intermediate.dense.bias", "Qformer.bert.encoder.layer.0.output.LayerNorm.weight"],
)  # fmt: skip
def test_what_only_training_uses_changes_nothing(state, codec, pictures, tmp_path, key):
    other = Seed2Codec(saved(tmp_path, state | {key: torch.zeros(3)}), config=SMALL)
    assert np.array_equal(other.encode(pictures), codec.encode(pictures))


# --- what is no such file ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["seed_quantizer.pt", "eva_vit_g.pth"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_cut_file_is_refused(state, tmp_path, file, share):
    rest, tower = parted(state)
    saved(saved(tmp_path, rest), tower, "eva_vit_g.pth")
    whole = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(whole[: int(share * len(whole))])
    with refused(CodecError, f"{tmp_path / file}: no weights of SEED-2 that can be read", "fetch it again"):
        Seed2Codec(tmp_path, config=SMALL)


class Evil:
    def __reduce__(self):
        return builtins.open, ("run", "w")


@pytest.mark.parametrize("content", [[1, 2], {"query_tokens": 3}, {"model": {}}, {"query_tokens": Evil()}, Evil()])
def test_a_foreign_file_is_refused_and_none_of_it_run(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    with refused(CodecError, "seed_quantizer.pt: no weights of SEED-2 that can be read", "fetch it again"):
        Seed2Codec(saved(tmp_path, content), config=SMALL)
    assert not (tmp_path / "run").exists()
