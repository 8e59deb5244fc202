"""Batches: packing loses nothing, cuts nothing, and no sequence sees its neighbour."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import loss_of, make_samples, with_lora

from lumo.batches import IGNORE, pack
from lumo.sequence import SequenceBuilder, TokenSequence
from lumo.tasks import TASKS

PAD = 9


@st.composite
def sequences(draw) -> list[TokenSequence]:
    """Lines of small ids, the pad id among them: the pad id alone mustn't tell padding from content."""
    line = st.lists(st.integers(0, 12), min_size=1, max_size=8)
    parts = draw(st.lists(st.tuples(line, st.lists(st.integers(0, 12), max_size=6)), min_size=1, max_size=12))
    return [SequenceBuilder().add(prompt).add(target, target=True).build() for prompt, target in parts]


def segments(batch) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """(ids, labels, positions, groups) of each segment, row by row."""
    found = []
    for row in range(len(batch.input_ids)):
        for segment in range(1, int(batch.segment_ids[row].max()) + 1):
            here = batch.segment_ids[row] == segment
            found.append(
                tuple(part[row][here] for part in (batch.input_ids, batch.labels, batch.position_ids, batch.groups))
            )
    return found


@given(sequences())
@settings(deadline=None)
def test_every_sequence_comes_back_from_its_segment(lines):
    batch = pack(lines, PAD, groups=range(len(lines)))
    recovered = Counter()
    for ids, labels, positions, groups in segments(batch):
        assert positions.tolist() == list(range(len(ids)))
        assert len(set(groups.tolist())) == 1
        assert (labels == IGNORE).logical_or(labels == ids).all()
        recovered[(tuple(ids.tolist()), tuple((labels != IGNORE).tolist()), int(groups[0]))] += 1
    assert recovered == Counter(
        (tuple(line.ids.tolist()), tuple(line.is_target.tolist()), i) for i, line in enumerate(lines)
    )


@given(sequences())
@settings(deadline=None)
def test_padding_is_padding_and_rows_are_no_longer_than_they_need_be(lines):
    batch = pack(lines, PAD)
    padding = batch.segment_ids == 0
    assert (batch.input_ids[padding] == PAD).all()
    assert (batch.labels[padding] == IGNORE).all()
    longest = max(map(len, lines))
    assert longest <= batch.input_ids.shape[1] <= max(longest, batch.tokens)
    assert len(batch.input_ids) <= len(lines)
    assert batch.tokens == sum(map(len, lines))
    assert batch.real_share == batch.tokens / batch.input_ids.numel()
    assert (batch.segment_ids > 0).any(1).all(), "a row with nothing in it"


@given(sequences())
@settings(deadline=None)
def test_two_rows_are_never_both_less_than_half_full(lines):
    batch = pack(lines, PAD)
    fill = (batch.segment_ids > 0).sum(1)
    assert int((2 * fill <= batch.input_ids.shape[1]).sum()) <= 1


@given(sequences())
@settings(deadline=None)
def test_attention_is_causal_within_a_segment_and_nothing_else(lines):
    batch = pack(lines, PAD)
    mask = batch.attention_mask()
    for row in range(len(mask)):
        for i in range(mask.shape[2]):
            for j in range(mask.shape[3]):
                same = bool(batch.segment_ids[row, i] == batch.segment_ids[row, j])
                assert bool(mask[row, 0, i, j]) == (same and j <= i)
    assert mask.any(-1).all(), "a step that sees nothing gets NaN from softmax"


def test_pack_says_where_what_stands():
    lines = [
        SequenceBuilder().add([1, 2]).add([3], target=True).build(),
        SequenceBuilder().add([4, 5, 6]).add([7, 8], target=True).build(),
        SequenceBuilder().add([10]).add([11], target=True).build(),
    ]
    batch = pack(lines, PAD, groups=[5, 6, 7])
    assert batch.input_ids.tolist() == [[4, 5, 6, 7, 8], [1, 2, 3, 10, 11]]
    assert batch.labels.tolist() == [[-100, -100, -100, 7, 8], [-100, -100, 3, -100, 11]]
    assert batch.segment_ids.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 2, 2]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, 0, 1]]
    assert batch.groups.tolist() == [[6] * 5, [5, 5, 5, 7, 7]]


# --- with the model ---------------------------------------------------------------------------------------------------


@pytest.fixture
def mixed(tokenizer) -> list[TokenSequence]:
    """Sequences of all tasks, and short ones, so that rows are shared."""
    samples = make_samples(tokenizer, images=2, clips=2)
    lines = [task.sequence(s.ids, tokenizer.space) for task in TASKS.values() for s in samples if task.fits(s)]
    lines += [SequenceBuilder().add([3, 4, 5 + i]).add([8, 9], target=True).build() for i in range(8)]
    return lines


@torch.no_grad()
def test_editing_a_sequence_leaves_its_neighbours_logits_as_they_are(model, mixed):
    with_lora(model)
    batch = pack(mixed, model.space.control("<|pad_mm|>"))
    shared = int(batch.segment_ids.max(1).values.argmax())
    count = int(batch.segment_ids[shared].max())
    assert count > 2, "no row is shared"

    def logits(ids):
        hidden = model.hidden(ids, batch.position_ids, batch.attention_mask())[shared]
        return model.logits(hidden)

    before = logits(batch.input_ids)
    for segment in range(count + 1):  # 0: the padding
        edited = batch.input_ids.clone()
        here = batch.segment_ids[shared] == segment
        edited[shared, here] = torch.randint(0, model.space.size, (int(here.sum()),))
        after = logits(edited)
        assert torch.equal(after[~here], before[~here])
        assert segment == 0 or not torch.equal(after[here], before[here]), "the edit changed nothing: a test of nothing"


@torch.no_grad()
def test_packed_losses_are_those_of_each_sequence_alone(model, mixed):
    with_lora(model)
    batch = pack(mixed, model.space.control("<|pad_mm|>"), groups=range(len(mixed)))
    losses, groups = model.token_losses(batch)
    assert len(losses) == sum(int(line.is_target.sum()) for line in mixed)
    for i, line in enumerate(mixed):
        torch.testing.assert_close(losses[groups == i], loss_of(model, line), rtol=0, atol=1e-5)


def test_ids_of_any_integer_type_pack(rng):
    line = TokenSequence(np.arange(4, dtype=np.int32), np.array([False, True, True, True]))
    assert pack([line], PAD).input_ids.tolist() == [[0, 1, 2, 3]]
