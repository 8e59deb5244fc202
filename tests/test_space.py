"""The token space: blocks without gap or overlap, there and back, a hash that sees everything, and files that lie."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from refusals import refused

from lumo.space import CONTROL, SpaceError, TokenSpace

quick = settings(deadline=None, max_examples=60)
spaces = st.builds(
    lambda text, image, books, audio: TokenSpace(
        text, {"length": text}, {"codebooks": 1, "cardinality": image}, {"codebooks": books, "cardinality": audio}
    ),
    st.integers(1, 300),
    st.integers(1, 60),
    st.integers(1, 9),
    st.integers(1, 60),
)


def block_by_scan(space: TokenSpace, token: int) -> int:
    return next(i for i, block in enumerate(space.blocks) if block.start <= token < block.end)


# --- blocks -----------------------------------------------------------------------------------------------------------


@quick
@given(spaces)
def test_blocks_are_contiguous_disjoint_and_gapless(space):
    owners = np.zeros(space.size, dtype=int)
    for block in space.blocks:
        owners[block.start : block.end] += 1
    assert (owners == 1).all()
    names = [block.name for block in space.blocks]
    assert names == ["text", "control", "image", *(f"audio{k}" for k in range(space.audio["codebooks"]))]
    assert space.blocks[0].start == 0 and space.blocks[0].size == space.text_size
    assert space.new_rows == space.size - space.text_size


@quick
@given(spaces, st.data())
def test_codes_to_ids_and_back(space, data):
    block = data.draw(st.sampled_from(space.blocks))
    shape = data.draw(arrays.array_shapes(max_dims=3, max_side=5, min_side=0))
    codes = data.draw(arrays.arrays(np.int64, shape, elements=st.integers(0, block.size - 1)))
    ids = space.to_ids(block.name, codes)
    assert ids.shape == codes.shape
    assert (space.to_codes(block.name, ids) == codes).all()
    assert all(space.blocks[i].name == block.name for i in space.block_index(ids).flat)


@quick
@given(spaces, st.data())
def test_a_code_outside_its_block_is_refused(space, data):
    block = data.draw(st.sampled_from(space.blocks))
    wrong = data.draw(st.one_of(st.integers(block.size, 10**6), st.integers(-(10**6), -1)))
    with refused(SpaceError, f"'{block.name}'", f"0 to {block.size - 1}", f"got {wrong}"):
        space.to_ids(block.name, np.array([0, wrong]))


@quick
@given(spaces, st.data())
def test_an_id_of_another_block_is_refused_and_named(space, data):
    block, other = data.draw(st.permutations(space.blocks))[:2]
    wrong = data.draw(st.integers(other.start, other.end - 1))
    named = CONTROL[wrong - other.start] if other.name == "control" else f"block '{other.name}'"
    with refused(SpaceError, f"block '{block.name}' holds ids {block.start} to {block.end - 1}", f"{wrong} of {named}"):
        space.to_codes(block.name, np.array([block.start, wrong]))


@quick
@given(spaces, st.data())
def test_block_index_agrees_with_a_linear_scan(space, data):
    ids = data.draw(st.lists(st.integers(0, space.size - 1), max_size=40))
    edges = [edge for block in space.blocks for edge in (block.start, block.end - 1)]
    ids = np.array([*ids, *edges], dtype=np.int64)
    assert space.block_index(ids).tolist() == [block_by_scan(space, token) for token in ids]


@pytest.mark.parametrize("wrong", [-1, 10**9])
def test_block_index_refuses_ids_outside_the_space(space, wrong):
    with refused(SpaceError, f"0 to {space.size - 1}", str(wrong)):
        space.block_index(np.array([0, wrong]))


def test_control_tokens_have_ten_ids_of_their_own(space):
    ids = [space.control(token) for token in CONTROL]
    assert ids == list(range(space.text_size, space.text_size + 10))
    assert [space.name_of(token) for token in ids] == list(CONTROL)
    with refused(SpaceError, "'<|video|>' is no control token", "<|img_start|>"):
        space.control("<|video|>")
    with refused(SpaceError, "no block 'video'", "text, control, image0, image1, audio0, audio1"):
        space.block("video")


# --- the hash ---------------------------------------------------------------------------------------------------------


def backwards(value):
    """The same content, every dictionary in the opposite order."""
    return {k: backwards(value[k]) for k in reversed(value)} if isinstance(value, dict) else value


def test_the_hash_does_not_depend_on_dictionary_order(space, tmp_path):
    turned = TokenSpace(space.text_size, *(backwards(card) for card in (space.text, space.image, space.audio)))
    assert list(turned.audio) != list(space.audio)
    assert turned.sha256 == space.sha256
    space.save(tmp_path)
    assert TokenSpace.load(tmp_path).sha256 == space.sha256


def fields(space: TokenSpace) -> list[tuple[str, str]]:
    return [(card, key) for card in ("text", "image", "audio") for key in getattr(space, card)]


def changed(value):
    if isinstance(value, list):
        return [changed(one) for one in value]
    return value + 1 if isinstance(value, int | float) else f"{value}?"


def test_any_changed_field_changes_the_hash_and_is_named(space):
    seen = {space.sha256}
    for card, key in fields(space):
        content = getattr(space, card)
        if isinstance(content.get("cardinality"), list) and key == "codebooks":
            continue  # no space has more codebooks than sizes: refused, see below
        other = dataclasses.replace(space, **{card: {**content, key: changed(content[key])}})
        assert other.sha256 not in seen
        seen.add(other.sha256)
        named = f"{card}.{key}.0" if isinstance(content[key], list) else f"{card}.{key}"
        with refused(SpaceError, "run/shards: another token space", f"field '{named}' is", "make it again"):
            space.check_same(other, "run/shards")


def test_codebooks_without_a_size_are_refused(space):
    more = dataclasses.replace(space, image={**space.image, "codebooks": 3})
    with refused(SpaceError, "card of 'twotone' has 3 codebooks and sizes for 2"):
        more.blocks  # noqa: B018 - computed on demand


def test_a_field_that_only_one_side_has_is_named(space):
    more = dataclasses.replace(space, audio={**space.audio, "zoom": 3})
    with refused(SpaceError, "field 'audio.zoom' is 3, expected None"):
        space.check_same(more, "here")
    with refused(SpaceError, "field 'audio.zoom' is None, expected 3"):
        more.check_same(space, "here")


def test_what_only_json_tells_apart_is_named_too(space):
    """1 and 1.0 are equal in Python, and hash differently."""
    whole = dataclasses.replace(space, audio={**space.audio, "clip_s": 1})
    real = dataclasses.replace(space, audio={**space.audio, "clip_s": 1.0})
    with refused(SpaceError, "field 'audio.clip_s' is 1.0, expected 1"):
        whole.check_same(real, "here")


def test_the_larger_vocabulary_is_named_when_nothing_else_differs(space):
    other = dataclasses.replace(space, text_size=space.text_size + 1)
    with refused(SpaceError, f"'text_size' is {space.text_size + 1}, expected {space.text_size}"):
        space.check_same(other, "here")


def test_the_same_space_passes(space):
    space.check_same(dataclasses.replace(space), "here")


# --- the file ---------------------------------------------------------------------------------------------------------


def test_a_missing_file_says_what_to_do(tmp_path):
    with refused(SpaceError, "token_space.json: missing", "make it again"):
        TokenSpace.load(tmp_path / "nowhere")


def test_a_file_cut_anywhere_is_refused(space, tmp_path):
    path = space.save(tmp_path)
    whole = path.read_bytes()
    for length in [
        *range(0, len(whole) - 40, 9),
        *range(len(whole) - 40, len(whole) - 1),
    ]:  # the last byte is the newline after the document
        path.write_bytes(whole[:length])
        with refused(SpaceError, "token_space.json: not a token space", "again"):
            TokenSpace.load(tmp_path)


@pytest.mark.parametrize("content", [b"[]", b"{}", b"null", b'"text"', b"\xff\xfe\x00", b'{"text_size": "many"}'])
def test_another_document_is_refused(tmp_path, content):
    (tmp_path / "token_space.json").write_bytes(content)
    with refused(SpaceError, "token_space.json: not a token space"):
        TokenSpace.load(tmp_path)


EDITS = {
    "blocks": lambda c: c["blocks"][2].update(start=c["blocks"][2]["start"] + 1),
    "control": lambda c: c["control"].reverse(),
    "version": lambda c: c.update(version=2),
    "text_size": lambda c: c.update(text_size=c["text_size"] - 1),
    "image": lambda c: c["image"].update(cardinality=3),
    "audio": lambda c: c["audio"].update(codebooks=9),
    "extra": lambda c: c.update(extra=1),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_file_is_refused(space, tmp_path, edit):
    path = space.save(tmp_path)
    content = json.loads(path.read_text())
    EDITS[edit](content)
    path.write_text(json.dumps(content))
    with refused(SpaceError, "token_space.json: field '", "edited, make it again"):
        TokenSpace.load(tmp_path)
