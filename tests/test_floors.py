"""The law of the floors: a module imports only from floors strictly below its own, lazy imports included.

Imports inside one package folder (codecs/, datasets/, show/, …) are its own business. Third parties stay in their rooms.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

LUMO = Path(__file__).resolve().parent.parent / "lumo"
FLOORS = {
    "__init__": 0,
    "files": 0,
    "hub_cache": 0,
    "progress": 0,
    "wording": 0,
    "space": 1,
    "media": 1,
    "patterns": 1,
    "params": 1,
    "machine": 1,
    "parallel": 1,
    "sequence": 2,
    "cache": 2,
    "lora": 2,
    "segments": 2,
    "watchdog": 2,
    "codecs": 2,
    "datasets": 2,
    "fidelity": 2,
    "tokenizer": 3,
    "batches": 3,
    "loss": 3,
    "full": 3,
    "decoder": 3,
    "static": 3,
    "shards": 4,
    "model": 4,
    "storage": 5,
    "backbone": 5,
    "generation": 5,
    "tasks": 6,
    "training": 7,
    "lengths": 7,
    "scores": 7,
    "footprint": 7,
    "preview": 7,
    "adoption": 7,
    "reach": 7,
    "golden": 8,
    "stages": 8,
    "audit": 8,
    "miniature": 8,
    "disk": 8,
    "ablation": 9,
    "plan": 9,
    "bench": 9,
    "show": 9,
    "pull": 10,
    "workbook": 10,
    "commands": 11,
    "__main__": 12,
}
# a third party → the rooms (modules, or files of a package) that may import it
ROOMS = {
    # bench: the stock ways are what it measures
    "transformers": {
        "model",
        "decoder",
        "static",
        "lora",
        "backbone",
        "tokenizer",
        "cache",
        "segments",
        "codecs",
        "miniature",
        "bench",
    },
    "diffusers": {"codecs/seed2"},
    "peft": {"model", "storage", "backbone", "lora", "bench"},
    # codecs: an error class of its config files
    "huggingface_hub": {"hub_cache", "pull", "codecs"},
    "tokenizers": {"miniature", "tokenizer"},
    "safetensors": {"storage", "lora", "backbone", "codecs", "miniature"},
    "webdataset": {"shards"},
    "ray": {"shards/ray_engine"},
    "pyarrow": {"datasets/parquet"},
    "soundfile": {"media"},
    "soxr": {"datasets/fitting"},
    "PIL": {"media", "datasets/fitting"},
    "pydantic": {"params", "datasets/manifest", "codecs/taming", "training/log", "pull"},
    "IPython": {"show", "workbook"},
    "ipywidgets": {"show"},
    "matplotlib": {"show"},
    "papermill": {"workbook"},
    "nbconvert": {"workbook"},
    "nbformat": {"workbook"},
    "nbclient": {"workbook"},
    "jupyter_client": {"workbook"},
}
NO_TORCH = {
    "files", "hub_cache", "progress", "wording", "space", "media", "patterns", "params", "sequence", "datasets", "fidelity", "shards", "scores", "show",
}  # fmt: skip


def imported(source: str) -> list[tuple[int, str]]:
    """(line, dotted name) of every import, wherever it stands; `from lumo import x` is an import of `lumo.x`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            whole = base == "lumo" or base.startswith(".")
            found += [(node.lineno, f"{base}.{alias.name}" if whole else base) for alias in node.names]
    return found


def faults(name: str, source: str) -> list[str]:
    """What breaks the law in a module; `name` is its path below lumo/ without the suffix: `codecs/encodec`."""
    room = name.split("/")[0]
    if room not in FLOORS:
        return [f"lumo/{name}.py: '{room}' stands on no floor; give it one in tests/test_floors.py"]
    found = []
    for line, target in imported(source):
        where, (party, *rest) = f"lumo/{name}.py:{line}", target.split(".")
        if target.startswith("."):
            found.append(f"{where}: relative import '{target}'; write lumo.… so that the floors can be seen")
        elif party == "lumo":
            other = rest[0] if rest else "__init__"
            if other not in FLOORS:
                found.append(f"{where}: imports '{other}', which stands on no floor")
            elif other != room and FLOORS[other] >= FLOORS[room]:
                found.append(f"{where}: floor {FLOORS[room]} imports '{other}' of floor {FLOORS[other]}")
        elif party in ROOMS and not ROOMS[party] & {room, name}:
            found.append(f"{where}: {party} belongs in {', '.join(sorted(ROOMS[party]))}")
        elif party == "torch" and room in NO_TORCH:
            found.append(f"{where}: '{room}' needs no torch")
    return found


MODULES = {str(path.relative_to(LUMO).with_suffix("")): path for path in sorted(LUMO.rglob("*.py"))}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_from_below(name):
    assert faults(name, MODULES[name].read_text()) == []


def test_every_floor_has_its_module():
    assert {name.split("/")[0] for name in MODULES} == set(FLOORS)


@pytest.mark.parametrize(
    ("name", "source", "fault"),
    [
        ("space", "from lumo.tokenizer import UnifiedTokenizer", "floor 1 imports 'tokenizer' of floor 3"),
        ("space", "from lumo import media", "floor 1 imports 'media' of floor 1"),
        ("space", "import lumo.shards", "imports 'shards'"),
        ("codecs/dac", "def f():\n    from lumo.tokenizer import x", "lumo/codecs/dac.py:2: floor 2 imports"),
        ("show/page", "if True:\n    import lumo.workbook.run as run", "imports 'workbook'"),
        ("golden", "from . import ablation", "relative import"),
        ("codecs/dac", "from .encodec import x", "relative import"),
        ("tasks", "from lumo.nowhere import x", "imports 'nowhere', which stands on no floor"),
        ("nowhere", "", "'nowhere' stands on no floor"),
        ("tasks", "def f():\n    import transformers.models", "transformers belongs in"),
        ("training", "from peft import LoraConfig", "peft belongs in backbone, bench, lora, model, storage"),
        ("golden", "from IPython.display import Audio", "IPython belongs in show, workbook"),
        ("show/live", "import papermill", "papermill belongs in workbook"),
        ("datasets/world", "from torch import nn", "'datasets' needs no torch"),
    ],
)
def test_the_law_sees_what_breaks_it(name, source, fault):
    assert [fault in found for found in faults(name, source)] == [True]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("codecs/__init__", "from lumo.codecs.encodec import EncodecCodec"),
        ("shards", "from lumo.tokenizer import x\nimport numpy"),
        ("codecs/encodec", "import torch, transformers"),
    ],
)
def test_the_law_lets_the_rest_be(name, source):
    assert faults(name, source) == []


def test_the_ground_needs_no_torch():
    modules = ["space", "media", "patterns", "params", "files", "sequence", "codecs"]
    modules += ["datasets.world", "datasets.readers", "datasets.manifest", "scores"]
    script = f"import sys, {', '.join(f'lumo.{m}' for m in modules)}\nprint(sorted({{'torch', 'transformers'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, cwd=LUMO.parent)
    assert done.stdout.strip() == "[]", done
