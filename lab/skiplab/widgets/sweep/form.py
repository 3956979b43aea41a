"""The controls of one operation in the sweep panel: contenders to tick, and a field for each setting."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import ipywidgets as w
import pandas as pd

from skiplab.contenders import contenders
from skiplab.figures import frames
from skiplab.machine import Machine, default_device
from skiplab.paths import slug
from skiplab.sweep import AnySweep
from skiplab.text import called
from skiplab.widgets import controls
from skiplab.widgets.sweep.settings import Field, PanelForm

WIDE = "480px"
MISSING = ("CUDA", "g++", "install")
"""Words in a contender's reason that say that this machine lacks something, whatever the point."""


class FormControls(w.VBox):
    """Tick boxes and fields of a form; `sweep(budget_s, device)` is what they describe.

    chosen: names of the contenders that are ticked, None for the form's own. given: first values of fields, by name.
    """

    def __init__(self, form: PanelForm, chosen: Iterable[str] | None, given: Mapping[str, Any]):
        self.form = form
        names = form.contenders if chosen is None else tuple(chosen)
        known = [name for name in contenders(form.operation) if name not in form.without]
        unknown = [name for name in names if name not in known]
        if unknown and chosen is not None:
            raise ValueError(f"contenders: no {unknown[0]!r}; there are {', '.join(known)}")
        strangers = set(given) - {field.name for field in form.fields}
        if strangers:
            fields = ", ".join(field.name for field in form.fields)
            raise TypeError(f"{min(strangers)}: the panel has no such setting for {form.operation}; there are {fields}")
        self.boxes = {name: self._box(name, name in names) for name in known}
        self._lacking = [name for name, box in self.boxes.items() if box.disabled]
        self.fields = {field.name: _control(field, given.get(field.name, field.start)) for field in form.fields}
        super().__init__([controls.heading("Contenders"), *self._ticks(), controls.heading("Settings"),
                          *(_with_unit(field, self.fields[field.name]) for field in form.fields)])  # fmt: skip

    def values(self) -> dict[str, Any]:
        """The value of each field; ValueError names one that cannot be read."""
        return {
            field.name: field.read(field.label.lower(), str(self.fields[field.name].value))
            for field in self.form.fields
        }

    def sweep(self, budget_s: float, device: str) -> AnySweep:
        """The sweep that the controls describe, on that device."""
        names = tuple(name for name, box in self.boxes.items() if box.value)
        return self.form.sweep(names, self.values(), device, budget_s)

    def allow_all(self, allowed: bool) -> None:
        """Let contenders be ticked that this machine cannot run, for another one."""
        for name in self._lacking:
            self.boxes[name].disabled = not allowed
            self.boxes[name].value &= allowed

    def predicted(self, machine: Machine) -> pd.DataFrame:
        """The predictions for these settings at the roofs of that machine."""
        sweep = self.form.sweep(self.form.contenders[:1], self.values(), "cpu", 1.0)
        return frames.predictions(sweep.workloads(), machine)

    def _box(self, name: str, chosen: bool) -> w.Checkbox:
        """A contender's tick box; disabled, with the reason, if this machine cannot run it."""
        entry = contenders(self.form.operation)[name]
        reason = entry.refusal(self.form.probe, default_device())
        impossible = reason is not None and any(word in reason for word in MISSING)
        label = called(entry.label, name) + (f": {reason}" if impossible else "")
        box = w.Checkbox(
            chosen and not impossible, description=label, disabled=impossible, indent=False, tooltip=entry.summary
        )
        box.layout.width = WIDE
        box.add_class(f"skiplab-contender-{slug(name)}")
        return box

    def _ticks(self) -> list[w.Widget]:
        possible: list[w.Widget] = [box for box in self.boxes.values() if not box.disabled]
        others = [box for box in self.boxes.values() if box.disabled]
        if not others:
            return possible
        title = f"{len(others)} more that this machine cannot run"
        return [*possible, w.Accordion([w.VBox(others)], titles=(title,), selected_index=None)]


def _control(field: Field, value: Any) -> Any:
    if field.options:
        return controls.choice(
            field.label, field.options, value, field.name, WIDE if field.name == "model" else "280px"
        )
    text = w.Text(
        field.show(value), description=field.label, tooltip=field.tooltip,
        style={"description_width": controls.LABEL}, layout=w.Layout(width="340px"),
    )  # fmt: skip
    text.add_class(f"skiplab-{field.name}")
    return text


def _with_unit(field: Field, control: w.Widget) -> w.Widget:
    if not field.unit:
        return control
    row = w.HBox([control, w.Label(field.unit)])
    row.add_class("skiplab-with-unit")
    return row
