"""One's own or a published dataset, adopted for a profile's codecs: the files, the manifest, and a profile that trains on it."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from lumo.codecs import load_codecs
from lumo.datasets import folder as own
from lumo.datasets import join as joining
from lumo.datasets.fitting import Adoption
from lumo.datasets.manifest import Row, stream_manifest
from lumo.datasets.published import Published
from lumo.datasets.splits import group_of
from lumo.files import write_atomically
from lumo.machine import cores
from lumo.params import Profile
from lumo.progress import OnProgress, untold
from lumo.tasks import TASKS


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a user may say of an `Adoption`, whose fields these are; the sizes are the codecs'.

    None: as the codecs' pictures were fitted in training, as the published dataset has it, or else `Adoption`'s own default
    """

    fit: str | None = None
    long: str | None = None
    golden: int | None = None
    license: str | None = None
    source: str | None = None
    subtype: str | None = None
    columns: Mapping[str, str] | None = None

    @property
    def said(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if value is not None}


NOTHING_SAID = Options()


def adopt(
    profile: Profile,
    folder: Path,
    captions: Path | Published,
    out: Path,
    options: Options = NOTHING_SAID,
    progress: OnProgress = untold,
    workers: int | None = None,
) -> tuple[own.Adopted, Path]:
    """Make a folder of pictures and sounds ready for this profile's codecs; see `datasets.folder.adopt`.

    workers: threads that make files, as many as there are cores if not given
    Beside the manifest it writes, unless there is one, `profile.yaml`: this profile with the manifest and the tasks that the data has.
    Returns what was adopted, and the profile's path. Raises ManifestError, CodecError and ParamsError.
    """
    how = Adoption.of(load_codecs(profile.codecs))
    if isinstance(captions, Published):
        how = replace(how, source=captions.name, license=captions.license, subtype=captions.subtype)
    how = replace(how, **options.said)
    result = own.adopt(folder, captions, out, how, progress, workers or cores())
    return result, _write_profile(profile, how.source, result.manifest, result.rows)


def join(profile: Profile, manifests: Sequence[Path], out: Path) -> tuple[own.Adopted, Path]:
    """Make one dataset of several that were adopted for this profile's codecs; see `datasets.join`.

    Beside the manifest it writes `profile.yaml`, as `adopt` does.
    Returns what was joined, and the profile's path. Raises ManifestError, CodecError, ParamsError, and MediaError for files of another size.
    """
    codecs = load_codecs(profile.codecs)
    result = joining.join(manifests, out, profile.data.golden_source, lambda medium, path: codecs[medium].read(path))
    return result, _write_profile(profile, out.name, result.manifest, result.rows)


def _write_profile(profile: Profile, name: str, manifest: Path, rows: Mapping[str, int]) -> Path:
    """`profile.yaml` beside a manifest, as `_content` says. One that is there is kept."""
    path = manifest.with_name("profile.yaml")
    text = yaml.safe_dump(_content(profile, name, manifest, rows), sort_keys=False)
    if not path.exists():
        write_atomically(path, text)
    elif path.read_text() != text:  # it may have been edited, or the data may have grown
        warnings.warn(
            f"{path} differs from what this data asks for, and is kept; remove it to have it written anew", stacklevel=3
        )
    return path


def _content(profile: Profile, name: str, manifest: Path, rows: Mapping[str, int]) -> dict[str, Any]:
    """This profile with the manifest and the tasks that the data has.

    rows: of the manifest, by what they have, and how many of them are golden
    """
    content = profile.model_dump(mode="json") | {"profile": name}
    content["data"]["manifest"] = str(manifest)
    kinds = {name: "+".join(task.media) for name, task in TASKS.items()}
    # what nothing is measured on isn't trained: of rows with both a dataset may have none that is golden
    there = {name: kind for name, kind in kinds.items() if rows[f"{kind} golden"]}
    content["golden"]["cases"] = min(content["golden"]["cases"], *(rows[f"{kind} golden"] for kind in there.values()))
    # a dozen recordings of each kind for the curves and ablations on data that was never trained on: a hash deals out these, not rows
    recordings = _recordings(manifest)
    fewest = min(recordings[kind] for kind in there.values())
    content["data"]["eval_share"] = max(content["data"]["eval_share"], min(0.3, 12 / fewest))
    for stage in ("warm_start", "stage4"):
        rates = content[stage]["rates"]
        if "i2t" in rates:
            rates.setdefault("ia2t", rates["i2t"])  # only the data knows of rows with both
        content[stage]["rates"] = {name: rate for name, rate in rates.items() if name in there}
    return content


def _recordings(manifest: Path) -> Counter[str]:
    """How many recordings there are of each kind of row (`image`, `audio`, `image+audio`); one may have several captions and clips."""
    rows = (row for _, row in stream_manifest(manifest) if isinstance(row, Row))
    pairs = {("+".join(name for name, _ in row.modalities.items()), group_of(row)) for row in rows}
    return Counter(kind for kind, _ in pairs)
