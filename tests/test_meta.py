"""EnCodec's weights in Meta's own format: the same codes from Meta's own package and from transformers."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from refusals import refused

from lumo.codecs import CodecError, load_codecs
from lumo.codecs.encodec import EncodecCodec
from lumo.files import sha256_of
from lumo.media import Audio
from lumo.params import load_profile


@pytest.fixture(scope="module")
def meta():
    """Meta's package. It imports torchaudio, which it needs for what isn't called here and which has no CPU build everywhere."""
    if "torchaudio" not in sys.modules:
        sys.modules["torchaudio"] = ModuleType("torchaudio")
        sys.modules["torchaudio"].transforms = ModuleType("transforms")
    return pytest.importorskip("encodec").EncodecModel


@pytest.fixture(scope="module", params=["24", "48"])
def theirs(request, meta, tmp_path_factory):
    """A model of theirs with random weights, its `.th` file, its rate, its channels."""
    torch.manual_seed(0)
    model = getattr(meta, f"encodec_model_{request.param}khz")(pretrained=False).eval()
    model.set_target_bandwidth(6.0)
    for layer in model.quantizer.vq.layers:
        layer._codebook.embed.normal_(0, 0.02)
    path = tmp_path_factory.mktemp("meta") / f"encodec_{request.param}khz.th"
    torch.save(model.state_dict(), path)
    return model, path


def ours_of(theirs) -> EncodecCodec:
    model, path = theirs
    return EncodecCodec(path, 6.0, 1.2, scale=0.1 if model.normalize else None)


def test_both_implementations_give_equal_codes(theirs, rng):
    model, ours = theirs[0], ours_of(theirs)
    assert (ours.policy.sample_rate_hz, ours.policy.channels) == (model.sample_rate, model.channels)
    samples = (0.1 * rng.standard_normal((2, model.channels, ours.policy.samples))).astype(np.float32)
    codes = ours.encode([Audio(clip, model.sample_rate) for clip in samples])
    with torch.no_grad():
        frames = model.encode(torch.from_numpy(samples))
        expected = torch.cat([part for part, _ in frames], -1).numpy()
    assert codes.shape == expected.shape == (2, ours.codebooks, ours.frames)
    assert len(np.unique(codes)) > 20
    # the same sums in another order: a frame that lies half-way between two codes may fall to either side
    assert (codes == expected).mean() > 0.999
    with torch.no_grad():
        scaled = [(part, None if scale is None else torch.full((2, 1), 0.1)) for part, scale in frames]
        wave = model.decode(scaled)[..., : ours.policy.samples].numpy()
    for got, true in zip(ours.decode(expected), wave, strict=True):
        assert np.allclose(got.samples, true, atol=1e-4 * np.abs(true).max() + 1e-6)


def test_a_profile_may_name_the_file(theirs):
    model, path = theirs
    audio = {"name": "encodec", "path": str(path), "bandwidth_kbps": 6.0} | ({"scale": 0.1} if model.normalize else {})
    codec = load_codecs(load_profile("smoke", {"codecs": {"audio": audio}}).codecs).audio
    assert codec.card["weights_sha256"] == sha256_of(path)


@pytest.mark.parametrize("fault", ["missing", "more", "cut", "another shape", "no dictionary", "empty"])
def test_what_is_not_such_a_file_is_refused(theirs, tmp_path, fault):
    state, path = dict(theirs[0].state_dict()), tmp_path / "bad.th"
    key = "encoder.model.3.conv.conv.bias"
    if fault == "missing":
        del state[key]
    if fault == "more":
        state["and_one_more"] = torch.zeros(1)
    if fault == "another shape":
        state[key] = torch.zeros(3)
    torch.save([1] if fault == "no dictionary" else {} if fault == "empty" else state, path)
    if fault == "cut":
        path.write_bytes(theirs[1].read_bytes()[:100_000])
    with refused(CodecError, f"{path}: no EnCodec of Meta's that can be read", "fetch it again"):
        EncodecCodec(path, 6.0, 1.0)


class Evil:
    def __reduce__(self):
        return (open, ("/tmp/evil", "w"))


def test_a_pickle_that_runs_code_is_refused(tmp_path, monkeypatch):
    ran = tmp_path / "ran"
    monkeypatch.setattr(Evil, "__reduce__", lambda self: (open, (str(ran), "w")))
    torch.save({"encoder.model.0.conv.conv.weight_v": Evil()}, tmp_path / "evil.th")
    with refused(CodecError, f"{tmp_path / 'evil.th'}: no EnCodec of Meta's", "fetch it again"):
        EncodecCodec(tmp_path / "evil.th", 6.0, 1.0)
    assert not ran.exists()
