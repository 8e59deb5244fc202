"""Golden suites of toys: held-out samples, five cases a task with their true files, and what a toy model makes of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from conftest import make_base
from toys import make_samples, with_lora

from lumo.datasets import world
from lumo.golden import Result, Setup, choose, run_suite
from lumo.media import Image, png_bytes, wav_bytes
from lumo.model import LumoModel
from lumo.shards import Sample
from lumo.tasks import TASKS


@pytest.fixture(name="held", scope="module")
def fixture_held(tokenizer) -> list[Sample]:
    return make_samples(tokenizer, 0, 0, held_out=70)


def choose_all(held: list[Sample], count: int) -> dict[str, list[Sample]]:
    return {task: choose(held, task, count) for task in TASKS}


@pytest.fixture(name="suite", scope="module")
def fixture_suite(tokenizer, held, tmp_path_factory) -> tuple[dict[str, list[Sample]], Path]:
    """Five cases a task, with the true files and the codes that the codecs give for them."""
    folder = tmp_path_factory.mktemp("world")
    suites = choose_all(held, 5)
    for cases in suites.values():
        for i, case in enumerate(cases):
            for modality in case.modalities - {"text"}:
                medium = case.row["modalities"][modality]
                media = world.render(medium["meta"])
                path = folder / medium["path"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(png_bytes(media) if isinstance(media, Image) else wav_bytes(media))
                (ids,) = tokenizer.encode(modality, [tokenizer.codecs[modality].read(path)])
                cases[i] = replace(cases[i], ids=cases[i].ids | {modality: ids})
    return suites, folder


@pytest.fixture(name="results", scope="module")
def fixture_results(tokenizer, suite) -> dict[str, list[Result]]:
    suites, folder = suite
    model = with_lora(LumoModel(make_base(), tokenizer.space))
    setup = Setup(model, tokenizer, folder, batch_size=2, max_text_tokens=12)
    return {name: run_suite(name, cases, setup) for name, cases in suites.items()}
