"""The manifest: one JSON object a line, checked; what is wrong is named and left out, and stops nothing.

{"id": …, "modalities": {"image": {"path", "meta"}, "audio": {"path", "meta"}},
 "text": {"caption", "instruction", "response"}, "task": …, "source": …, "license": …, "subtype": "speech"|"sfx"|"music"}
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError


def _plain(value: str) -> str:
    """Ids and paths are named in messages of one line."""
    if not value or re.search(r"[\x00-\x1f\x7f]", value):
        raise ValueError(f"got {value!r}, expected a name without control characters")
    return value


Plain = Annotated[str, AfterValidator(_plain)]


class ManifestError(ValueError):
    """A manifest or a row that can't be used; the message is one line."""


class Medium(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    path: Plain
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
    id: Plain
    modalities: Modalities
    text: Text
    task: str
    source: str
    license: str
    subtype: Literal["speech", "sfx", "music"] | None = None


def check_row(content: dict[str, Any]) -> Row:
    """A row as the manifest will hold it. Raises ManifestError."""
    try:
        return Row.model_validate(content)
    except ValidationError as error:
        raise ManifestError(f"{_fault(error)}; mend the row") from error


def _fault(error: ValidationError) -> str:
    first = error.errors()[0]
    key = " ".join(".".join(map(str, first["loc"])).split())
    reason = first["msg"].removeprefix("Value error, ")
    return f"{f'{key}: ' if key else ''}{reason[0].lower()}{reason[1:]}"


def read_manifest(path: Path) -> tuple[list[Row], list[str]]:
    """Rows, and one line for each row that was left out. Raises ManifestError when there is no manifest at all."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # not splitlines: a caption may hold U+2028
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: can't be read ({error}); expected a manifest, one JSON object a line") from error
    rows, left_out, seen = [], [], set()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = Row.model_validate_json(line)
            if not (row.text.caption or "").strip():
                raise ValueError(f"'{row.id}' has an empty caption, expected words")
            if not row.modalities.items():
                raise ValueError(f"'{row.id}' has neither image nor audio")
            if row.id in seen:
                raise ValueError(f"id '{row.id}' stands there twice, the first is kept")
        except ValidationError as error:
            left_out.append(f"{path.name}:{number}: {_fault(error)}; mend the row")
        except ValueError as error:
            left_out.append(f"{path.name}:{number}: {error}; mend the row")
        else:
            seen.add(row.id)
            rows.append(row)
    return rows, left_out


def inside(folder: Path, relative: str) -> Path:
    """A path that stands in a manifest, within the manifest's folder. Raises ManifestError for one that leaves it."""
    try:
        path = (folder / relative).resolve()
    except (OSError, ValueError, RuntimeError) as error:  # a loop of links, a null byte
        raise ManifestError(f"{relative!r}: no path ({error}); name a file in the manifest's folder") from error
    if not path.is_relative_to(folder.resolve()):
        raise ManifestError(f"{relative}: leaves the manifest's folder {folder}; put the file inside it")
    return path
