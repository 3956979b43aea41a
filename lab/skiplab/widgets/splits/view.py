"""SplitView: the picture of a decode call's programs in a notebook; pointer and arrow keys follow one of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anywidget
import traitlets

from skiplab.figures import nibbles, splits
from skiplab.figures.nibbles import Picture
from skiplab.occupancy import Schedule
from skiplab.widgets import controls
from skiplab.widgets.fallback import Pictured
from skiplab.widgets.splits.settings import SplitSettings


class SplitView(Pictured, anywidget.AnyWidget):
    """The picture of a split explorer's state; `show(settings, label)` changes it.

    Traits shared with the browser: `svg` (the picture), `program` (the one that the user chose in it), `last_program`,
    `splits` (programs of a KV head) and `chosen` (that program in captions).
    """

    _esm = controls.script("picture.js", Path(__file__).with_name("view.js"))
    _css = Path(__file__).with_name("view.css")

    svg = traitlets.Unicode().tag(sync=True)
    legend = traitlets.Unicode().tag(sync=True)
    program = traitlets.Int(0).tag(sync=True)
    last_program = traitlets.Int(0).tag(sync=True)
    splits = traitlets.Int(1).tag(sync=True)
    chosen = traitlets.Unicode().tag(sync=True)

    def __init__(self, settings: SplitSettings, label: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.show(settings, label)

    def show(self, settings: SplitSettings, label: str) -> None:
        """Draw another state; `label` says in captions what it shows."""
        plan = settings.schedule
        self.label, self._title = label, splits.title(plan)
        self.picture: Picture = splits.decode(settings.schedules, settings.policy, settings.program)
        with self.hold_sync():
            self.chosen = told(plan, settings.program)
            self.splits, self.last_program, self.program = plan.splits, plan.programs - 1, settings.program
            self.legend = " ".join(self.picture.legend)
            self.svg = nibbles.svg(self.picture, label)

    def still(self) -> tuple[bytes, str]:
        return self.png(), self.label

    def png(self) -> bytes:
        """The picture with its title, for readers without widgets."""
        return nibbles.png(self.picture, self._title)


def told(plan: Schedule, program: int) -> str:
    """A program in captions, as its cell says it; one without keys has no cell."""
    run = plan.run_of(program)
    return splits.told(plan, run) if run else f"Program {program:,}, {plan.whose(program)}: no key; it ends at once"
