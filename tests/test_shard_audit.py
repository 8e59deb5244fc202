"""The audit of shards: nothing found in what is right, and each planted fault found, and it alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import make_samples

from lumo.datasets import world
from lumo.shards import SPLITS, Plan, read_shards, stream_shards, write_shards
from lumo.shards.audit import NAMED, ShardAudit, spot_checks
from lumo.shards.reasons import reasons
from lumo.shards.usage import CodebookUse

SOUND = {"samples": 8, "out_of_place": 0, "in_two_splits": 0, "media_in_two_splits": 0, "golden_media_learned": 0, "repeated": 0}  # fmt: skip


@pytest.fixture
def splits(tokenizer):
    samples = make_samples(tokenizer, images=4, clips=4)
    return {"train": samples[:5], "eval": samples[5:7], "golden": samples[7:]}


def audited(splits, tokenizer, every=1):
    audit = ShardAudit(tokenizer, every)
    for split, samples in splits.items():
        assert list(audit.watch(split, iter(samples))) == samples
    return audit


def findings(splits, tokenizer):
    found = audited(splits, tokenizer).findings()
    assert len(found.pop("samples_sha256")) == 64
    return found


def with_ids(sample, **ids):
    return replace(sample, ids=sample.ids | ids)


def test_nothing_is_found_in_what_is_right(splits, tokenizer):
    assert findings(splits, tokenizer) == SOUND
    assert audited(splits, tokenizer).faults == []
    assert findings({}, tokenizer) == SOUND | {"samples": 0}


def faulty(splits, tokenizer, fault):
    """The splits with one fault, and what should be found."""
    train, space = splits["train"], tokenizer.space
    n, picture = next((n, sample) for n, sample in enumerate(train) if "image" in sample.ids)
    ids, text = picture.ids["image"], picture.ids["text"]
    other = next(sample for split in ("eval", "golden") for sample in splits[split])
    if fault == "books change places":
        train[n] = with_ids(picture, image=ids.reshape(-1, 2)[:, ::-1].ravel())
        return {"out_of_place": 1}
    if fault == "a control token in a picture":
        train[n] = with_ids(picture, image=np.r_[ids[:-1], space.control("<|img_end|>")])
        return {"out_of_place": 1}
    if fault == "a picture too short":
        train[n] = with_ids(picture, image=ids[:-2])
        return {"out_of_place": 1}
    if fault == "a code in the words":
        train[n] = with_ids(picture, text=np.r_[text, ids[:1]])
        return {"out_of_place": 1}
    if fault == "no words":
        train[n] = with_ids(picture, text=text[:0])
        return {"out_of_place": 1}
    if fault == "an id in two splits":
        train[n] = replace(picture, id=other.id)
        return {"in_two_splits": 1}
    if fault == "one medium under two ids":
        splits["eval"].append(replace(picture, id="copy"))
        return {"samples": 9, "media_in_two_splits": 1}
    if fault == "a golden medium in training":
        train.append(replace(splits["golden"][0], id="copy"))
        return {"samples": 9, "media_in_two_splits": 1, "golden_media_learned": 1}
    train.append(replace(picture, id="copy"))
    return {"samples": 9, "repeated": 1}


@pytest.mark.parametrize("fault", ["books change places", "a control token in a picture", "a picture too short", "a code in the words", "no words",
                                   "an id in two splits", "one medium under two ids", "a golden medium in training", "a sample twice"])  # fmt: skip
def test_each_fault_is_found_and_it_alone(splits, tokenizer, fault):
    wanted = faulty(splits, tokenizer, fault)
    assert findings(splits, tokenizer) == SOUND | wanted
    assert len(audited(splits, tokenizer).faults) == wanted.get("out_of_place", 0)


def test_several_captions_of_a_file_are_no_repetition(splits, tokenizer):
    first = splits["train"][0]
    splits["train"].append(with_ids(replace(first, id="b"), text=tokenizer.encode_text("other words")))
    assert findings(splits, tokenizer) == SOUND | {"samples": 9}


def test_a_fault_is_named_and_many_are_counted(splits, tokenizer):
    bad = with_ids(splits["train"][0], text=np.zeros(0, np.int64))
    audit = audited({"train": [bad] * (NAMED + 5)}, tokenizer)
    assert audit.findings()["out_of_place"] == NAMED + 5 and len(audit.faults) == NAMED
    assert audit.faults[0] == f"train: {bad.id}: 0 ids of text, expected some"


@pytest.mark.parametrize("change", ["an id", "a code", "a word", "the order"])
def test_the_hash_is_of_every_sample(splits, tokenizer, change):
    before = audited(splits, tokenizer).findings()["samples_sha256"]
    assert audited(splits, tokenizer).findings()["samples_sha256"] == before
    train = splits["train"]
    first = train[0]
    modality = next(iter(first.modalities - {"text"}))
    train[0] = {"an id": replace(first, id="another"), "a code": with_ids(first, **{modality: first.ids[modality][::-1]}),
                "a word": with_ids(first, text=first.ids["text"][:-1]), "the order": first}[change]  # fmt: skip
    if change == "the order":
        train.reverse()
    assert audited(splits, tokenizer).findings()["samples_sha256"] != before


def test_codebook_usage_by_hand(tokenizer):
    samples, space = make_samples(tokenizer, images=1, clips=1), tokenizer.space
    low = {name: space.block(name).start for name in ("image0", "image1", "audio0", "audio1")}
    picture = np.stack([low["image0"] + np.arange(16) % 4, np.full(16, low["image1"])], 1).ravel()
    clip = np.stack([np.full(50, low["audio0"] + 7), low["audio1"] + np.arange(50) % 2], 1).ravel()
    train = [with_ids(samples[0], image=picture), with_ids(samples[1], audio=clip)]
    books = audited({"train": train, "eval": samples}, tokenizer).usage()
    assert [(b.name, b.used, len(b.counts), b.entropy_bits, b.perplexity) for b in books] == [
        ("image0", 4, 16, 2.0, 4.0), ("image1", 1, 48, 0.0, 1.0), ("audio0", 1, 16, 0.0, 1.0), ("audio1", 2, 16, 1.0, 2.0)
    ]  # fmt: skip
    nothing = audited({}, tokenizer).usage()
    assert [(b.used, b.entropy_bits, b.perplexity, b.ranked()) for b in nothing] == [(0, 0, 0, [])] * 4


def test_rows_are_counted_by_source_task_and_split(splits, tokenizer):
    rows = audited(splits, tokenizer).rows
    assert rows.total() == 8 and {
        split: sum(n for (*_, own), n in rows.items() if own == split) for split in splits
    } == {split: len(samples) for split, samples in splits.items()}
    assert {(source, task) for source, task, _ in rows} == {("world", "i2t"), ("world", "a2t")}


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40), st.integers(2, 60))
def test_ranked_use_is_that_of_the_sorted_counts(counts, points):
    book = CodebookUse("book", np.array(counts))
    ranked, used = book.ranked(points), sorted((n for n in counts if n), reverse=True)
    assert len(ranked) == min(points, len(used))
    assert [y * sum(counts) / len(counts) for _, y in ranked] == pytest.approx(
        [used[round(x * len(counts) / 100) - 1] for x, _ in ranked]
    )
    assert not ranked or (ranked[0][0], ranked[-1][0]) == pytest.approx(
        (100 / len(counts), 100 * book.used / len(counts))
    )
    # as many codes, evenly used, would say as much: never more than occur, all of them where they are used alike
    assert book.perplexity <= book.used + 1e-9
    assert CodebookUse("book", np.minimum(counts, 1)).perplexity == pytest.approx(book.used)


LINES = {
    "audio/a1.wav: no file there; check the path in the manifest": "no file there",
    "a: b; c.png: not a readable image (cannot identify: 'x'); export it again": "not a readable image …",
    "x: codec 'audio' reads (Hz, channels, samples) (16000, 1, 16000), got (44100, 2, 882); resample or cut it first":
        "codec 'audio' reads (Hz, channels, samples) (…, …, …), got (…, …, …)",
    "row7: task is 't2v', expected i2t or t2i by its media; mend the row": "task is '…', expected i2t or t2i by its media",
    "manifest.jsonl:12: 'x' has an empty caption, expected words; mend the row": "'…' has an empty caption, expected words",
    "": "",
}  # fmt: skip


def test_lines_that_differ_in_names_and_numbers_alone_are_one_reason():
    for line, reason in LINES.items():
        assert reasons([line, line]) == {reason: 2}
    other = "audio/b2.wav: no file there; check the path in the manifest"
    assert reasons([*LINES, other])["no file there"] == 2


# --- with their files -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    return world.write_world(tmp_path_factory.mktemp("world"), seed=0, images=8, clips=8)


@pytest.fixture(scope="module")
def shards(described, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shards(described, folder, tokenizer, Plan(0.3, "world-held-out", 5))
    return folder


def test_a_stream_is_what_is_read(shards, tokenizer):
    for split in SPLITS:
        read, streamed = (list(f(shards, split, tokenizer.space)) for f in (read_shards, stream_shards))
        assert [s.id for s in read] == [s.id for s in streamed]


def test_spots_are_spread_over_all_and_hold(shards, described, tokenizer, only_reads):
    audit = audited({split: read_shards(shards, split, tokenizer.space) for split in SPLITS}, tokenizer, every=4)
    total = audit.findings()["samples"]
    assert len(audit.spots) == -(-total // 4)
    checks = spot_checks(audit.spots, tokenizer, described.parent)
    assert checks == dict.fromkeys(("retokenised", "retokenised_same", "decoded"), len(audit.spots)) | {"only_read": 0}
    pictures = sum("image" in sample.ids for sample in audit.spots)
    only = spot_checks(audit.spots, only_reads, described.parent)
    assert only == checks | {"decoded": len(audit.spots) - pictures, "only_read": pictures} and pictures


def test_spots_that_dont_agree_with_their_files_are_counted(shards, described, tokenizer, tmp_path):
    samples = read_shards(shards, "train", tokenizer.space)[:6]
    picture = next(n for n, sample in enumerate(samples) if "image" in sample.ids)
    ids, start = samples[picture].ids["image"].copy(), tokenizer.space.block("image0").start
    ids[0] = start + (ids[0] - start + 1) % 16
    samples[picture] = with_ids(samples[picture], image=ids)
    reworded = next(n for n in range(6) if n != picture)
    samples[reworded] = with_ids(samples[reworded], text=tokenizer.encode_text("another caption"))
    found = {"retokenised": 6, "retokenised_same": 4, "decoded": 6, "only_read": 0}
    assert spot_checks(samples, tokenizer, described.parent) == found
    samples[reworded] = with_ids(samples[reworded], text=ids)
    samples[picture] = with_ids(samples[picture], image=ids[:-1])
    assert spot_checks(samples, tokenizer, described.parent) == found | {"decoded": 4}
    assert spot_checks(samples, tokenizer, tmp_path)["retokenised_same"] == 0  # the files aren't there
