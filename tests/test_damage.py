"""Checkpoints that somebody has edited, or that a copy has left half there: one line names the folder, and nothing goes on without them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import runs
import torch
from conftest import make_base
from refusals import check_line
from safetensors.torch import load_file, save_file

from lumo import storage
from lumo.model import LumoModel, ModelError
from lumo.space import SpaceError
from lumo.training import summary
from lumo.training.log import read_log, trim_log

Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def cut(tokenizer, samples, tmp_path_factory) -> Path:
    """A run with LoRA that was killed after two checkpoints."""
    folder = tmp_path_factory.mktemp("cut") / "run"
    with pytest.raises(runs.Killed):
        runs.run(folder, samples, tokenizer.space, runs.STAGE4, show=runs.cut_at(6))
    return folder


@pytest.fixture
def last(cut, tmp_path) -> Path:
    """The last checkpoint of a copy of it."""
    return shutil.copytree(cut, tmp_path / "run") / "checkpoint_000004"


def gone(name: str) -> Damage:
    return lambda folder: os.remove(folder / name)


def written(name: str, content: object) -> Damage:
    return lambda folder: (folder / name).write_text(json.dumps(content))


def changed(name: str, **values: object) -> Damage:
    return lambda folder: written(name, json.loads((folder / name).read_text()) | values)(folder)


class Code:
    """What a pickle may do, if it is let."""

    def __reduce__(self):
        return os.abort, ()


def tensors(name: str, change: Callable[[dict], dict]) -> Damage:
    return lambda folder: save_file(change(load_file(folder / name)), folder / name)


def saved(content: object) -> Damage:
    return lambda folder: torch.save(content, folder / "optimiser.pt")


def optimiser(change: Callable[[dict], object]) -> Damage:
    def edit(folder: Path) -> None:
        state = torch.load(folder / "optimiser.pt", weights_only=True)
        change(state)
        torch.save(state, folder / "optimiser.pt")

    return edit


ROWS, CARD, SPACE = "trainable_rows.safetensors", "trainable_rows.json", "token_space.json"
LORA, CONFIG = "adapter/adapter_model.safetensors", "adapter/adapter_config.json"
OF_MODEL = {
    "rows gone": gone(ROWS),
    "a row for all": tensors(ROWS, lambda rows: {"new_rows": rows["new_rows"][:1].clone()}),
    "a row less": tensors(ROWS, lambda rows: {"new_rows": rows["new_rows"][1:].clone()}),
    "rows of another name": tensors(ROWS, lambda rows: {"rows": rows["new_rows"]}),
    "card gone": gone(CARD),
    "card is a list": written(CARD, []),
    "card names another part": changed(CARD, parts=["backbone"]),
    "adapter gone": lambda folder: shutil.rmtree(folder / "adapter"),
    "adapter's weights gone": gone(LORA),
    "adapter's weights as a pickle": lambda folder: (folder / LORA).rename(folder / "adapter/adapter_model.bin"),
    "adapter's tensor gone": tensors(LORA, lambda lora: dict(list(lora.items())[1:])),
    "adapter's tensor of another shape": tensors(LORA, lambda lora: {k: v[:, :1].clone() for k, v in lora.items()}),
    "token space gone": gone(SPACE),
    "token space is a list": written(SPACE, []),
    "token space with text for a size": changed(SPACE, text_size="768"),
}
OF_CONFIG = {
    "config gone": gone(CONFIG),
    "config is a list": written(CONFIG, []),
    "config with text for a rank": changed(CONFIG, r="x"),
    "config of another rank": changed(CONFIG, r=3),
    "config of another method": changed(CONFIG, peft_type="PREFIX_TUNING"),
    "config of no method": changed(CONFIG, peft_type="x"),
}
OF_RUN = {
    "state gone": gone("state.json"),
    "state is a list": written("state.json", []),
    "step as text": changed("state.json", step="4"),
    "another step": changed("state.json", step=5),
    "run is a list": changed("state.json", run=["a"]),
    "run is nothing": changed("state.json", run=None),
    "optimiser gone": gone("optimiser.pt"),
    "optimiser is empty": saved({}),
    "optimiser is a list": saved([1]),
    "optimiser is code": saved(Code()),
    "a parameter's moments gone": optimiser(lambda kept: kept["state"].pop("new_rows")),
    "a moment of another shape": optimiser(lambda kept: kept["state"]["new_rows"].update(exp_avg=torch.zeros(3))),
    "a moment is a number": optimiser(lambda kept: kept["state"]["new_rows"].update(exp_avg_sq=0.0)),
    "groups gone": optimiser(lambda kept: kept.pop("param_groups")),
}


def refused_by(last: Path, run: Callable[[], object]) -> None:
    with pytest.raises((ModelError, SpaceError)) as caught:
        run()
    check_line(str(caught.value), str(last))


@pytest.mark.parametrize("damage", OF_MODEL | OF_RUN)
def test_a_run_does_not_go_on_from_a_damaged_checkpoint(tokenizer, samples, last, damage):
    (OF_MODEL | OF_RUN)[damage](last)
    refused_by(last, lambda: runs.run(last.parent, samples, tokenizer.space, runs.STAGE4))
    assert (last.parent / "checkpoint_000002").is_dir() and last.is_dir(), "nothing is thrown away"


@pytest.mark.parametrize("damage", OF_MODEL | OF_CONFIG)
def test_a_model_is_not_loaded_from_a_damaged_checkpoint(tokenizer, last, damage, recwarn):
    (OF_MODEL | OF_CONFIG)[damage](last)
    refused_by(last, lambda: storage.load(LumoModel(make_base(), tokenizer.space), last))


def test_a_checkpoint_whose_card_names_no_parts_is_loaded(tokenizer, last):
    """As lumo wrote them before 0.4."""
    card = json.loads((last / CARD).read_text())
    assert card.pop("parts") == ["adapter"]
    written(CARD, card)(last)
    model = LumoModel(make_base(), tokenizer.space)
    storage.load(model, last)
    assert len(model.lora_parameters()) == 28


def test_what_is_no_checkpoint_is_left_alone(tokenizer, samples, last):
    """And a million steps don't stand before the second one."""
    folder = last.parent
    (folder / "checkpoint_mine").mkdir()
    last.rename(folder / "checkpoint_1000000")
    changed("state.json", step=1_000_000)(folder / "checkpoint_1000000")
    (folder / "checkpoint_000002").rename(folder / "checkpoint_999999")
    steps = []
    runs.run(folder, samples, tokenizer.space, runs.STAGE4, show=lambda progress: steps.append(progress))
    assert steps == [] and (folder / "checkpoint_mine").is_dir()


NUMBERS = '"tokens": 1, "seconds": 1.0, "real_share": 1.0'


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]\n", '{"step": 0}\n', "\0\0\n", "\xff\n", f'{{"step": 2, "losses": 5, "target_tokens": {{}}, {NUMBERS}}}',
     f'{{"step": 2, "losses": {{"a2t": "x"}}, "target_tokens": {{}}, {NUMBERS}}}'],
)  # fmt: skip
def test_a_damaged_log_is_refused_before_the_steps_that_are_left(tokenizer, samples, last, content):
    log = last.parent / "log.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join([*lines[:2], content.rstrip("\n") + "\n", *lines[3:]]), encoding="latin-1")
    damaged = log.read_bytes()
    with pytest.raises(ModelError) as caught:
        runs.run(last.parent, samples, tokenizer.space, runs.STAGE4, show=runs.cut_at(5))
    check_line(str(caught.value), str(log), "can't be read", "mend it or put it back")
    assert log.read_bytes() == damaged


def test_a_log_that_is_gone_is_said_and_costs_no_training(tokenizer, samples, last):
    (last.parent / "log.jsonl").unlink()
    with pytest.warns(UserWarning, match=r"log\.jsonl lacks 4 of 4 steps; losses and curves are without them"):
        _, result = runs.run(last.parent, samples, tokenizer.space, runs.STAGE4)
    assert result["tokens"] > 0 and (last.parent / "final").is_dir()
    assert [line.step for line in read_log(last.parent / "log.jsonl")] == [4, 5, 6]
    (last.parent / "log.jsonl").unlink()
    with pytest.raises(ModelError) as caught:
        summary(last.parent / "log.jsonl", 1)
    check_line(str(caught.value), "log.jsonl: can't be read")


def test_a_log_keeps_the_steps_before_however_many_lines_are_gone(tmp_path):
    lines = [
        {"step": n, "losses": {}, "target_tokens": {}, "tokens": 1, "seconds": 1.0, "real_share": 1.0}
        for n in range(4, 10)
    ]
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 10, "lo')
    with pytest.warns(UserWarning, match="lacks 4 of 8 steps"):
        trim_log(log, 8)
    assert [line.step for line in read_log(log)] == [4, 5, 6, 7]


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), PermissionError(13, "Permission denied")]
)
def test_a_checkpoint_is_not_called_damaged_for_what_it_cannot_help(tokenizer, last, monkeypatch, error):
    def failing(*_, **__):
        raise error

    monkeypatch.setattr("lumo.storage.load_file", failing)
    with pytest.raises(type(error)):
        storage.load(LumoModel(make_base(), tokenizer.space), last)
