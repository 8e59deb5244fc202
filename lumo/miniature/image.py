"""Train the miniature's image codec on the world's pictures.

Axes: b picture · h w pixel.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lumo.codecs.finite import FiniteAutoencoder, FiniteConfig
from lumo.datasets import world


def pictures(count: int, seed: int) -> Tensor:
    """Pictures of combinations that are in training: float32 [count 3 h w] in -1…1."""
    rng = np.random.default_rng(seed)
    seen = world.seen("image")
    drawn = [world.draw(seen[rng.integers(len(seen))], rng).pixels for _ in range(count)]
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).float() / 127.5 - 1


def train(
    folder: Path, minutes: float, seed: int = 0, learning_rate: float = 2.0e-3, batch: int = 32
) -> FiniteAutoencoder:
    """Train for a given wall time and save to `folder`; the log goes to `folder/log.jsonl`."""
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    model = FiniteAutoencoder(FiniteConfig()).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0)
    pool, check = pictures(6000, seed), pictures(64, seed + 1)
    folder.mkdir(parents=True, exist_ok=True)
    started, step = time.perf_counter(), 0
    with (folder / "log.jsonl").open("a") as log:
        while (done := (time.perf_counter() - started) / (minutes * 60)) < 1:
            for group in optimiser.param_groups:
                group["lr"] = learning_rate * min(1.0, (step + 1) / 100) * min(1.0, 0.02 + (1 - done) / 0.6)
            target = pool[torch.randint(len(pool), (batch,), generator=rng)]
            latent = model.latent(target)
            # noise of half a level at first, then rounding with a straight-through gradient
            noise = torch.rand(latent.shape, generator=rng) - 0.5
            levels = latent + noise if done < 0.2 else latent + (latent.round() - latent).detach()
            output = model.paint(levels)
            # a shape covers a twentieth of a picture: what differs from the ground weighs more
            weight = 1 + 4 * ((target - target[:, :, :1, :1]).abs().amax(1, keepdim=True) > 0.1)
            loss = (F.smooth_l1_loss(output, target, beta=0.1, reduction="none") * weight).mean()
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            step += 1
            if step % 200 == 0:
                with torch.no_grad():
                    error = F.mse_loss(model.decode(model.encode(check)).clamp(-1, 1), check)
                row = {
                    "step": step,
                    "done": round(done, 4),
                    "loss": loss.item(),
                    "psnr_db": float(10 * torch.log10(4 / error)),
                }
                print(json.dumps(row), file=log, flush=True)
    model.eval().save(folder)
    return model
