"""MemoryView: a picture of memory in a notebook; pointer and arrow keys follow a lane through it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anywidget
import traitlets

from skiplab.figures import nibbles
from skiplab.packed_weight import LANES
from skiplab.widgets import controls
from skiplab.widgets.fallback import Pictured


class MemoryView(Pictured, anywidget.AnyWidget):
    """The picture of one step; `show(picture, label)` changes it. `lane` is the lane that the user chose in it.

    Traits shared with the browser: `svg` (the picture; its cells hold their hints), `lane` (0 to 31), `last_lane`.
    """

    _esm = controls.script("picture.js", Path(__file__).with_name("view.js"))
    _css = Path(__file__).with_name("view.css")

    svg = traitlets.Unicode().tag(sync=True)
    legend = traitlets.Unicode().tag(sync=True)
    lane = traitlets.Int(0).tag(sync=True)
    last_lane = traitlets.Int(LANES - 1).tag(sync=True)

    def __init__(self, picture: nibbles.Picture, label: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.show(picture, label)

    def show(self, picture: nibbles.Picture, label: str) -> None:
        """Draw another picture; `label` says in captions what it shows."""
        self.picture, self.label = picture, label
        with self.hold_sync():
            self.legend = " ".join(picture.legend)
            self.svg = nibbles.svg(picture, label)
            self.lane = picture.lane

    def still(self) -> tuple[bytes, str]:
        return nibbles.png(self.picture, self.label), self.label
