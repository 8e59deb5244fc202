"""Two token spaces that differ in much are told apart in a line that can be read."""

from __future__ import annotations

import dataclasses
import json

import pytest
from refusals import refused

from lumo.space import SpaceError, TokenSpace

SPACE = TokenSpace(
    1000, {"name": "words"}, {"codebooks": 1, "cardinality": 64}, {"codebooks": 32, "cardinality": [1024] * 32}
)


def changed(content: dict, *path: str | int, value: object) -> dict:
    content = json.loads(json.dumps(content))
    part = content
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return content


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [(("blocks", 5, "start"), 7, "field 'blocks.5.start' is 7, expected "),
     (("blocks",), [], "field 'blocks' has 0 entries, expected 35"),
     (("blocks",), {"name": "x" * 900}, "field 'blocks' is {'name': 'xxx"),
     (("control", 3), "<|aud_stop|>", "field 'control.3' is '<|aud_stop|>', expected '<|aud_end|>'")],
)  # fmt: skip
def test_an_edited_file_is_told_in_a_line(tmp_path, path, value, words):
    file = SPACE.save(tmp_path)
    file.write_text(json.dumps(changed(SPACE.as_dict(), *path, value=value)))
    with refused(SpaceError, words, "the file was edited, make it again") as _:
        TokenSpace.load(tmp_path)
    with pytest.raises(SpaceError) as caught:
        TokenSpace.load(tmp_path)
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


@pytest.mark.parametrize(
    ("cardinality", "words"),
    [([1024] * 31 + [512], "field 'audio.cardinality.31' is 512, expected 1024"),
     ([64] * 8, "field 'audio.cardinality' has 8 entries, expected 32"), (1024, "field 'audio.cardinality' is 1024, expected [1024, 1024")],
)  # fmt: skip
def test_codecs_of_many_codebooks_differ_in_a_line(cardinality, words):
    books = len(cardinality) if isinstance(cardinality, list) else 32
    other = dataclasses.replace(SPACE, audio={"codebooks": books, "cardinality": cardinality})
    with pytest.raises(SpaceError) as caught:
        SPACE.check_same(other, "there")
    assert words in str(caught.value) and "make it again with this profile" in str(caught.value)
    assert len(str(caught.value)) < 350
