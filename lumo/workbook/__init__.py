"""The workbook: notebooks know where their run lives, and the runner turns them into a dated report.

In a notebook's setup cell: `run = workbook.begin("04_stage4", globals())`. From a shell: `lumo report`, `lumo run 04`.
"""

from lumo.workbook.errors import GatesFailed, WorkbookError
from lumo.workbook.reporting import report, run_one
from lumo.workbook.run import Run, begin
from lumo.workbook.runner import NOTEBOOKS, Failure, Outcome, run_notebook

__all__ = [
    "NOTEBOOKS",
    "Failure",
    "GatesFailed",
    "Outcome",
    "Run",
    "WorkbookError",
    "begin",
    "report",
    "run_notebook",
    "run_one",
]
