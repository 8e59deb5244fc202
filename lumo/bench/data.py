"""Tokenising beside the codec alone, and loading beside training."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from transformers import EncodecConfig, EncodecModel

from lumo.bench.measure import Comparison, Disagreement, Goal, Measured, alternate, ratios
from lumo.codecs import CodecSet, load_codecs
from lumo.codecs.encodec import EncodecCodec
from lumo.media import Audio, wav_bytes
from lumo.params import Profile, weights_folder
from lumo.shards import Plan, read_shards, write_shards
from lumo.space import TokenSpace
from lumo.tokenizer import UnifiedTokenizer

PLAN = Plan(eval_share=0.0, golden_source="none", samples_per_shard=64)


def tokenising(profile: Profile, clips: int = 64, rounds: int = 3) -> Comparison:
    """Manifest to shards, beside the bare forward of EnCodec 24 kHz (its true size, random weights) on the same clips."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.manual_seed(0)
        EncodecModel(EncodecConfig()).save_pretrained(folder / "encodec")
        codec = EncodecCodec(folder / "encodec", 6.0, 1.0)
        backbone = weights_folder(profile.backbone.path, "backbone")
        codecs = CodecSet(load_codecs(profile.codecs).image, codec)
        tokenizer = UnifiedTokenizer.of(backbone, codecs)
        manifest = _noise(folder / "data", clips)
        media = [codec.read(path) for path in sorted((folder / "data").glob("*.wav"))]
        number = iter(range(1000))
        sides = {
            "shards": lambda: write_shards(manifest, folder / f"shards{next(number)}", tokenizer, PLAN),
            "codec": lambda: codec.encode(media),
        }
        bare = [tokenizer.encode("audio", media)]
        sides["shards"]()
        written = [sample.ids["audio"] for sample in read_shards(folder / "shards0", "train", tokenizer.space)]
        if not np.array_equal(bare[0], written):
            raise Disagreement("tokenising: ids in the shards differ from the bare codec's")
        seconds = alternate(sides, rounds)
    figures = {f"{side}_clips_per_s": clips / float(np.median(seconds[side])) for side in seconds}
    what, against = "shard tokenising, EnCodec 24 kHz, clips/s", "the bare codec forward, same clips"
    share = ratios(seconds["shards"], seconds["codec"])
    return Comparison("tokenising", what, against, Goal("≥", "0.90"), share, figures)


def loading(folder: Path, space: TokenSpace, step_seconds_per_token: float) -> Comparison:
    """Reading and checking all shards, as a share of the steps of one epoch over them: what training from disk costs more."""
    began = time.perf_counter()
    samples = read_shards(folder, "train", space)
    seconds = time.perf_counter() - began
    tokens = sum(sum(map(len, sample.ids.values())) for sample in samples)
    share = seconds / (tokens * step_seconds_per_token)
    what, against = "one epoch with loading its shards", "the same steps from memory"
    figures = {"seconds": seconds, "tokens": tokens}
    return Comparison("loading", what, against, Goal("≤", "2", "% slower"), Measured(100 * share), figures)


def _noise(folder: Path, clips: int) -> Path:
    """A manifest of one-second clips of noise at 24 kHz."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for i in range(clips):
        samples = (0.1 * rng.standard_normal((1, 24_000))).astype(np.float32)
        (folder / f"{i:04d}.wav").write_bytes(wav_bytes(Audio(samples, 24_000)))
        audio = {"path": f"{i:04d}.wav", "meta": {}}
        rows.append({"id": f"{i:04d}", "modalities": {"audio": audio}, "text": {"caption": "noise"}, "task": "a2t",
                     "source": "noise", "license": "CC0-1.0", "subtype": "sfx"})  # fmt: skip
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest
