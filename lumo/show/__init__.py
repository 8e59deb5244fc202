"""Values as things to show: players, pictures, tables, curves.

Everything here returns a `Page`, which has a text fallback and needs no network; nothing prints. `Live` alone keeps an
output of its own, and `browser` is a widget for a live notebook.
"""

from lumo.show.browsing import browser
from lumo.show.cases import Case, case_page, cases_table
from lumo.show.figures import bars, curves
from lumo.show.histograms import histogram
from lumo.show.live import Live
from lumo.show.pace import Pace
from lumo.show.page import Page, beside, escape, note, stack
from lumo.show.pictures import grid, picture
from lumo.show.sounds import player, spectrogram
from lumo.show.strip import ids_strip
from lumo.show.tables import facts, size, table
from lumo.show.tallies import tally
from lumo.show.verdicts import Gate, gates, verdict

__all__ = [
    "Case",
    "Gate",
    "Live",
    "Pace",
    "Page",
    "bars",
    "beside",
    "browser",
    "case_page",
    "cases_table",
    "curves",
    "escape",
    "facts",
    "gates",
    "grid",
    "histogram",
    "ids_strip",
    "note",
    "picture",
    "player",
    "size",
    "spectrogram",
    "stack",
    "table",
    "tally",
    "verdict",
]
