"""LLaVA-Pretrain: `blip_laion_cc_sbu_558k.json`, a list of {"id", "image": "00453/004539375.jpg", "conversations": [{"from": "human", "value":
a request with <image>}, {"from": "gpt", "value": the caption}]}. Source: https://huggingface.co/datasets/liuhaotian/LLaVA-Pretrain
"""

from __future__ import annotations

from lumo.datasets.formats.reading import Files, json_of, named, objects, stem
from lumo.datasets.manifest import ManifestError
from lumo.datasets.table import Lines


def read(files: Files, left_out: list[str]) -> Lines:
    for path in files.named("blip_laion_cc_sbu_558k.json"):
        for where, row in objects(path, json_of(path), {"id": str, "image": str, "conversations": list}, left_out):
            with named(where, left_out):
                turns = row["conversations"]
                if [turn.get("from") if isinstance(turn, dict) else turn for turn in turns] != ["human", "gpt"]:
                    raise ManifestError("expected one turn of human and one of gpt; mend the row")
                line = {
                    "file": files.picture(stem(row["image"])),
                    "caption": turns[1].get("value"),
                    "id": f"llava-pretrain-{row['id']}",
                }
                yield where, line
