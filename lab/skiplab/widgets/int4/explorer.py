"""Int4Explorer: a quantised weight as it lies in memory, what a warp asks for, and what a format costs in error."""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from typing import Any

import ipywidgets as w
import traitlets

from skiplab.figures import nibbles
from skiplab.machine import known_gpus
from skiplab.packed_weight import GROUP_SIZES, LANES, PROGRAMS, WEIGHTS, random_qualities
from skiplab.widgets import controls
from skiplab.widgets.changes import Changes
from skiplab.widgets.fallback import Pictured
from skiplab.widgets.int4 import captions
from skiplab.widgets.int4.settings import LAYOUTS, LOADS, OTHER, Int4Settings
from skiplab.widgets.int4.view import MemoryView
from skiplab.workload import LINEARS

METADATA_WORDS = {"bfloat16": "bfloat16 scales and zero points", "uint8": "uint8 codes, a step for 256 weights"}
MOST_ROWS, MOST_COLUMNS = 1 << 19, 1 << 17
ADVICE = "Change the setting that the message names; the picture still shows the last state that was possible."


class Int4Explorer(Pictured, w.VBox):
    """A weight's memory, to explore; keywords are those of `Int4Settings`: `Int4Explorer(bits=8, layout="strided")`.

    `settings` is what it shows, and `set(group_size=64)` moves its controls from code. An unknown setting raises
    TypeError, a wrong value ValueError. All of it is computed: sizes and loads from the kernel's access pattern, errors
    by quantising random weights here, floors from data sheets. Nothing is timed.
    """

    settings = traitlets.Instance(Int4Settings)

    def __init__(self, **settings: Any):
        known = [field.name for field in fields(Int4Settings)]
        for name in settings:
            if name not in known:
                raise TypeError(f"{name}: Int4Explorer has no such setting; there are {', '.join(known)}")
        self.settings = Int4Settings(**settings)
        self._changes = Changes()
        self._build()
        view = [self._problem, self._counts, self.memory, self._asked]
        super().__init__(controls.page(self._column(), view, [self._prediction, self._formats]))
        self.add_class("skiplab-page")
        self.add_class("skiplab-int4-explorer")
        for name, control in self._controls.items():
            control.observe(self._changes.heard(partial(self._take, name)), "value")
        self._layer.observe(self._changes.heard(self._take_layer), "value")
        self.memory.observe(self._changes.heard(partial(self._take, "lane")), "lane")
        self._show()

    def code(self) -> str:
        """Python that makes what is shown."""
        return self.settings.code()

    def set(self, **settings: Any) -> None:
        """Move controls from code; the same names as in `Int4Settings`."""
        wanted = {field.name: getattr(self.settings, field.name) for field in fields(Int4Settings)} | settings
        self._accept(Int4Settings(**wanted))

    def _build(self) -> None:
        s, choice, count = self.settings, controls.choice, controls.CountControl
        programs = [(f"{name}: {program.description}", name) for name, program in PROGRAMS.items()]
        self._layer = choice("Layer", [*LINEARS, OTHER], s.layer, "layer")
        self._controls: dict[str, Any] = {
            "out_features": count("Outputs (N)", "rows", s.out_features, 1, MOST_ROWS, "out-features"),
            "in_features": count("Inputs (K)", "weights", s.in_features, 32, MOST_COLUMNS, "in-features"),
            "bits": choice("Codes", [("int4", 4), ("int8", 8)], s.bits, "bits"),
            "group_size": choice("Group size", [(f"{n} weights", n) for n in GROUP_SIZES], s.group_size, "group-size"),
            "symmetric": controls.tick("symmetric: no zero point", s.symmetric, "symmetric"),
            "metadata": choice("Metadata", _turned(METADATA_WORDS), s.metadata, "metadata"),
            "weights": choice("Random weights", WEIGHTS, s.weights, "weights"),
            "layout": choice("Metadata lies", _turned(LAYOUTS), s.layout, "layout"),
            "activation_loads": choice("Activations", _turned(LOADS), s.activation_loads, "activation-loads"),
            "program": choice("Program", programs, s.program, "program"),
            "row": count("Row", "", s.row, 0, s.out_features - 1, "row"),
            "step": count("Step", "", s.step, 0, s.last_step, "step", even=True),
            "lane": count("Lane", "", s.lane, 0, LANES - 1, "lane", even=True),
            "predict_for": choice("Predict for", [*known_gpus()], s.predict_for, "predict-for"),
        }
        self._counts, self._asked, self._formats, self._prediction, self._problem = (w.HTML() for _ in range(5))
        self.memory = MemoryView(_picture(s), captions.plain(s))
        self._copy = controls.CodeBox(code=s.code())
        self._code = w.Accordion([self._copy], titles=("Copy as code",), selected_index=None)

    def _column(self) -> list[w.Widget]:
        c, heading = self._controls, controls.heading
        return [
            heading("The weight"), self._layer, c["out_features"], c["in_features"],
            heading("The format"), c["bits"], c["group_size"], c["symmetric"], c["metadata"],
            heading("How it lies and is loaded"), c["layout"], c["activation_loads"], c["program"],
            heading("Where to look"), c["row"], c["step"], c["lane"],
            heading("Error and floor"), c["weights"], c["predict_for"], self._code,
        ]  # fmt: skip

    def _take(self, name: str, value: Any) -> None:
        """Show the settings with a control's new value."""
        values = {key: control.value for key, control in self._controls.items()} | {name: value}
        try:
            # fewer steps than before: the last one is shown
            steps = Int4Settings(**{**values, "step": 0}).last_step
            settings = Int4Settings(**{**values, "step": min(values["step"], steps)})
        except (TypeError, ValueError) as error:
            self._problem.value = controls.problem(str(error), ADVICE)
            return
        self._accept(settings)

    def _take_layer(self, layer: str) -> None:
        if layer not in LINEARS:
            return
        out_features, in_features = LINEARS[layer]
        with self._changes.setting():
            self._controls["out_features"].value, self._controls["in_features"].value = out_features, in_features
            self._controls["row"].value = min(self._controls["row"].value, out_features - 1)
        self._take("in_features", in_features)

    def _accept(self, settings: Int4Settings) -> None:
        """Show these settings, in the controls, too."""
        with self._changes.setting():
            self.settings = settings
            self._controls["step"].limit(settings.last_step)
            self._controls["row"].limit(settings.out_features - 1)
            for name, control in self._controls.items():
                control.value = getattr(settings, name)
            self._layer.value = settings.layer
            self._problem.value = ""
            self._show()

    def _show(self) -> None:
        s = self.settings
        machine = known_gpus()[s.predict_for]
        self.memory.show(_picture(s), captions.plain(s))
        self._counts.value = captions.counts(s)
        self._asked.value = captions.asked(s)
        self._formats.value = captions.formats(random_qualities(s.weights), s, machine)
        self._prediction.value = captions.prediction(s, machine)
        self._copy.code = s.code()

    def still(self) -> tuple[bytes, str]:
        text = f"Int4Explorer: {captions.plain(self.settings)}"
        return nibbles.png(self.memory.picture, text), text


def _picture(s: Int4Settings) -> nibbles.Picture:
    return nibbles.memory(s.packed, s.kernel, s.row, s.step, s.lane, s.scalar, s.codes)


def _turned(names: dict[str, str]) -> list[tuple[str, str]]:
    """(label, name) pairs for a menu."""
    return [(label, name) for name, label in names.items()]
