"""Train the miniature's backbone: a Qwen3 of a few million parameters that has only ever seen text.

Axes: b row · s step.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from lumo.datasets import readers, world
from lumo.miniature.text import Document, documents

CONFIG = {
    "vocab_size": 768,  # more rows than the tokenizer has tokens, as in the published Qwen3
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
}
END = "<|endoftext|>"


def make_tokenizer(seed: int, folder: Path) -> PreTrainedTokenizerFast:
    """A byte-level BPE of up to 700 tokens, learned from such text and saved in Hugging Face's format."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    stream = documents(seed)
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=[END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    bpe.train_from_iterator(("".join(text for text, _ in next(stream)) for _ in range(20_000)), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=END, pad_token=END, clean_up_tokenization_spaces=False
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def train(
    folder: Path, answer_steps: int, text_steps: int, seed: int = 0, learning_rate: float = 3.0e-3, batch: int = 12
) -> None:
    """Train and save model and tokenizer to `folder`; the log goes to `folder/log.jsonl`.

    answer_steps: at first, on what the text before decides, and on nothing else; text_steps: after that, on all of the text.
        In this order 500 steps were enough to say every attribute of a caption again; in the other order 2,300 and 700 weren't (of
        them the first 1,800 without `spread_apart`): an attribute of two values is one bit in twenty tokens.

    AdamW, although Muon (Jordan et al. 2024) reads the text better (0.75 against 0.78 nats a token after 400 steps): it leaves
    weights twice as large and of full rank, and such a model learned to read pictures more slowly.
    """
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(seed, folder)
    model = Qwen3ForCausalLM(Qwen3Config(**CONFIG, eos_token_id=tokenizer.eos_token_id)).train()
    spread_apart(model, seed)
    answered = (document for document in documents(seed + 1) if any(decided for _, decided in document))
    phases = (
        ("answers", answer_steps, _blocks(answered, tokenizer, batch, answers_alone=True), learning_rate),
        ("text", text_steps, _blocks(documents(seed + 2), tokenizer, batch, answers_alone=False), learning_rate / 2),
    )
    with (folder / "log.jsonl").open("w") as log:
        for phase, steps, blocks, rate in phases:
            for row in _phase(model, blocks, steps, rate):
                print(json.dumps({"phase": phase, **row}), file=log, flush=True)
    # as published models come; runs on a CPU compute in fp32 all the same
    model.eval().to(torch.bfloat16).save_pretrained(folder)


def spread_apart(model: Qwen3ForCausalLM, seed: int) -> None:
    """Add noise to the embedding, far more than transformers' 0.02 to begin with.

    Words that stand in the same places (small and large, left and right, loud and soft) otherwise get one and the same row before
    anything depends on which of them it is (cosine 0.995), and hardly any gradient leads apart from there: after 1,800 steps such a model knew
    that a size follows and not which, and stage 4, which leaves the embedding alone, taught it neither to read sizes nor to write them.
    """
    rows = model.get_input_embeddings().weight.data
    rows += 0.15 * torch.randn(rows.shape, generator=torch.Generator().manual_seed(seed))


def twins(folder: Path) -> list[tuple[str, str, float]]:
    """For pairs of attribute values that only one token tells apart, the cosine of the two tokens' rows."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    rows = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32).get_input_embeddings().weight.detach()
    found = []
    for names in (world.SIZES, world.BACKGROUNDS, world.PLACES, world.LOUDNESS_DB, world.PITCHES_HZ, world.COLOURS):
        for one, other in itertools.combinations(names, 2):
            a, b = (tokenizer(f" {name}")["input_ids"] for name in (one, other))
            differ = [(x, y) for x, y in zip(a, b, strict=False) if x != y]
            if len(a) == len(b) and len(differ) == 1:
                found.append((one, other, float(torch.cosine_similarity(*rows[list(differ[0])], dim=0))))
    return found


@torch.no_grad()
def says_again(folder: Path, cases: int = 64, seed: int = 0) -> dict[str, dict[str, float]]:
    """Captions of the world, held-out combinations among them, to be said again in other words: for each kind of scene, each attribute's
    share that comes back right. A backbone that can't do this will not do it from pictures either."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, padding_side="left")
    model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    rng = np.random.default_rng(seed)
    shares = {}
    for kind in world.ATTRIBUTES:
        every = world.scenes(kind)
        told = [every[rng.integers(len(every))] for _ in range(cases)]
        asked = [f"{scene.caption(int(rng.integers(12)))}. in short:" for scene in told]
        ids = tokenizer(asked, return_tensors="pt", padding=True)
        made = model.generate(**ids, max_new_tokens=60, do_sample=False)[:, ids["input_ids"].shape[1] :]
        answers = tokenizer.batch_decode(made, skip_special_tokens=True)
        right = [readers.right(answer, scene) for answer, scene in zip(answers, told, strict=True)]
        shares[kind] = {name: float(np.mean([one[name] for one in right])) for name in right[0]}
    return shares


def _phase(
    model: Qwen3ForCausalLM, blocks: Iterator[tuple[torch.Tensor, torch.Tensor]], steps: int, learning_rate: float
) -> Iterator[dict[str, float]]:
    """Train for some steps; every 50 of them yields what the log says."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98), fused=True)
    started = time.perf_counter()
    for step in range(steps):
        ids, labels = next(blocks)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * min(1.0, (step + 1) / 100) * min(1.0, 0.02 + (1 - step / steps) / 0.7)
        loss = model(input_ids=ids, labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if (step + 1) % 50 == 0:
            yield {"step": step + 1, "loss": loss.item(), "seconds": round(time.perf_counter() - started, 1)}


def _blocks(
    stream: Iterator[Document], tokenizer: PreTrainedTokenizerFast, batch: int, answers_alone: bool, length: int = 192
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Documents one after another, cut into blocks: ids and labels int64 [b s]."""
    ids: list[int] = []
    labels: list[int] = []
    while True:
        while len(ids) < batch * length:
            told = [next(stream) for _ in range(256)]
            pieces = [piece for document in told for piece in [*document, (END, document[-1][1])]]
            lines = tokenizer([text for text, _ in pieces])["input_ids"]
            for (_, is_answer), line in zip(pieces, lines, strict=True):
                ids += line
                labels += line if is_answer or not answers_alone else [-100] * len(line)
        block = [torch.tensor(part[: batch * length]).reshape(batch, length) for part in (ids, labels)]
        ids, labels = ids[batch * length :], labels[batch * length :]
        yield block[0], block[1]
