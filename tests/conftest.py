"""Toy parts: every step of the system at a size that takes milliseconds, with random weights."""

from __future__ import annotations

import multiprocessing
import os
import sys
from dataclasses import replace
from functools import cache
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

# shapes are checked while the tests run, and cost nothing otherwise
with install_import_hook(
    [
        "lumo.space",
        "lumo.patterns",
        "lumo.sequence",
        "lumo.tokenizer",
        "lumo.batches",
        "lumo.model",
        "lumo.storage",
        "lumo.backbone",
        "lumo.generation",
        "lumo.ablation",
    ],
    "beartype.beartype",
):
    import lumo.ablation
    import lumo.backbone
    import lumo.generation  # noqa: F401 - the three are imported here to be hooked
    from lumo.codecs import CodecSet
    from lumo.codecs.encodec import EncodecCodec
    from lumo.codecs.tensors import pixels_of
    from lumo.codecs.twotone import TwoToneCodec, TwoToneConfig, cut, split
    from lumo.datasets import world
    from lumo.miniature.backbone import make_tokenizer
    from lumo.model import LumoModel
    from lumo.tokenizer import UnifiedTokenizer, load_text_tokenizer, make_space

from toys import make_samples
from transformers import EncodecConfig, EncodecModel, Qwen3Config, Qwen3ForCausalLM

from lumo.shards import Sample
from lumo.training import log

torch.set_num_threads(1)
settings.register_profile("lumo", deadline=None)  # no test asserts a time
settings.load_profile("lumo")
pytest.register_assert_rewrite("pages", "refusals", "runs")  # their asserts say what they compared, too

QWEN = {
    "vocab_size": 768,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 512,
}
ENCODEC = {
    "sampling_rate": 16000,
    "normalize": False,
    "num_filters": 2,
    "hidden_size": 8,
    "codebook_dim": 8,
    "codebook_size": 16,
    "num_lstm_layers": 1,
    "upsampling_ratios": [8, 5, 4, 2],
    "target_bandwidths": [0.2, 0.4],
}


TWOTONE = TwoToneConfig(tones=16, masks=48)

# each of these is long; they begin first, so that no core waits for one of them at the end
LONG = ("notebooks", "training", "absurd", "cluster", "resume", "runner", "scale", "full", "checkpoints",
        "audio_codecs", "plan", "shards")  # fmt: skip


def pytest_collection_modifyitems(items):
    assert all((Path(__file__).parent / f"test_{name}.py").is_file() for name in LONG)
    places = {f"test_{name}.py": place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONG)))


@pytest.fixture(scope="session", autouse=True)
def measured_once():
    """This machine's ceiling, which each run measures anew: that takes longer than all steps of a toy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log, "gemm_rate", cache(log.gemm_rate))
        yield


@pytest.fixture(scope="session")
def fresh():
    """Where to start processes: they are forked from one that has imported torch and lumo, and done nothing with them.

    Forked from this one they hang, where torch has threads already; spawned, each imports everything anew.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["runs"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # Python 3.11 doesn't hand it on
        forkserver.ensure_running()
    return context


def toy_patches() -> tuple[torch.Tensor, torch.Tensor]:
    """Codebooks that are patches of a few of the world's pictures."""
    scenes = world.scenes("image")[::16]
    pictures = pixels_of([world.draw(scene, np.random.default_rng(n)) for n, scene in enumerate(scenes)])
    tones, masks = split(cut(pictures, TWOTONE), TWOTONE)
    painted = masks.amax(1).nonzero().flatten()
    return tones[painted[:: len(painted) // 16][:16]], masks[painted[:: len(painted) // 48][:48]]


def make_base(tied: bool = True, seed: int = 0) -> Qwen3ForCausalLM:
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(Qwen3Config(**QWEN, tie_word_embeddings=tied)).eval()


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory):
    """backbone/, image_codec/ and encodec/ with random weights, as the profile's `path` keys take them."""
    folder = tmp_path_factory.mktemp("toys")
    make_tokenizer(0, folder / "backbone")
    make_base().save_pretrained(folder / "backbone")
    torch.manual_seed(1)
    # fresh weights give every clip one and the same code; these tell them apart
    audio = EncodecModel(EncodecConfig(**ENCODEC))
    with torch.no_grad():
        for name, value in audio.named_parameters():
            if "bias" in name:
                value.zero_()
        spread = audio.encoder(torch.randn(8, 1, 4000) * torch.logspace(-2, 0, 8)[:, None, None]).std()
        for layer in audio.quantizer.layers:
            layer.codebook.embed.normal_(0, spread)
    TwoToneCodec.save(folder / "image_codec", TWOTONE, *toy_patches())
    audio.save_pretrained(folder / "encodec")
    return folder


@pytest.fixture(scope="session")
def codecs(toy_folder) -> CodecSet:
    return CodecSet(TwoToneCodec(toy_folder / "image_codec"), EncodecCodec(toy_folder / "encodec", 0.4, 1.0))


@pytest.fixture(scope="session")
def tokenizer(toy_folder, codecs) -> UnifiedTokenizer:
    """2 audio codebooks of 16, image codebooks of 16 and 48; 768 text rows of which fewer are the tokenizer's."""
    return UnifiedTokenizer(
        make_space(toy_folder / "backbone", codecs), load_text_tokenizer(toy_folder / "backbone"), codecs
    )


class OnlyReads:
    """An image codec without what it decodes with, as SEED-2 without unCLIP."""

    cannot_decode = "its decoder isn't there"

    def __init__(self, codec):
        self.codec = codec

    def __getattr__(self, name):
        return getattr(self.codec, name)

    def decode(self, codes):
        raise AssertionError("nothing is there to decode with")


@pytest.fixture
def only_reads(tokenizer) -> UnifiedTokenizer:
    return UnifiedTokenizer(
        tokenizer.space, tokenizer.text, replace(tokenizer.codecs, image=OnlyReads(tokenizer.codecs.image))
    )


@pytest.fixture(scope="session")
def samples(tokenizer) -> list[Sample]:
    """6 pictures and 6 sounds of the world."""
    return make_samples(tokenizer, images=6, clips=6)


@pytest.fixture
def space(tokenizer):
    return tokenizer.space


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def model(request, tokenizer) -> LumoModel:
    return LumoModel(make_base(request.param), tokenizer.space)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
