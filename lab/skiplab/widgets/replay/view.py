"""ReplayView: the picture of a recorded launch in a notebook; pointer and arrow keys go from step to step."""

from __future__ import annotations

from pathlib import Path

import anywidget
import traitlets

from skiplab.figures import nibbles
from skiplab.figures.replay import steps
from skiplab.replay import Replay
from skiplab.widgets import controls
from skiplab.widgets.fallback import Pictured
from skiplab.widgets.replay import captions


class ReplayView(Pictured, anywidget.AnyWidget):
    """The picture of a recorded launch at a step; `show(replay, at)` changes it.

    Traits shared with the browser: `svg` and `legend` (the picture), `step` (the one that the user chose in it; -1 is
    before the first), `last_step` and `starts` (the first step of each program). `told` is the step in words.
    """

    _esm = controls.script("picture.js", Path(__file__).with_name("view.js"))
    _css = Path(__file__).with_name("view.css")

    svg = traitlets.Unicode().tag(sync=True)
    legend = traitlets.Unicode().tag(sync=True)
    step = traitlets.Int(-1).tag(sync=True)
    last_step = traitlets.Int(-1).tag(sync=True)
    starts = traitlets.List(traitlets.Int()).tag(sync=True)

    told = ""

    def show(self, made: Replay, at: int) -> None:
        """Draw the launch after step `at`."""
        self.picture = steps(made, at)
        self._title = f"{made.label}, {made.source}"
        self.told = captions.plain(made, at)
        with self.hold_sync():
            self.starts = [number for number, (_, step) in enumerate(made.places) if step == 0]
            self.last_step, self.step = len(made.places) - 1, at
            self.legend = " ".join(self.picture.legend)
            self.svg = nibbles.svg(self.picture, self.told)

    def still(self) -> tuple[bytes, str]:
        return nibbles.png(self.picture, self._title), self.told
