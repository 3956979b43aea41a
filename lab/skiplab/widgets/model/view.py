"""PartsView: the bars of a model's calls in a notebook; pointer and arrow keys tell of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anywidget
import traitlets

from skiplab.figures import nibbles
from skiplab.figures.nibbles import Picture
from skiplab.widgets import controls
from skiplab.widgets.fallback import Pictured


class PartsView(Pictured, anywidget.AnyWidget):
    """The picture of a model explorer's state; `show(picture, label)` changes it.

    Traits shared with the browser: `svg`, the picture, whose bars hold their hints, and `legend`, lines below it.
    """

    _esm = controls.script("picture.js", Path(__file__).with_name("view.js"))
    _css = Path(__file__).with_name("view.css")

    svg = traitlets.Unicode().tag(sync=True)
    legend = traitlets.Unicode().tag(sync=True)

    def __init__(self, picture: Picture, label: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.show(picture, label)

    def show(self, picture: Picture, label: str) -> None:
        """Draw another picture; `label` says in words what it shows."""
        self.picture, self.label = picture, label
        with self.hold_sync():
            self.legend = " ".join(picture.legend)
            self.svg = nibbles.svg(picture, label)

    def still(self) -> tuple[bytes, str]:
        return self.png(), self.label

    def png(self) -> bytes:
        """The picture under its words, for readers without widgets."""
        return nibbles.png(self.picture, self.label)
