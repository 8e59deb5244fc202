"""The pull list: which weights and datasets a real run wants, where each is, and what a person must do for it.

The list is data, `list.yaml` beside this file, checked by the models below: an unknown key is refused. What comes from the
Hugging Face hub is fetched by `lumo.pull.hub` into `weights/NAME` (`data/NAME` for datasets), where a profile's `path` finds
it; everything else is listed with the steps that a person takes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from lumo.params import ParamsError, read_yaml

LIST = Path(__file__).resolve().parent / "list.yaml"

Text = Annotated[str, Field(min_length=1)]
# names become folders, and stand in profiles
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Priority = Literal["P0", "P1", "P2"]


class PullError(ValueError):
    """What can't be fetched, or isn't what it should be; the message is one line for each thing."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Hub(_Model):
    """A repository on the Hugging Face hub.

    revision: a branch, a tag or a commit; of a branch, the first fetch keeps the commit that it stood at
    files: patterns (`*` also crosses `/`); a file that none matches stays where it is
    """

    repo: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    revision: Text = "main"
    files: Annotated[tuple[Text, ...], Field(min_length=1)]


class ByHand(_Model):
    """What isn't on the hub, or may not be fetched for someone: where it is, and what a person does.

    file: what is in the folder when it was done; None takes anything there for a sign
    """

    url: Annotated[str, Field(pattern=r"^https://")]
    steps: Text
    file: Name | None = None


class Entry(_Model):
    """One thing to pull.

    bytes: about how large it is, None where nobody said; the hub says it exactly when asked
    into: the folder, where it isn't called like the entry because another part looks for it there
    gated: whether its owner wants terms accepted first, None where unknown; the hub says it when asked
    """

    name: Name
    priority: Priority
    kind: Literal["backbone", "codec", "decoder", "judge", "reference", "dataset", "code"]
    licence: Text
    gated: bool | None
    bytes: Annotated[int, Field(gt=0)] | None = None
    into: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w-]*(/[A-Za-z0-9][\w-]*)*$")] | None = None
    hub: Hub | None = None
    by_hand: ByHand | None = None
    note: str = ""

    @model_validator(mode="after")
    def _one_source(self) -> Entry:
        if (self.hub is None) == (self.by_hand is None):
            raise ValueError("expected either hub or by_hand")
        return self

    @property
    def repo_type(self) -> str:
        """The hub's own word for the kind of repository."""
        return "dataset" if self.kind == "dataset" else "model"

    @property
    def page(self) -> str:
        """Where a person reads about it, and accepts its terms."""
        if self.by_hand:
            return self.by_hand.url
        return f"https://huggingface.co/{'datasets/' if self.repo_type == 'dataset' else ''}{self.hub.repo}"

    @property
    def folder(self) -> Path:
        """Where it goes, below the project; git ignores `data/` and `weights/`."""
        return Path("data" if self.kind == "dataset" else "weights") / (self.into or self.name)


def read_list(path: Path = LIST) -> list[Entry]:
    """The entries in their order. Raises PullError with one line for each fault."""
    try:
        entries = TypeAdapter(list[Entry]).validate_python(read_yaml(path))
    except ParamsError as error:
        raise PullError(str(error)) from error
    except ValidationError as error:
        faults = ((".".join(map(str, fault["loc"])) or "the file", fault["msg"]) for fault in error.errors())
        lines = [f"{path}: {where}: {reason}" for where, reason in faults]
        raise PullError("\n".join(lines)) from error
    twice = [name for name, count in Counter(entry.name.lower() for entry in entries).items() if count > 1]
    if twice:
        raise PullError(f"{path}: {', '.join(twice)} appears twice; names are folders, give each its own")
    return entries


def choose(entries: Sequence[Entry], words: Sequence[str]) -> list[Entry]:
    """The entries that are named, or whose priority is, in the list's order; letters' case doesn't matter.

    Raises PullError for a word that is neither.
    """
    wanted = {word.lower() for word in words}
    known = {entry.name.lower() for entry in entries} | {entry.priority.lower() for entry in entries}
    if unknown := sorted(wanted - known):
        raise PullError(f"nothing is called {', '.join(unknown)}; `lumo pull` lists the names, or say P0, P1 or P2")
    return [entry for entry in entries if {entry.name.lower(), entry.priority.lower()} & wanted]
