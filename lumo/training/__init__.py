"""Training: a ramped mixture of tasks, losses per task, checkpoints, resume.

What a step sees is a function of the seed and the step's number alone, so a run that was killed goes on as if it hadn't been.
On a CPU the resumed run equals the unbroken one bit for bit; on a GPU only as far as its kernels are deterministic.
"""

from lumo.training.feed import Feed, corrupted
from lumo.training.log import Line, Progress, loss_curves, sizing, summary
from lumo.training.loop import prepare, schedule, train
from lumo.training.losses import Sums, sums_of, task_weights

__all__ = [
    "Feed",
    "Line",
    "Progress",
    "Sums",
    "corrupted",
    "loss_curves",
    "prepare",
    "schedule",
    "sizing",
    "summary",
    "sums_of",
    "task_weights",
    "train",
]
