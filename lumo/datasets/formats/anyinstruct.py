"""AnyInstruct's spoken dialogues: `speech_conv/metadata.jsonl`, {"chat": [{"role": "USER" or "AnyGPT", "message", "speech":
"chunk_00000/0001.mp3"}]}. Source: https://huggingface.co/datasets/OpenMOSS-Team/AnyInstruct, the fields as in
https://github.com/fixie-ai/ultravox (ultravox/data/datasets.py, AnyInstructDataset)

Each turn is a row by itself, sound and the words that it says; who answers whom is no task here. Dialogues with pictures and music (part1,
part2) aren't read, which the list of what was left out says: their keys aren't written down anywhere, and a turn that answers with a picture is
no caption of it.
"""

from __future__ import annotations

import json
from typing import Any

from lumo.datasets.formats.prompts import SPEECH, prompt
from lumo.datasets.formats.reading import Files, named, objects, stem, text_of
from lumo.datasets.manifest import ManifestError
from lumo.datasets.table import Lines


def read(files: Files, left_out: list[str]) -> Lines:
    left_out += [
        f"{path.parent.name}/{path.name}: dialogues with pictures and music, not read"
        for path in files.any_named("metadata.json")
    ]
    for path in files.named("metadata.jsonl"):
        place = path.parent.relative_to(files.folder).as_posix()  # part1 and part2 have sounds of the same names
        for number, text in enumerate(text_of(path).rstrip("\n").split("\n"), start=1):
            turns: list[tuple[str, dict[str, Any]]] = []
            with named(f"{path.name}:{number}", left_out):
                turns = list(objects(path, _chat(text), {"message": str, "speech": str}, left_out, f"{number}"))
            for where, turn in turns:
                with named(where, left_out):
                    name = stem(turn["speech"])
                    line = {
                        "file": files.sound(f"{place}/speech/{name}", f"{place}/{name}", name),
                        "caption": prompt(SPEECH, turn["message"], name),
                        "id": f"anyinstruct-{name}",
                        "group": f"anyinstruct/{number}",
                    }
                    yield where, line


def _chat(text: str) -> Any:
    """Raises ManifestError."""
    try:
        return json.loads(text)["chat"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ManifestError(f"no chat ({error}), expected {{'chat': [turns]}}; mend the row") from error
