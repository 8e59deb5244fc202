"""Whole stages without a notebook around them: for several processes, for machines without JupyterLab, for one's own data."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lumo import parallel, storage
from lumo.backbone import load_model
from lumo.codecs import load_codecs
from lumo.datasets import folder as own
from lumo.datasets import join as joining
from lumo.datasets.fitting import Adoption
from lumo.datasets.manifest import Row, stream_manifest
from lumo.datasets.published import Published
from lumo.datasets.splits import group_of
from lumo.files import write_atomically
from lumo.machine import cores, device_of, use_threads
from lumo.model import ModelError
from lumo.params import Profile
from lumo.shards import read_shards
from lumo.tasks import TASKS, Mixture, build_pools
from lumo.tokenizer import load_tokenizer
from lumo.training import Feed, Progress, prepare, train


def stage4(profile: Profile, artifacts: Path, show: Callable[[Progress], None]) -> dict[str, Any]:
    """Train rows and LoRA, or the backbone, as notebook 04 does, from a run's shards and warm start; a run that was cut goes on.

    artifacts: the folder in which notebooks 02 and 03 left `shards/` and `warm_start/`; `stage4/` appears beside them, and
        notebook 04 then shows it instead of training again
    Started by `torchrun` or `accelerate launch`, the processes share every batch and give a single process's losses.
    Raises what `train` raises, and ShardError or ModelError for an artifact that isn't there.
    """
    params = profile.stage4
    parallel.join(device_of(profile.device))  # first: it says which GPU is this process's
    use_threads(profile.threads // parallel.size())  # they share the cores
    tokenizer = load_tokenizer(profile)
    space = tokenizer.space
    model = load_model(profile, space)
    storage.load(model, artifacts / "warm_start" / "final")
    prepare(model, params, profile.seed)
    pools = build_pools(
        read_shards(artifacts / "shards", "train", space),
        list(params.rates),
        space,
        params.max_seq_len,
        params.shorten_inputs,
    )
    mixture = Mixture(params.rates, params.ramp_steps)
    feed = Feed(pools, mixture, params.tokens_per_batch, space, profile.seed, params.corruption)
    return train(model, feed, params, artifacts / "stage4", profile.seed, show)


def shared_stage4(profile: Profile, folder: Path, show: Callable[[dict[str, Any]], Any]) -> None:
    """The same by `profile.processes` processes beside this one, which only watches: for notebooks, whose own process may hold a GPU already.

    folder: the run's; show: gets the newest line of `stage4/log.jsonl` as a table's row
    An interrupt stops the processes too, and the next call goes on from their last checkpoint. Raises ModelError when one of them fails.
    """
    artifacts = folder / "artifacts"
    resolved, log = artifacts / "stage4.yaml", artifacts / "stage4" / "log.jsonl"
    write_atomically(resolved, yaml.safe_dump(profile.model_dump(mode="json"), sort_keys=False))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={profile.processes}"]
    train = ["-m", "lumo", "train", str(folder), "--profile", str(resolved)]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen([*launcher, *train], stdout=subprocess.DEVNULL, stderr=said, text=True)
        try:
            while process.poll() is None:
                time.sleep(1)
                if row := _newest(log, profile.stage4.steps):
                    show(row)
        finally:
            process.terminate()  # torchrun hands it on to all of them
            process.wait()
        if process.returncode:
            said.seek(0)
            # what lumo says, or torch with the process's number before it; else what the system did to it
            told = r"^(?:\[rank\d+\]: )?([\w.]+Error: .+)|(Signal \d+ \(\w+\))"
            found = re.search(told, said.read(), re.MULTILINE)
            reason = (found[1] or found[2]) if found else f"exit status {process.returncode}"
            raise ModelError(f"stage 4 in {profile.processes} processes: {reason}")


def _newest(log: Path, steps: int) -> dict[str, Any] | None:
    """The last whole line of a log that is being written, as a row."""
    whole = log.read_text().rpartition("\n")[0].splitlines() if log.is_file() else []
    if not whole:
        return None
    line = json.loads(whole[-1])
    losses = {f"{task} loss": loss / line["target_tokens"][task] for task, loss in line["losses"].items() if loss}
    return {"step": f"{line['step'] + 1} of {steps}", **losses, "tokens/s": line["tokens"] / line["seconds"]}


def adopt(
    profile: Profile,
    folder: Path,
    captions: Path | Published,
    out: Path,
    show: Callable[[int, int], None] = lambda done, of: None,
    workers: int | None = None,
    **how: Any,
) -> tuple[own.Adopted, Path]:
    """Make a folder of pictures and sounds ready for this profile's codecs; see `datasets.folder.adopt`.

    workers: threads that make files, as many as there are cores if not given
    how: fields of `datasets.fitting.Adoption` but for the sizes, which are the codecs'
    A published dataset has its own source, licence and subtype.
    Beside the manifest it writes, unless there is one, `profile.yaml`: this profile with the manifest and the tasks that the data has.
    Returns what was adopted, and the profile's path. Raises ManifestError, CodecError and ParamsError.
    """
    codecs = load_codecs(profile.codecs)
    if isinstance(captions, Published):
        how = {"source": captions.name, "license": captions.license, "subtype": captions.subtype} | how
    wanted = Adoption.of(codecs, **how)
    result = own.adopt(folder, captions, out, wanted, show, workers or cores())
    return result, _write_profile(profile, wanted.source, result.manifest, result.rows)


def join(profile: Profile, manifests: Sequence[Path], out: Path) -> tuple[own.Adopted, Path]:
    """Make one dataset of several that were adopted for this profile's codecs; see `datasets.join`.

    Beside the manifest it writes `profile.yaml`, as `adopt` does.
    Returns what was joined, and the profile's path. Raises ManifestError, CodecError, ParamsError, and MediaError for files of another size.
    """
    codecs = load_codecs(profile.codecs)
    result = joining.join(manifests, out, profile.data.golden_source, lambda medium, path: codecs[medium].read(path))
    return result, _write_profile(profile, out.name, result.manifest, result.rows)


def _write_profile(profile: Profile, name: str, manifest: Path, rows: Mapping[str, int]) -> Path:
    """`profile.yaml` beside a manifest: this profile with the manifest and the tasks that the data has. One that is there is kept.

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
    path, text = manifest.with_name("profile.yaml"), yaml.safe_dump(content, sort_keys=False)
    if not path.exists():
        write_atomically(path, text)
    elif path.read_text() != text:  # it may have been edited, or the data may have grown
        warnings.warn(
            f"{path} differs from what this data asks for, and is kept; remove it to have it written anew", stacklevel=3
        )
    return path


def _recordings(manifest: Path) -> Counter[str]:
    """How many recordings there are of each kind of row (`image`, `audio`, `image+audio`); one may have several captions and clips."""
    rows = (row for _, row in stream_manifest(manifest) if isinstance(row, Row))
    pairs = {("+".join(name for name, _ in row.modalities.items()), group_of(row)) for row in rows}
    return Counter(kind for kind, _ in pairs)
