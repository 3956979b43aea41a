"""Controls with labels and units, and where they stand: beside the picture, narrow where there is little room."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as w
import traitlets

from skiplab.templates import render

LABEL = "118px"


def script(shared: str, own: Path) -> str:
    """A widget's script behind one that it shares with others, of this folder."""
    return f"{(Path(__file__).parent / shared).read_text()}\n{own.read_text()}"


def steps(low: int, high: int) -> list[int]:
    """Four steps an octave from low to high, powers of two among them: 512, 640, 768, 896, 1024."""
    values, octave = {low, high}, 1
    while octave <= high:
        values.update(octave + octave * quarter // 4 for quarter in range(4))
        octave *= 2
    return sorted(value for value in values if low <= value <= high)


class CountControl(anywidget.AnyWidget):
    """A whole number from low to high: slide in growing steps (`even`: in steps of one), or type any value.

    `value` is the trait. What is typed and is no such number stays in the field, and the control says what is allowed.
    """

    _esm = Path(__file__).with_name("count.js")

    label = traitlets.Unicode().tag(sync=True)
    unit = traitlets.Unicode().tag(sync=True)
    value = traitlets.Int().tag(sync=True)
    steps = traitlets.List(traitlets.Int()).tag(sync=True)
    disabled = traitlets.Bool(False).tag(sync=True)
    problem = traitlets.Unicode().tag(sync=True)
    refused = traitlets.Bool(False).tag(sync=True)

    def __init__(self, label: str, unit: str, value: int, low: int, high: int, name: str, even: bool = False):
        super().__init__(label=label, unit=unit, value=value)
        self._low, self._high, self._even, self._typed = low, high, even, ""
        self.add_class(f"skiplab-{name}")
        self.limit(high)
        self.on_msg(lambda _, message, buffers: self.type(str(message.get("typed", ""))))
        self.observe(lambda _: self._accepted(), "value")

    @property
    def high(self) -> int:
        """The largest number that can be chosen."""
        return self._high

    def limit(self, high: int) -> None:
        """Let it end at `high`. A larger value, which code may give, stays, and the control says that it is larger.

        What was typed and refused is refused in words of the new end; one that would now do gives way to the value.
        """
        self._high = max(high, self._low)
        self.steps = list(range(self._low, self._high + 1)) if self._even else steps(self._low, self._high)
        if self.refused and self._number(self._typed) is None:
            self._refuse()
        else:
            self._accepted()

    def type(self, text: str) -> None:
        """Take what was typed into the field; a text that is no number in range is refused, in words."""
        self._typed = text
        number = self._number(text)
        if number is None:
            self._refuse()
            return
        self.value = number
        self._accepted()

    def _number(self, text: str) -> int | None:
        """The number that a text is; None for what is no whole number in range."""
        number = text.replace(",", "").replace("_", "").strip()
        whole = number.removeprefix("-").isdecimal()
        return int(number) if whole and self._low <= int(number) <= self._high else None

    def _refuse(self) -> None:
        self.refused = True
        self.problem = f"{self._typed.strip() or 'nothing'}: {self._allowed()}; still {self.value:,}"

    def _accepted(self) -> None:
        over = self.value > self._high
        self.problem = f"{self.value:,} is more than the {self._high:,} {self.unit} there are".strip() if over else ""
        self.refused = False

    def _allowed(self) -> str:
        return f"a whole number from {self._low:,} to {self._high:,} is needed"


def choice(label: str, options: Iterable[Any], value: Any, name: str, width: str = "440px") -> w.Dropdown:
    """A labelled list to choose from; options are names or (label, name) pairs."""
    dropdown = w.Dropdown(
        options=list(options), value=value, description=label, style={"description_width": LABEL},
        layout=w.Layout(width=width),
    )  # fmt: skip
    return _named(dropdown, name)


def field(label: str, value: str, name: str, tooltip: str = "", width: str = "440px") -> w.Text:
    """A labelled line to type in, which changes when Enter is pressed or it is left."""
    text = w.Text(
        value, description=label, tooltip=tooltip, continuous_update=False, style={"description_width": LABEL},
        layout=w.Layout(width=width),
    )  # fmt: skip
    return _named(text, name)


def tick(label: str, value: bool, name: str) -> w.Checkbox:
    """A box to tick, aligned with the sliders."""
    box = w.Checkbox(
        value=value, description=label, indent=False, layout=w.Layout(margin=f"0 0 0 calc({LABEL} + 4px)", width="auto")
    )
    box.add_class("skiplab-tick")
    return _named(box, name)


def _named(control: Any, name: str) -> Any:
    """The control with the classes by which the style sheet and tests know it."""
    control.add_class("skiplab-control")
    control.add_class(f"skiplab-{name}")
    return control


def page(controls: Sequence[w.Widget], view: Sequence[w.Widget], below: Sequence[w.Widget]) -> list[w.Widget]:
    """The children of an explorer: controls beside the view from 550 pixels on, the rest below, as wide as it gets.

    The explorer's own class is `skiplab-page`.
    """
    column, picture, rest = w.VBox(list(controls)), w.VBox(list(view)), w.Box(list(below))
    sides = w.HBox([column, picture])
    parts = ((column, "controls"), (picture, "view"), (rest, "below"), (sides, "sides"))
    for part, name in parts:
        part.add_class(f"skiplab-{name}")
    return [style(), sides, rest]


def style() -> w.HTML:
    """The style sheet of all explorers, as a child that shows nothing."""
    return w.HTML(render("widgets.style"), layout=w.Layout(display="none"))


def button(
    label: str, icon: str, tooltip: str, clicked: Callable[[], None], name: str, primary: bool = False
) -> w.Button:
    """A button; `tooltip` says what it does."""
    made = w.Button(
        description=label,
        icon=icon,
        tooltip=tooltip,
        button_style="primary" if primary else "",
        layout=w.Layout(width="auto"),
    )
    made.on_click(lambda _: clicked())
    made.add_class(f"skiplab-{name}")
    return made


def heading(text: str) -> w.HTML:
    """A small heading over a group of controls."""
    return w.HTML(render("widgets.heading", text=text))


def problem(what: str, advice: str = "") -> str:
    """HTML of an error: what happened, and what to do."""
    return render("widgets.problem", what=what, advice=advice)


def status(text: str) -> str:
    """HTML of a status line; screen readers announce its changes."""
    return render("widgets.status", text=text)


def hint(text: str) -> str:
    """HTML of a line of advice, or of the reason why a button is disabled."""
    return render("widgets.hint", text=text)


def hint_line(text: str) -> str:
    """HTML of a hint on a line of its own."""
    return render("widgets.hint_line", text=text)


class CodeBox(anywidget.AnyWidget):
    """Code with a Copy button, which selects the text if the browser has no clipboard."""

    _esm = Path(__file__).with_name("code.js")
    _css = """
.skiplab-code { margin: 4px 0; padding: 8px; overflow-x: auto; border: 1px solid rgba(128,128,128,.5);
  color: var(--jp-content-font-color1, inherit); font-size: 12px; line-height: 1.4; user-select: text; }
.skiplab-copy { width: auto; padding: 0 12px; }
"""
    code = traitlets.Unicode().tag(sync=True)
