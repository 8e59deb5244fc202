"""A codec of one's own: one small file, and one line in a profile."""

from __future__ import annotations

import numpy as np
import pytest
from refusals import refused

from lumo import plan
from lumo.codecs import CodecError, load_codecs
from lumo.media import Image
from lumo.params import ParamsError, load_profile
from lumo.tokenizer import load_tokenizer

# the mean colour of each quarter, in eight levels of grey
GREYS = """
import numpy as np
from lumo.codecs import check_pictures
from lumo.media import Image, read_image


class Greys:
    name, codebooks, cardinalities, frames, cannot_decode, fit = "greys", 1, (8,), 4, None, "crop"

    def __init__(self, side):
        self.side = side
        self.card = {"name": self.name, "codebooks": 1, "cardinality": 8, "frames": 4, "resolution": side}

    def read(self, path):
        return read_image(path, (self.side, self.side))

    def encode(self, media):
        check_pictures(media, self.side)
        quarters = np.stack([image.pixels.reshape(2, self.side // 2, 2, -1).mean((1, 3)) for image in media])
        return (quarters.reshape(len(media), 1, 4) // 32).astype(np.int64)

    def decode(self, codes):
        greys = (codes.reshape(-1, 2, 2) * 32 + 16).astype(np.uint8)
        return [Image(np.ascontiguousarray(grey.repeat(32, 0).repeat(32, 1)[..., None].repeat(3, 2))) for grey in greys]


def load(params, device):
    return Greys(64)
"""


def profile_with(adapter, **more):
    return load_profile("smoke", {"codecs": {"image": {"name": "own", "adapter": str(adapter), **more}}})


@pytest.fixture
def adapter(tmp_path):
    file = tmp_path / "greys.py"
    file.write_text(GREYS)
    return file


def test_it_takes_part_like_any_other(adapter):
    profile = profile_with(adapter)
    tokenizer = load_tokenizer(profile)
    pictures = [Image(np.full((64, 64, 3), grey, np.uint8)) for grey in (0, 100, 255)]
    ids = tokenizer.encode("image", pictures)
    assert ids.shape == (3, 4) and tokenizer.space.block("image").size == 8
    for picture, made in zip(pictures, tokenizer.decode("image", ids), strict=True):
        assert abs(int(made.pixels[0, 0, 0]) - int(picture.pixels[0, 0, 0])) <= 16
    said = plan.forecast(profile)
    assert said.media["image"] == 4 and "codecs.image is your own: its memory isn't counted" in said.assumed


@pytest.mark.parametrize(
    "text, reason",
    [
        ("1 +", "SyntaxError"),
        ("x = 1", "has no attribute 'load'"),
        ("def load(params, device): raise RuntimeError('two\\nlines')", "RuntimeError: two lines"),
        ("def load(params, device): return 3", "its codec has no name, codebooks"),
        ("import nowhere", "ModuleNotFoundError: No module named 'nowhere'"),
    ],
)
def test_a_file_that_gives_no_codec_is_one_line(adapter, text, reason):
    adapter.write_text(text)
    with refused(CodecError, str(adapter), reason):
        load_codecs(profile_with(adapter).codecs)


def test_a_file_that_isnt_there_or_isnt_named_is_one_line(tmp_path):
    with refused(CodecError, "none.py: no such Python file"):
        load_codecs(profile_with(tmp_path / "none.py").codecs)
    for image in ({"name": "own"}, {"name": "twotone", "adapter": "a.py"}):
        with refused(ParamsError, "name own wants adapter"):
            load_profile("smoke", {"codecs": {"image": image}})
