"""Benchmarks: every figure is a ratio of two sides that ran in turns, on the same input, and were found to agree."""

from lumo.bench.measure import Comparison, Disagreement, Goal, Measured
from lumo.bench.scale import many_rows
from lumo.bench.suite import machine, run_all

__all__ = ["Comparison", "Disagreement", "Goal", "Measured", "machine", "many_rows", "run_all"]
