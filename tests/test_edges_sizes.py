"""A config with numbers that no model has is one line, before anything of that size is built."""

from __future__ import annotations

import json
import shutil

import pytest
from conftest import ENCODEC, QWEN
from refusals import refused
from transformers import DacConfig, DacModel, EncodecConfig, EncodecModel

from lumo.codecs import CodecError
from lumo.codecs.dac import DacCodec
from lumo.codecs.encodec import EncodecCodec
from lumo.codecs.taming import read_config
from lumo.tokenizer import load_config

DAC = DacConfig(
    encoder_hidden_size=4,
    downsampling_ratios=[2, 4],
    decoder_hidden_size=8,
    n_codebooks=2,
    codebook_size=16,
    codebook_dim=4,
)
SEGMENTS = {"normalize": True, "chunk_length_s": 0.4, "overlap": 0.01}
LOADERS = {
    "encodec": lambda folder, bare: EncodecCodec(folder, 0.4, 1.0, bare=bare),
    "segments": lambda folder, bare: EncodecCodec(folder, 0.4, 1.0, 0.1, bare=bare),
    "dac": lambda folder, bare: DacCodec(folder, 2, 1.0, bare=bare),
}
NUMBERS = [
    (part, name)
    for part, config in (("encodec", EncodecConfig(**ENCODEC)), ("dac", DAC))
    for name, value in config.to_dict().items()
    if isinstance(value, int | float | list | tuple) and not isinstance(value, bool) and name != "architectures"
]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    EncodecModel(EncodecConfig(**ENCODEC)).save_pretrained(folder / "encodec")
    EncodecModel(EncodecConfig(**ENCODEC | SEGMENTS)).save_pretrained(folder / "segments")
    DacModel(DAC).save_pretrained(folder / "dac")
    return folder


@pytest.fixture
def edited(weights, tmp_path):
    def edit(part, **wrong):
        folder = shutil.copytree(weights / part, tmp_path / part)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | wrong))
        return folder

    return edit


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize(("part", "name"), NUMBERS)
def test_a_number_that_no_codec_has(edited, part, name, bare):
    wrong = [10**9] if name in ("target_bandwidths", "upsampling_ratios", "downsampling_ratios") else 10**9
    with refused(CodecError, f"config.json says {name} 1e+09", "expected 1048576 at the most", "make it again"):
        LOADERS[part](edited(part, **{name: wrong}), bare)


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize(
    ("part", "name", "value"),
    [("encodec", "num_residual_layers", 10**6), ("encodec", "num_lstm_layers", 10**6), ("dac", "n_codebooks", 10**6),
     ("encodec", "target_bandwidths", [0.4, 1e6]), ("encodec", "upsampling_ratios", [1] * 10**5),
     ("dac", "downsampling_ratios", [1] * 10**5)],
)  # fmt: skip
def test_more_layers_than_can_be_built(edited, part, name, value, bare):
    said = "num_quantizers" if name == "target_bandwidths" else name
    with refused(CodecError, "config.json ", f" {said} ", "1024 at the most"):
        LOADERS[part](edited(part, **{name: value}), bare)


@pytest.mark.parametrize(
    ("part", "name"), [("dac", "decoder_hidden_size"), ("encodec", "hidden_size"), ("encodec", "kernel_size")]
)
def test_more_numbers_than_the_weights_hold(edited, part, name):
    with refused(CodecError, "config.json asks for ", "numbers, model.safetensors has ", "bytes"):
        LOADERS[part](edited(part, **{name: 10**5}), bare=False)


@pytest.mark.parametrize(
    ("part", "wrong"),
    [("dac", {"hop_length": 10**5}), ("dac", {"upsampling_ratios": [4, 4]}), ("dac", {"downsampling_ratios": [2**16] * 4}),
     ("encodec", {"upsampling_ratios": [2**16] * 4}), ("encodec", {"upsampling_ratios": [8, 0]})],
)  # fmt: skip
def test_a_hop_that_its_ratios_do_not_make(edited, part, wrong):
    with refused(CodecError, f"{part}: no ", "make it again"):
        LOADERS[part](edited(part, **wrong), bare=True)


@pytest.mark.parametrize(
    "wrong",
    [{"chunk_length_s": -1}, {"chunk_length_s": 1e-9}, {"overlap": 0.9999}, {"overlap": 5.0}, {"overlap": None},
     {"overlap": float("nan")}],
)  # fmt: skip
def test_segments_that_never_get_on(edited, wrong):
    with refused(CodecError, "config.json says segments of ", "fetch or make it again"):
        LOADERS["segments"](edited("segments", **wrong), bare=True)


@pytest.mark.parametrize("name", ["num_hidden_layers", "n_layer", "num_experts"])
def test_a_backbone_of_layers_without_end(tmp_path, name):
    """transformers makes a list of them before it checks anything."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3"} | QWEN | {name: 10**9}))
    with refused(CodecError, f"config.json: no model config that can be read ({name} is 1000000000, expected 1024"):
        load_config(tmp_path)


@pytest.mark.parametrize(("key", "value"), [("num_res_blocks", 10**9), ("ch_mult", [1] * 10**4)])
def test_a_vqgan_of_blocks_without_end(tmp_path, key, value):
    sizes = {
        "ch": 32,
        "ch_mult": [1, 2],
        "num_res_blocks": 1,
        "attn_resolutions": [],
        "resolution": 32,
        "z_channels": 8,
    }
    sizes |= {"in_channels": 3, "out_ch": 3, "double_z": False, key: value}
    params = {"ddconfig": sizes, "n_embed": 16, "embed_dim": 8}
    model = {"target": "taming.models.vqgan.VQModel", "params": params}
    (tmp_path / "model.yaml").write_text(json.dumps({"model": model}))
    with refused(CodecError, f"model.params.ddconfig.{key}: "):
        read_config(tmp_path / "model.yaml")
