"""The miniature's parts as they are shipped, and the pieces that make them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lumo.codecs import load_codecs
from lumo.codecs.vectors import nearest
from lumo.miniature import backbone, ceilings
from lumo.miniature.clusters import k_means
from lumo.miniature.text import documents
from lumo.params import MINIATURE, load_profile
from lumo.tokenizer import load_text_tokenizer


@pytest.fixture(scope="module")
def shipped():
    return load_codecs(load_profile("mini").codecs)


@pytest.mark.parametrize(("modality", "kinds"), [("image", ["image"]), ("audio", ["music", "sfx"])])
def test_the_shipped_codecs_keep_what_the_world_shows(shipped, modality, kinds):
    """Every combination once, held-out ones included."""
    kept = ceilings.measure(shipped[modality], kinds, seed=11, drawings=1)
    assert kept["all_right"] >= 0.98, kept


def test_the_shipped_backbone_tells_look_alike_words_apart():
    pairs = backbone.twins(MINIATURE / "backbone")
    assert len(pairs) > 40 and {("small", "large"), ("loud", "soft")} <= {pair[:2] for pair in pairs}
    assert max(cosine for *_, cosine in pairs) < 0.9


def test_the_shipped_backbone_says_every_attribute_again():
    """What it can't find in a caption and name again, stage 4 doesn't teach it: it leaves the embedding alone."""
    for kind, shares in backbone.says_again(MINIATURE / "backbone", cases=48, seed=5).items():
        assert min(shares.values()) >= 0.95, (kind, shares)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.integers(2, 8))
def test_k_means_finds_clusters_that_are_far_apart(seed, clusters):
    rng = torch.Generator().manual_seed(seed)
    true = 100 * torch.eye(clusters)
    vectors = (true[:, None] + torch.randn(clusters, 30, clusters, generator=rng)).flatten(0, 1)
    centres = k_means(vectors, 2 * clusters, 10, rng)
    # more centres than clusters: whichever start, each cluster gets one
    assert (vectors - centres[nearest(vectors, centres)]).square().sum(1).max() < 100**2


def test_k_means_never_gets_worse():
    rng = torch.Generator().manual_seed(0)
    vectors = torch.randn(500, 4, generator=rng)

    def error(rounds):
        centres = k_means(vectors, 10, rounds, torch.Generator().manual_seed(1))
        return float((vectors - centres[nearest(vectors, centres)]).square().sum())

    errors = [error(rounds) for rounds in (1, 2, 5, 20)]
    assert errors == sorted(errors, reverse=True)


def test_the_first_phase_looks_at_answers_alone():
    text = load_text_tokenizer(MINIATURE / "backbone")
    stream = documents(3)
    told = [next(stream) for _ in range(256)]
    ids, labels = next(backbone._blocks(iter(told * 4), text, 2, True))
    everything, all_labels = next(backbone._blocks(iter(told * 4), text, 2, False))
    assert torch.equal(ids, everything) and torch.equal(all_labels, everything)
    looked_at = labels != -100
    assert 0.2 < looked_at.float().mean() < 0.8 and torch.equal(labels[looked_at], ids[looked_at])
    pieces = [piece for document in told for piece in [*document, (backbone.END, document[-1][1])]]
    expected = [flag for words, flag in pieces for _ in text(words)["input_ids"]][: ids.numel()]
    assert looked_at.flatten().tolist() == expected


def test_documents_never_say_what_is_held_out():
    from lumo.datasets import readers, world

    stream = documents(5)
    for document in (next(stream) for _ in range(2000)):
        said = "".join(text for text, _ in document)
        for kind in world.ATTRIBUTES:
            found = readers.read_caption(said, kind)
            if None not in found.values():
                assert world.Scene(kind, tuple(found.values())) not in world.held_out(kind), said
