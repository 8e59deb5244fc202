"""Audits: true on what is right, and false on what is broken on purpose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lumo import audit, fidelity
from lumo.audit import (
    HostileModel,
    audit_codec,
    audit_space,
    hostile_decoding,
    text_logits,
)
from lumo.datasets import world
from lumo.media import Image
from lumo.space import CONTROL
from lumo.tasks import TASKS
from lumo.tokenizer import UnifiedTokenizer

TEXTS = [
    "a small red circle",
    "",
    "  two  spaces\n",
    "naïve 図 \U0001f600",
    " ".join(CONTROL),
    "<|endoftext|>",
    "x" * 10_000,
]


@pytest.fixture(scope="module")
def media():
    rows = [row for row in world.rows(seed=0, images=2, clips=2) if row["source"] == "world"]
    return [world.render(medium["meta"]) for row in rows for medium in row["modalities"].values()]


def test_space_of_toy_parts_is_sound(tokenizer, media):
    findings = audit_space(tokenizer, media, TEXTS)
    codecs = findings.pop("codecs")
    assert findings == dict.fromkeys(("deterministic", "in_blocks", "sizes_match", "text_round_trips"), True)
    assert set(codecs) == {"image", "audio"}


@pytest.mark.parametrize("modality", ["image", "audio"])
def test_a_codecs_figures_are_those_of_its_round_trips(tokenizer, media, modality):
    """Slow copy: every medium by itself."""
    items = [item for item in media if isinstance(item, Image) == (modality == "image")]
    trips = audit_codec(tokenizer, modality, items)["round_trips"]
    ids = [tokenizer.encode(modality, [item]) for item in items]
    made = [tokenizer.decode(modality, line)[0] for line in ids]
    kept = [np.mean(tokenizer.encode(modality, [m]) == line) for m, line in zip(made, ids, strict=True)]
    assert trips["codes_kept"] == {"median": np.median(kept), "worst": min(kept), "over": len(items)}
    measure, worst = {"image": (fidelity.ssim, min), "audio": (fidelity.mel_distance, max)}[modality]
    values = [measure(item, m) for item, m in zip(items, made, strict=True)]
    assert trips[measure.__name__] == {"median": np.median(values), "worst": worst(values), "over": len(items)}
    assert len(trips) == 3


class Larger:
    """An image codec that paints pictures of twice the size, as SEED-2's decoder does."""

    def __init__(self, codec):
        self.codec = codec

    def __getattr__(self, name):
        return getattr(self.codec, name)

    def decode(self, codes):
        return [Image(made.pixels.repeat(2, 0).repeat(2, 1)) for made in self.codec.decode(codes)]


def test_larger_pictures_are_measured_at_the_codecs_size(tokenizer, media):
    pictures = [item for item in media if isinstance(item, Image)]
    larger = UnifiedTokenizer(
        tokenizer.space, tokenizer.text, replace(tokenizer.codecs, image=Larger(tokenizer.codecs.image))
    )
    own, found = (audit_codec(t, "image", pictures)["round_trips"]["ssim"] for t in (tokenizer, larger))
    assert found["over"] == len(pictures)
    assert found["median"] == pytest.approx(own["median"], abs=0.05)


def test_a_codec_that_only_reads_is_audited_without_round_trips(only_reads, media):
    found = audit_space(only_reads, media, TEXTS[:2])["codecs"]
    pictures = found["image"]
    assert all(pictures[must] for must in audit.MUSTS)
    assert pictures["not_decoded"] == "its decoder isn't there" and "not_decoded" not in found["audio"]
    assert {trip["over"] for trip in pictures["round_trips"].values()} == {0}
    assert found["audio"]["round_trips"]["mel_distance"]["over"] == 2


def test_what_does_not_decode_is_not_measured(tokenizer, media):
    clips = [item for item in media if not isinstance(item, Image)]
    found = audit_codec(Broken(tokenizer, "sizes_match"), "audio", clips)
    assert not found["sizes_match"]
    assert all(trip == {"median": None, "worst": None, "over": 0} for trip in found["round_trips"].values())


class Broken(UnifiedTokenizer):
    """A tokenizer with one fault."""

    def __init__(self, whole: UnifiedTokenizer, fault: str):
        super().__init__(whole.space, whole.text, whole.codecs)
        self.fault, self.calls = fault, 0

    def encode(self, modality, media):
        ids = super().encode(modality, media).copy()
        self.calls += 1
        if self.fault == "deterministic" and modality == "image":
            start = self.space.block("image0").start
            ids[0, 0] = start + (ids[0, 0] - start + self.calls) % 245
        if self.fault == "in_blocks" and modality == "audio":
            ids[:, [0, 1]] = ids[:, [1, 0]]  # the two codebooks of a frame change places
        if self.fault == "sizes_match" and modality == "audio":
            ids = ids[:, :-2]
        return ids

    def encode_text(self, text):
        ids = super().encode_text(text)
        return ids[:-1] if self.fault == "text_round_trips" else ids


@pytest.mark.parametrize("fault", ["deterministic", "in_blocks", "sizes_match", "text_round_trips"])
def test_each_fault_is_found(tokenizer, media, fault):
    findings = audit_space(Broken(tokenizer, fault), media, TEXTS[:3])
    wrong = {name for name in ("deterministic", "in_blocks", "sizes_match", "text_round_trips") if not findings[name]}
    assert wrong == {fault}


# --- hostile logits ---------------------------------------------------------------------------------------------------


def test_all_hostile_decoding_decodes(model, tokenizer):
    table = hostile_decoding(model, tokenizer, max_text_tokens=8, cases=3, seed=0)
    assert [(line["task"], line["logits"]) for line in table] == [
        (name, kind) for name in TASKS for kind in ("random", "huge", "not a number")
    ]
    assert all(line["decoded"] == line["cases"] == 3 for line in table)


def test_what_cannot_be_decoded_is_not_asked_of_hostile_logits(model, only_reads):
    table = hostile_decoding(model, only_reads, max_text_tokens=4, cases=1, seed=0)
    assert {line["task"] for line in table} == TASKS.keys() - {"t2i"}


def test_hostile_logits_are_hostile_and_the_model_stays_itself(model, tokenizer):
    weights, training = model.base_sha256(), model.training
    ids = torch.zeros(2, 3, dtype=torch.long)
    states = {kind: HostileModel(model, kind, 0).hidden(ids, ids, ids) for kind in ("random", "huge", "not a number")}
    assert states["random"].shape == (2, 3, 32)
    assert states["huge"].abs().max() > 1e29
    assert states["not a number"].isnan().all()
    assert model.base_sha256() == weights
    assert model.training == training


def test_an_answer_that_breaks_the_grammar_is_no_pass(model, tokenizer, monkeypatch):
    monkeypatch.setattr(audit, "generate", lambda model, prompts, grammar, sampling: [np.array([0, 1])] * len(prompts))
    with pytest.raises((AssertionError, ValueError)):
        hostile_decoding(model, tokenizer, 8, 2, 0)


# --- logits of text -----------------------------------------------------------------------------------------------------


def test_text_logits_are_the_bases_own(model, tokenizer):
    sentences = ["a small red circle", "seven"]
    for sentence, logits in zip(sentences, text_logits(model, tokenizer, sentences), strict=True):
        with torch.no_grad():
            own = model.base(torch.from_numpy(tokenizer.encode_text(sentence))[None]).logits[0]
        assert logits.shape == own.shape
        torch.testing.assert_close(logits, own, rtol=0, atol=1e-5)
