"""SplitExplorer: which program of a decode call reads which keys, and how busy that keeps a GPU, policy by policy."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import partial
from typing import Any

import ipywidgets as w
import traitlets

from skiplab.machine import known_gpus
from skiplab.occupancy import SPLIT_POLICIES
from skiplab.widgets import controls
from skiplab.widgets.changes import Changes
from skiplab.widgets.fallback import Pictured
from skiplab.widgets.splits import captions
from skiplab.widgets.splits.settings import LIMITS, SplitSettings
from skiplab.widgets.splits.view import SplitView
from skiplab.workload import DTYPES, MODELS

ADVICE = "Change the setting that the message names; the picture still shows the last state that was possible."
OPTIONAL = {"buffer": "as_keys", "window": "no_window"}
"""A length that may be left out -> the box that leaves it out."""


class SplitExplorer(Pictured, w.VBox):
    """A decode call to explore; keywords are those of `SplitSettings`: `SplitExplorer(kv_len=4096, buffer=None)`.

    `settings` is what it shows, and `set(window=1024)` moves its controls from code. An unknown setting raises
    TypeError, a wrong value ValueError. All of it is computed from sizes and data sheets (`skiplab.occupancy`); nothing
    is timed.
    """

    settings = traitlets.Instance(SplitSettings)

    def __init__(self, **settings: Any):
        known = [field.name for field in fields(SplitSettings)]
        for name in settings:
            if name not in known:
                raise TypeError(f"{name}: SplitExplorer has no such setting; there are {', '.join(known)}")
        self.settings = SplitSettings(**settings)
        self._changes = Changes()
        self._build()
        view = [self._problem, self._counts, self.view]
        super().__init__(controls.page(self._column(), view, [self._table, self._prediction]))
        self.add_class("skiplab-page")
        self.add_class("skiplab-split-explorer")
        for name, control in self._controls.items():
            control.observe(self._changes.heard(partial(self._take, name)), "value")
        self.view.observe(self._changes.heard(self._chosen), "program")
        self._show()

    def code(self) -> str:
        """Python that makes what is shown."""
        return self.settings.code()

    def set(self, **settings: Any) -> None:
        """Move controls from code; the same names as in `SplitSettings`."""
        wanted = {**vars(self.settings), **settings}
        self._accept(SplitSettings(**wanted) if "program" in settings else self._near(wanted))

    def _build(self) -> None:
        s, choice, count, tick = self.settings, controls.choice, controls.CountControl, controls.tick
        rules = [(f"{name}: {what}", policy) for policy, (name, what) in SPLIT_POLICIES.items()]
        self._controls: dict[str, Any] = {
            "kv_len": count("KV length", "keys", s.kv_len, 1, LIMITS["kv_len"], "kv-len"),
            "buffer": count("Buffer", "slots", s.slots, 1, LIMITS["buffer"], "buffer"),
            "as_keys": tick("as many slots as keys", s.buffer is None, "as-keys"),
            "window": count("Window", "keys", s.window or 1024, 1, LIMITS["window"], "window"),
            "no_window": tick("no window: every earlier key", s.window is None, "no-window"),
            "q_len": count("Queries", "tokens", s.q_len, 1, LIMITS["q_len"], "q-len"),
            "batch": count("Batch", "sequences", s.batch, 1, LIMITS["batch"], "batch"),
            "model": choice("Head shape", [(_model_label(name), name) for name in MODELS], s.model, "model"),
            "dtype": choice("Number format", DTYPES, s.dtype, "dtype", "240px"),
            "gpu": choice("GPU", [(_gpu_label(name), name) for name in known_gpus()], s.gpu, "gpu"),
            "policy": w.RadioButtons(options=rules, value=s.policy, layout=w.Layout(width="auto")),
        }  # fmt: skip
        self._controls["policy"].add_class("skiplab-policy")
        self._counts, self._table, self._prediction, self._problem = (w.HTML() for _ in range(4))
        self.view = SplitView(s, captions.plain(s))
        self._copy = controls.CodeBox(code=s.code())
        self._code = w.Accordion([self._copy], titles=("Copy as code",), selected_index=None)

    def _column(self) -> list[w.Widget]:
        c, heading = self._controls, controls.heading
        return [
            heading("How the keys are divided"), c["policy"],
            heading("The cache"), c["kv_len"], c["buffer"], c["as_keys"], c["window"], c["no_window"],
            heading("The call"), c["q_len"], c["batch"], c["model"], c["dtype"],
            heading("The GPU"), c["gpu"], self._code,
        ]  # fmt: skip

    def _take(self, name: str, value: Any) -> None:
        """Show the settings with a control's new value."""
        values = {key: control.value for key, control in self._controls.items()} | {name: value}
        for length, box in OPTIONAL.items():
            if values.pop(box):
                values[length] = None
        for less, more in (("q_len", "kv_len"), ("kv_len", "buffer")):
            if values[more] is not None and values[more] < values[less]:
                # the one that was moved takes the other along
                moved, other = (more, less) if name == more else (less, more)
                values[other] = values[moved]
        try:
            self._accept(self._near(values))
        except (TypeError, ValueError) as error:
            self._problem.value = controls.problem(str(error), ADVICE)

    def _near(self, values: dict[str, Any]) -> SplitSettings:
        """These settings with the currently outlined program, or the last one if there are fewer."""
        settings = SplitSettings(**{**values, "program": 0})
        return replace(settings, program=min(self.settings.program, settings.schedule.programs - 1))

    def _chosen(self, program: int) -> None:
        self._accept(replace(self.settings, program=min(program, self.settings.schedule.programs - 1)))

    def _accept(self, settings: SplitSettings) -> None:
        """Show these settings, in the controls, too."""
        with self._changes.setting():
            self.settings = settings
            self._set_controls(settings)
            self._problem.value = ""
            self._show()

    def _set_controls(self, settings: SplitSettings) -> None:
        for name, control in self._controls.items():
            if name in OPTIONAL.values():
                length = next(length for length, box in OPTIONAL.items() if box == name)
                control.value = getattr(settings, length) is None
            elif name == "buffer":
                control.value = settings.slots
            elif getattr(settings, name) is not None:  # a window that is switched off keeps its place
                control.value = getattr(settings, name)

    def _show(self) -> None:
        s = self.settings
        self._controls["window"].limit(s.kv_len)
        for length in OPTIONAL:
            self._controls[length].disabled = getattr(s, length) is None
        self.view.show(s, captions.plain(s))
        self._counts.value = captions.counts(s)
        self._table.value = captions.table(s)
        self._prediction.value = captions.prediction(s)
        self._copy.code = s.code()

    def still(self) -> tuple[bytes, str]:
        return self.view.png(), f"SplitExplorer: {captions.plain(self.settings)}"


def _model_label(name: str) -> str:
    shape = MODELS[name]
    return f"{name}: {shape.q_heads}/{shape.kv_heads} heads of {shape.head_dim}"


def _gpu_label(name: str) -> str:
    gpu = known_gpus()[name]
    return f"{name}: {gpu.sms} SMs, {gpu.bandwidth_gbps:,.0f} GB/s"
