"""Golden suites: a fixed set of cases a task, generated, decoded and scored.

Each suite is frozen once to a file with the token space's hash, so that checkpoints are compared on the same cases. Beside what the
model makes stand a ceiling (the true clip through the codec and back) and a floor (the answers to other cases' prompts).
"""

from lumo.golden.results import Result, by_attribute, figures, write_media
from lumo.golden.running import Setup, run_suite
from lumo.golden.suites import GoldenError, choose, combination, frozen, partner, sha256, thaw

__all__ = [
    "GoldenError",
    "Result",
    "Setup",
    "by_attribute",
    "choose",
    "combination",
    "figures",
    "frozen",
    "partner",
    "run_suite",
    "sha256",
    "thaw",
    "write_media",
]
