"""Train an EnCodec small enough for two cores; not yet the codec that the miniature ships (CHANGELOG.md says why).

The network is transformers' `EncodecModel`; the same adapter loads it as loads Meta's. What is ours is the training:
L1 on the wave and multi-scale spectral losses (Défossez et al. 2022, section 3.4, without the adversary), no quantiser
in the first half, then residual vector quantisation with k-means initialisation and moving averages (van den Oord et
al. 2017, appendix A).

Axes: b clip · t frame · d channel of the latent · k codebook.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import EncodecConfig, EncodecModel

from lumo.datasets import world
from lumo.miniature.spectral import clips

CONFIG = {
    "sampling_rate": world.SAMPLE_RATE_HZ,
    "audio_channels": 1,
    "normalize": False,
    "num_filters": 24,
    "hidden_size": 64,
    "num_lstm_layers": 1,
    # two long strides: after 400 steps at -6 dB SI-SDR, where 8, 5, 4 and 2 (and a third of the filters) were at -44 dB
    "upsampling_ratios": [40, 8],
    "codebook_size": 256,
    "codebook_dim": 64,
    # 50 frames/s x 8 bits: each codebook costs 0.4 kbit/s, so the bandwidth chooses 1, 2, 3 or 4 of them
    "target_bandwidths": [0.4, 0.8, 1.2, 1.6],
}
QUANTISED_FROM = 0.4  # of the time
LOG_EVERY, SAVE_EVERY = 100, 500  # steps


def spectral_loss(output: Tensor, target: Tensor) -> Tensor:
    """Distance of magnitudes, linear and logarithmic, over windows of 8 to 128 ms. Arguments: [b samples]."""
    total = output.new_zeros(())
    for window in (128, 512, 2048):
        hann = torch.hann_window(window)
        spectra = [
            torch.stft(wave, window, window // 4, window=hann, return_complex=True).abs() / window**0.5
            for wave in (output, target)
        ]
        total = total + F.l1_loss(*spectra) * 4 + F.l1_loss(*(torch.log(s + 1e-3) for s in spectra)) * 0.25
    return total


class ResidualQuantiser(nn.Module):
    """Residual vector quantisation that learns, over the codebooks of an `EncodecModel` (which itself only encodes).

    Codebooks are moving averages of the vectors that chose them; a code that dies is put on a vector of the batch.
    """

    def __init__(self, model: EncodecModel, decay: float = 0.98):
        super().__init__()
        self.books = [layer.codebook for layer in model.quantizer.layers]
        self.decay = decay

    @torch.no_grad()
    def initialise(self, latents: Tensor, rng: torch.Generator, rounds: int = 20) -> None:
        """k-means on the residuals, book after book. latents: [n d]."""
        residual = latents.clone()
        for book in self.books:
            size = book.embed.shape[0]
            centres = residual[torch.randperm(len(residual), generator=rng)[:size]].clone()
            for _ in range(rounds):
                nearest = torch.cdist(residual, centres).argmin(1)
                count = torch.bincount(nearest, minlength=size).float()
                sums = torch.zeros_like(centres).index_add_(0, nearest, residual)
                empty = count == 0
                centres = sums / count.clamp(min=1)[:, None]
                centres[empty] = residual[torch.randint(len(residual), (int(empty.sum()),), generator=rng)]
            book.embed.copy_(centres)
            book.embed_avg.copy_(centres * 4)
            book.cluster_size.fill_(4)
            book.inited.fill_(True)
            residual = residual - centres[torch.cdist(residual, centres).argmin(1)]

    def forward(self, latents: Tensor, books: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """[b d t] → quantised [b d t] with straight-through gradients, and the commitment loss."""
        vectors = latents.transpose(1, 2).reshape(-1, latents.shape[1])
        residual, commitment = vectors, 0.0
        quantised = torch.zeros_like(vectors)
        for book in self.books[:books]:
            chosen = torch.cdist(residual.detach(), book.embed).argmin(1)
            step = book.embed[chosen]
            commitment = commitment + F.mse_loss(residual, step)
            if self.training:
                self._follow(book, residual.detach(), chosen, rng)
            quantised = quantised + step
            residual = residual - step
        quantised = vectors + (quantised - vectors).detach()
        return quantised.reshape(latents.shape[0], -1, latents.shape[1]).transpose(1, 2), commitment

    @torch.no_grad()
    def _follow(self, book, vectors: Tensor, chosen: Tensor, rng: torch.Generator) -> None:
        size = book.embed.shape[0]
        count = torch.bincount(chosen, minlength=size).float()
        book.cluster_size.mul_(self.decay).add_(count, alpha=1 - self.decay)
        book.embed_avg.mul_(self.decay).add_(
            torch.zeros_like(book.embed).index_add_(0, chosen, vectors), alpha=1 - self.decay
        )
        dead = book.cluster_size < 0.05
        if dead.any():
            fresh = vectors[torch.randint(len(vectors), (int(dead.sum()),), generator=rng)]
            book.embed_avg[dead] = fresh
            book.cluster_size[dead] = 1.0
        book.embed.copy_(book.embed_avg / book.cluster_size[:, None])


def si_sdr_db(output: Tensor, target: Tensor) -> float:
    """Scale-invariant signal-to-distortion ratio in dB, averaged over clips [b samples] (Le Roux et al. 2019)."""
    scale = (output * target).sum(-1, keepdim=True) / target.square().sum(-1, keepdim=True)
    wanted = scale * target
    ratio = wanted.square().sum(-1) / (output - wanted).square().sum(-1)
    return float((10 * torch.log10(ratio)).mean())


def train(
    folder: Path, minutes: float, seed: int = 0, learning_rate: float = 3.0e-3, batch: int = 8, pool_size: int = 3000
) -> EncodecModel:
    """Train for a given time and save to `folder`; a run that was cut goes on from its last save.

    No quantiser until 40 % of the time. After it the spectra weigh more than the wave: where four codebooks can't carry the
    phase, an L1 on the wave alone would shrink high tones instead of keeping their loudness.
    Writes `config.json`, `model.safetensors`, `log.jsonl` and, while it runs, `state.pt`.
    """
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    run = _Run(folder, learning_rate)
    pool, check = clips(pool_size, seed), clips(48, seed + 1)[:, None]
    began = time.perf_counter() - run.state["seconds"]
    with (folder / "log.jsonl").open("a") as log:
        while (done := (time.perf_counter() - began) / (minutes * 60)) < 1:
            rng = torch.Generator().manual_seed(seed * 1_000_003 + run.state["step"])
            if done > QUANTISED_FROM and not run.state["quantised"]:
                run.quantise(pool[:600, None], rng)
            target = pool[torch.randint(len(pool), (batch,), generator=rng)][:, None]
            losses = run.step(target, done, rng)
            run.state["seconds"] = time.perf_counter() - began
            if run.state["step"] % LOG_EVERY == 0:
                row = {"step": run.state["step"], "done": round(done, 4), **losses, **run.fidelity(check, rng)}
                print(json.dumps(row), file=log, flush=True)
            if run.state["step"] % SAVE_EVERY == 0:
                run.save()
    run.model.eval().save_pretrained(folder)
    (folder / "state.pt").unlink(missing_ok=True)
    return run.model


class _Run:
    """What `folder/state.pt` holds: the model, its optimiser, how far they are; as it was saved last, or new."""

    def __init__(self, folder: Path, learning_rate: float):
        self.folder, self.learning_rate = folder, learning_rate
        self.model = EncodecModel(EncodecConfig(**CONFIG)).train()
        self.quantiser = ResidualQuantiser(self.model)
        self.weights = [*self.model.encoder.parameters(), *self.model.decoder.parameters()]
        self.optimiser = torch.optim.AdamW(self.weights, lr=learning_rate, betas=(0.8, 0.99), weight_decay=0)
        self.state = {"step": 0, "seconds": 0.0, "quantised": False}
        if (folder / "state.pt").exists():
            saved = torch.load(folder / "state.pt", weights_only=True)
            self.state = saved["state"]
            self.model.load_state_dict(saved["model"])
            self.optimiser.load_state_dict(saved["optimiser"])

    def save(self) -> None:
        saved = {"state": self.state, "model": self.model.state_dict(), "optimiser": self.optimiser.state_dict()}
        torch.save(saved, self.folder / "state.partial")
        (self.folder / "state.partial").replace(self.folder / "state.pt")
        self.model.save_pretrained(self.folder)

    @torch.no_grad()
    def quantise(self, waves: Tensor, rng: torch.Generator) -> None:
        """Quantise from now on. waves: [b 1 samples], from whose latents the codebooks begin"""
        self.state["quantised"] = True
        latents = self.model.encoder(waves).transpose(1, 2).reshape(-1, CONFIG["hidden_size"])
        self.quantiser.initialise(latents, rng)

    def step(self, target: Tensor, done: float, rng: torch.Generator) -> dict[str, float]:
        """Learn from waves [b 1 samples]; the losses on wave and spectrum. done: the share of the time that is over"""
        for group in self.optimiser.param_groups:
            warm, decayed = min(1.0, (self.state["step"] + 1) / 100), min(1.0, 0.03 + (1 - done) / 0.5)
            group["lr"] = self.learning_rate * warm * decayed
        latents, commitment = self.model.encoder(target), 0.0
        if self.state["quantised"]:
            books = 4 if torch.rand((), generator=rng) < 0.6 else int(torch.randint(1, 4, (), generator=rng))
            latents, commitment = self.quantiser(latents, books, rng)
        output = self.model.decoder(latents)
        wave, spectrum = F.l1_loss(output, target), spectral_loss(output[:, 0], target[:, 0])
        weigh_wave, weigh_spectrum = (3.0, 3.0) if self.state["quantised"] else (10.0, 1.0)
        loss = weigh_wave * wave + weigh_spectrum * spectrum + 0.25 * commitment
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimiser.step()
        self.state["step"] += 1
        return {"wave": wave.item(), "spectrum": spectrum.item()}

    def fidelity(self, check: Tensor, rng: torch.Generator) -> dict[str, float]:
        return _fidelity(self.model, self.quantiser if self.state["quantised"] else None, check, rng)


@torch.no_grad()
def _fidelity(
    model: EncodecModel, quantiser: ResidualQuantiser | None, check: Tensor, rng: torch.Generator
) -> dict[str, float]:
    """SI-SDR of the round trip of [b 1 samples] with 1 to 4 codebooks, or with none while there is no quantiser."""
    latents, row = model.encoder(check), {}
    for books in (1, 2, 3, 4) if quantiser else (0,):
        through = quantiser.eval()(latents, books, rng)[0] if quantiser else latents
        row[f"si_sdr_db_{books}"] = si_sdr_db(model.decoder(through)[:, 0], check[:, 0])
    if quantiser:
        quantiser.train()
    return row
