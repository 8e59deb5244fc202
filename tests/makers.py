"""Tokenizers that processes load for themselves: here, as what a process is given must be importable, and quickly."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

from lumo.codecs import CodecSet
from lumo.codecs.encodec import EncodecCodec
from lumo.codecs.twotone import TwoToneCodec
from lumo.tokenizer import UnifiedTokenizer, load_text_tokenizer, make_space


def toys(folder: Path) -> UnifiedTokenizer:
    codecs = CodecSet(TwoToneCodec(folder / "image_codec"), EncodecCodec(folder / "encodec", 0.4, 1.0))
    return UnifiedTokenizer(make_space(folder / "backbone", codecs), load_text_tokenizer(folder / "backbone"), codecs)


class Deadly:
    """An audio codec that kills its process where it reads, so many times; `deaths` counts them."""

    def __init__(self, codec: EncodecCodec, deaths: Path, times: int):
        self.codec, self.deaths, self.times = codec, deaths, times

    def __getattr__(self, name: str):
        return getattr(self.codec, name)

    def read(self, path: Path):
        if (died := len(list(self.deaths.iterdir()))) < self.times:
            (self.deaths / str(died)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.codec.read(path)


def deadly(folder: Path, deaths: Path, times: int) -> UnifiedTokenizer:
    tokenizer = toys(folder)
    codecs = replace(tokenizer.codecs, audio=Deadly(tokenizer.codecs.audio, deaths, times))
    return UnifiedTokenizer(tokenizer.space, tokenizer.text, codecs)


class Slow(UnifiedTokenizer):
    def encode_text(self, text: str):
        time.sleep(0.5)
        return super().encode_text(text)


def slow(folder: Path) -> UnifiedTokenizer:
    tokenizer = toys(folder)
    return Slow(tokenizer.space, tokenizer.text, tokenizer.codecs)


def others(folder: Path) -> UnifiedTokenizer:
    """As if a machine had other weights."""
    tokenizer = toys(folder)
    tokenizer.space = replace(tokenizer.space, audio={**tokenizer.space.audio, "bandwidth_kbps": 9.9})
    return tokenizer


def broken(folder: Path, deaths: Path) -> UnifiedTokenizer:
    """As an error that nobody expects, but for its traceback."""
    (deaths / str(os.getpid())).touch()
    sys.exit(1)
