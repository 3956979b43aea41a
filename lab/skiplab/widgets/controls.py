"""Controls with labels and units: a slider with steps that grow with the value, beside a field to type in."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import anywidget
import ipywidgets as w
import traitlets

from skiplab.templates import render

LABEL = "118px"


def steps(low: int, high: int) -> list[int]:
    """Four steps an octave from low to high, powers of two among them: 512, 640, 768, 896, 1024."""
    values, octave = {low, high}, 1
    while octave <= high:
        values.update(octave + octave * quarter // 4 for quarter in range(4))
        octave *= 2
    return sorted(value for value in values if low <= value <= high)


class CountControl(w.HBox):
    """A whole number from low to high: slide in growing steps, or type any value. `value` is the trait."""

    value = traitlets.Int()

    def __init__(self, label: str, unit: str, value: int, low: int, high: int, name: str):
        self._steps = steps(low, high)
        self._slider = w.IntSlider(
            min=0, max=len(self._steps) - 1, value=self._nearest(value), readout=False, description=label,
            style={"description_width": LABEL}, layout=w.Layout(width="300px"),
        )  # fmt: skip
        self._slider.add_class(f"skiplab-{name}")
        field_label = f"{label} ({unit}), typed"
        self._field = w.BoundedIntText(
            min=low, max=high, value=value, tooltip=field_label, layout=w.Layout(width="92px")
        )
        super().__init__([self._slider, self._field, w.Label(unit)])
        self.value = value
        self._moving = False
        self._slider.observe(self._slid, "value")
        self._field.observe(self._typed, "value")
        self.observe(self._changed, "value")

    def _nearest(self, value: int) -> int:
        return min(range(len(self._steps)), key=lambda index: abs(self._steps[index] - value))

    def _slid(self, change: Any) -> None:
        if not self._moving:
            self.value = self._steps[change["new"]]

    def _typed(self, change: Any) -> None:
        self.value = change["new"]

    def _changed(self, change: Any) -> None:
        # a typed value between two steps moves the slider to the nearer one, and must not come back rounded
        self._moving = True
        self._field.value = change["new"]
        self._slider.value = self._nearest(change["new"])
        self._moving = False

    @property
    def disabled(self) -> bool:
        return self._slider.disabled

    @disabled.setter
    def disabled(self, value: bool) -> None:
        self._slider.disabled = self._field.disabled = value


def choice(label: str, options: Iterable[Any], value: Any, name: str, width: str = "440px") -> w.Dropdown:
    """A labelled list to choose from; options are names or (label, name) pairs."""
    dropdown = w.Dropdown(
        options=list(options), value=value, description=label, style={"description_width": LABEL},
        layout=w.Layout(width=width),
    )  # fmt: skip
    dropdown.add_class(f"skiplab-{name}")
    return dropdown


def tick(label: str, value: bool, name: str) -> w.Checkbox:
    """A box to tick, aligned with the sliders."""
    box = w.Checkbox(
        value=value, description=label, indent=False, layout=w.Layout(margin=f"0 0 0 calc({LABEL} + 4px)", width="auto")
    )
    box.add_class(f"skiplab-{name}")
    return box


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


COPY_JS = """
function render({ model, el }) {
  const pre = document.createElement("pre"), button = document.createElement("button");
  pre.className = "skiplab-code"; pre.tabIndex = 0; pre.setAttribute("aria-label", "Python code of this state");
  button.className = "jupyter-button widget-button skiplab-copy"; button.textContent = "Copy";
  const show = () => { pre.textContent = model.get("code"); button.textContent = "Copy"; };
  const select = () => { const range = document.createRange(); range.selectNodeContents(pre);
    getSelection().removeAllRanges(); getSelection().addRange(range); };
  button.onclick = async () => {
    select();
    try { await navigator.clipboard.writeText(model.get("code")); button.textContent = "Copied"; }
    catch { button.textContent = "Selected: press Ctrl+C"; }   // a page without https has no clipboard
  };
  model.on("change:code", show); show();
  el.append(button, pre);
  return () => model.off("change:code", show);
}
export default { render };
"""
COPY_CSS = """
.skiplab-code { margin: 4px 0; padding: 8px; max-width: 640px; overflow-x: auto; border: 1px solid rgba(128,128,128,.5);
  color: var(--jp-content-font-color1, inherit); font-size: 12px; line-height: 1.4; user-select: text; }
.skiplab-copy { width: auto; padding: 0 12px; }
"""


class CodeBox(anywidget.AnyWidget):
    """Code with a Copy button, which selects the text if the browser has no clipboard."""

    _esm = COPY_JS
    _css = COPY_CSS
    code = traitlets.Unicode().tag(sync=True)
