"""Leafing through golden cases in a live notebook; `cases_table` is the same for a report."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lumo.show.cases import Case, case_page

if TYPE_CHECKING:
    import ipywidgets


def browser(cases: Sequence[Case], zoom: int = 4, spectrograms: bool = True) -> ipywidgets.VBox:
    """A widget: a task to choose, a slider, back and next, and the page of one case.

    The controls are its first child, an `HBox` of dropdown, back, slider and next; the page is its second, an `HTML`.
    Raises ValueError for no cases.
    """
    import ipywidgets as widgets  # here, so that importing lumo.show needs no kernel and stays quick

    if not cases:
        raise ValueError("no cases to browse, expected at least one")
    tasks = list(dict.fromkeys(case.task for case in cases))
    by_task = {task: [case for case in cases if case.task == task] for task in tasks}
    task = widgets.Dropdown(options=[(name, name) for name in tasks], description="task", layout={"width": "220px"})
    place = widgets.IntSlider(
        value=0, min=0, max=len(by_task[tasks[0]]) - 1, description="case", continuous_update=False
    )
    back, ahead = (widgets.Button(description=words, layout={"width": "70px"}) for words in ("back", "next"))
    # an HTML value and no Output area: callbacks may run on another thread, where captured output goes astray
    page = widgets.HTML()
    lock = threading.Lock()

    def show(_: Any = None) -> None:
        with lock:  # callbacks can overlap; the last to get here reads the controls as they stand
            own = by_task[task.value]
            page.value = case_page(own[min(place.value, len(own) - 1)], zoom, spectrograms).document

    def change_task(_: Any) -> None:
        if place.value == 0:
            show()
        place.value = 0  # shows too, where it moves
        place.max = len(by_task[task.value]) - 1

    def step(by: int) -> None:
        place.value = min(max(place.value + by, 0), place.max)

    task.observe(change_task, names="value")
    place.observe(show, names="value")
    back.on_click(lambda _: step(-1))
    ahead.on_click(lambda _: step(1))
    show()
    return widgets.VBox([widgets.HBox([task, back, place, ahead]), page])
