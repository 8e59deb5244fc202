"""Stage 4 without a notebook around it: for several processes, and for machines without JupyterLab."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from lumo import parallel, storage
from lumo.backbone import load_model
from lumo.files import write_atomically
from lumo.machine import device_of, use_threads
from lumo.model import ModelError
from lumo.params import Profile
from lumo.shards import read_shards
from lumo.tasks import Mixture, build_pools
from lumo.tokenizer import load_tokenizer
from lumo.training import Feed, Line, Progress, prepare, train


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
    """`stage4` in `profile.processes` processes beside this one, which only watches: for notebooks, whose own process may hold a GPU already.

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
    line = Line.model_validate_json(whole[-1])
    losses = {f"{task} loss": line.sums.mean(task) for task, loss in line.losses.items() if loss}
    return {"step": f"{line.step + 1} of {steps}", **losses, "tokens/s": line.tokens / line.seconds}
