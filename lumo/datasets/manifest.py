"""The manifest: one JSON object a line, checked; what is wrong is named and left out, and stops nothing.

{"id": …, "modalities": {"image": {"path", "meta"}, "audio": {"path", "meta"}},
 "text": {"caption", "instruction", "response"}, "task": …, "source": …, "license": …, "subtype": "speech"|"sfx"|"music"}
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class ManifestError(ValueError):
    """A manifest or a row that can't be used; the message is one line."""


class Medium(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    path: str = Field(min_length=1)
    meta: dict[str, Any] = {}


class Modalities(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    image: Medium | None = None
    audio: Medium | None = None

    def items(self) -> list[tuple[str, Medium]]:
        return [(name, medium) for name, medium in (("image", self.image), ("audio", self.audio)) if medium]


class Text(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    caption: str | None = None
    instruction: str | None = None
    response: str | None = None


class Row(BaseModel):
    """One sample as a dataset describes it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    id: str = Field(min_length=1)
    modalities: Modalities
    text: Text
    task: str
    source: str
    license: str
    subtype: Literal["speech", "sfx", "music"] | None = None


def read_manifest(path: Path) -> tuple[list[Row], list[str]]:
    """Rows, and one line for each row that was left out. Raises ManifestError when there is no manifest at all."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: can't be read ({error}); expected a manifest, one JSON object a line") from error
    rows, left_out, seen = [], [], set()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = Row.model_validate(json.loads(line))
            if not (row.text.caption or "").strip():
                raise ValueError(f"'{row.id}' has an empty caption, expected words")
            if not row.modalities.items():
                raise ValueError(f"'{row.id}' has neither image nor audio")
            if row.id in seen:
                raise ValueError(f"id '{row.id}' stands there twice, the first is kept")
        except ValidationError as error:
            first = error.errors()[0]
            left_out.append(f"{path.name}:{number}: {'.'.join(map(str, first['loc']))}: {first['msg'].lower()}")
        except ValueError as error:
            left_out.append(f"{path.name}:{number}: {error}")
        else:
            seen.add(row.id)
            rows.append(row)
    return rows, left_out


def inside(folder: Path, relative: str) -> Path:
    """A path that stands in a manifest, within the manifest's folder. Raises ManifestError for one that leaves it."""
    path = (folder / relative).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ManifestError(f"{relative}: leaves the manifest's folder {folder}; put the file inside it")
    return path
