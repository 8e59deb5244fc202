"""How far a backbone must look: the longest prompt with its longest answer, known before anything is trained.

Generation would meet it in notebook 05, hours later.

Axes: n token.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lumo.model import check_reach
from lumo.params import Profile, weights_folder
from lumo.shards import Sample
from lumo.tasks import TASKS
from lumo.tokenizer import UnifiedTokenizer, load_config


def check(profile: Profile, tokenizer: UnifiedTokenizer, held: Sequence[Sample] = ()) -> None:
    """Raises ModelError where the backbone has fewer positions, or windows that are shorter, than golden and ablation will ask for.

    held: samples that aren't trained on; before there are any, captions count as empty
    """
    folder = weights_folder(profile.backbone.path, "backbone")
    tokens = max((longest(name, tokenizer, held, profile.golden.max_text_tokens) for name in profile.tasks), default=0)
    check_reach(load_config(folder), tokens, f"{folder / 'config.json'}: golden and ablation")


def longest(name: str, tokenizer: UnifiedTokenizer, held: Sequence[Sample], max_text_tokens: int) -> int:
    """Tokens of a task's longest prompt and the longest answer to it, end token included; an arm of the ablation may give a case
    another's prompt, but never a longer answer than its own."""
    task, space = TASKS[name], tokenizer.space
    fitting = [sample.ids for sample in held if task.fits(sample)]
    nothing = {"text": np.zeros(0, dtype=np.int64)}
    empty = nothing | {medium: np.zeros(tokenizer.tokens_of(medium), dtype=np.int64) for medium in ("image", "audio")}
    prompt = max(len(task.prompt(ids, space)) for ids in (fitting or [empty]))
    true = max((len(ids[task.target]) + 1 for ids in fitting), default=0)
    return prompt + max(true, task.grammar(tokenizer, max_text_tokens).steps)
