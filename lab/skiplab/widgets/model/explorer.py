"""ModelExplorer: where the time of a model's prompt and step goes, and what window, drafts and bits change."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from functools import partial
from typing import Any

import ipywidgets as w
import traitlets

from skiplab.figures import nibbles, parts
from skiplab.model import model_names
from skiplab.store import Run
from skiplab.throughput import machines
from skiplab.widgets import controls
from skiplab.widgets.changes import Changes
from skiplab.widgets.fallback import Pictured
from skiplab.widgets.model import captions
from skiplab.widgets.model.beside import Beside
from skiplab.widgets.model.settings import LONGEST, MOST_DRAFTS, WEIGHTS, ModelSettings
from skiplab.widgets.model.view import PartsView

ADVICE = "Change the setting that the message names; the picture still shows the last state that was possible."


class ModelExplorer(Pictured, w.VBox):
    """A whole model to explore; keywords are those of `ModelSettings`: `ModelExplorer(model="laptop", prompt=512)`.

    `settings` is what it shows, and `set(window=4096)` moves its controls from code. An unknown setting raises
    TypeError, a wrong value ValueError. Times are predicted from roofs (`skiplab.throughput`); nothing is timed. runs:
    of whole models, whose points stand beside; None: those in `data/runs` and in the working folder's `runs`.
    """

    settings = traitlets.Instance(ModelSettings)

    def __init__(self, runs: Iterable[Run] | None = None, **settings: Any):
        known = [field.name for field in fields(ModelSettings)]
        for name in settings:
            if name not in known:
                raise TypeError(f"{name}: ModelExplorer has no such setting; there are {', '.join(known)}")
        self.settings = ModelSettings(**settings)
        self.beside = Beside.of(runs)
        self._changes = Changes()
        self._build()
        view, below = [self._problem, self._counts, self.view], [self._windows, self._others, self._prediction]
        super().__init__(controls.page(self._column(), view, below))
        self.add_class("skiplab-page")
        self.add_class("skiplab-model-explorer")
        for name, control in self._controls.items():
            control.observe(self._changes.heard(partial(self._take, name)), "value")
        self._show()
        self._problem.value = "".join(map(controls.problem, self.beside.unreadable))

    def code(self) -> str:
        """Python that makes what is shown."""
        return self.settings.code()

    def set(self, **settings: Any) -> None:
        """Move controls from code; the same names as in `ModelSettings`."""
        wanted = {field.name: getattr(self.settings, field.name) for field in fields(ModelSettings)} | settings
        self._accept(ModelSettings(**wanted))

    def _build(self) -> None:
        s, choice, count = self.settings, controls.choice, controls.CountControl
        self._controls: dict[str, Any] = {
            "model": choice("Model", model_names(), s.model, "model", "300px"),
            "weights": choice(
                "Weights", [(words, name) for name, words in WEIGHTS.items()], s.weights, "weights", "300px"
            ),
            "prompt": count("Prompt length", "tokens", s.prompt, 1, LONGEST, "prompt"),
            "window": count("Window", "keys", s.window_used or 1024, 1, LONGEST, "window"),
            "own": controls.tick("the model's own window", s.window is None, "own"),
            "drafts": count("Draft length", "tokens", s.drafts, 0, MOST_DRAFTS, "drafts", even=True),
            "acceptance": count("Acceptance", "%", s.percent, 0, 100, "acceptance", even=True),
            "machine": choice(
                "Machine", [(_machine_label(name), name) for name in machines()], s.machine, "machine", "480px"
            ),
        }
        self._counts, self._windows, self._others, self._prediction, self._problem = (w.HTML() for _ in range(5))
        self.view = PartsView(parts.bars(captions.calls(s, self.beside)), captions.plain(s))
        self._copy = controls.CodeBox(code=s.code())
        self._code = w.Accordion([self._copy], titles=("Copy as code",), selected_index=None)

    def _column(self) -> list[w.Widget]:
        c, heading = self._controls, controls.heading
        return [
            heading("The model"), c["model"], c["weights"],
            heading("The text"), c["prompt"],
            heading("The window of its sliding layers"), c["window"], c["own"],
            heading("Drafts that a step verifies"), c["drafts"], c["acceptance"],
            heading("Predict for"), c["machine"], self._code,
        ]  # fmt: skip

    def _take(self, name: str, value: Any) -> None:
        """Show the settings with a control's new value."""
        values = {key: control.value for key, control in self._controls.items()} | {name: value}
        percent, s = values["acceptance"], self.settings
        values["acceptance"] = s.acceptance if percent == s.percent else percent / 100  # code may give finer ones
        if values.pop("own") or name == "model":  # another model comes with its own window
            values["window"] = None
        try:
            self._accept(ModelSettings(**values))
        except (TypeError, ValueError) as error:
            self._problem.value = controls.problem(str(error), ADVICE)

    def _accept(self, settings: ModelSettings) -> None:
        """Show these settings, in the controls, too."""
        with self._changes.setting():
            self.settings = settings
            self._set_controls(settings)
            self._problem.value = ""
            self._show()

    def _set_controls(self, settings: ModelSettings) -> None:
        for name, control in self._controls.items():
            if name == "own":
                control.value = settings.window is None
            elif name == "window":
                control.value = settings.window_used or control.value
            elif name == "acceptance":
                control.value = settings.percent
            else:
                control.value = getattr(settings, name)

    def _show(self) -> None:
        s = self.settings
        self._controls["window"].disabled = s.window is None
        self._controls["own"].disabled = s.own_window is None
        self._controls["acceptance"].disabled = s.drafts == 0
        self.view.show(parts.bars(captions.calls(s, self.beside)), captions.plain(s))
        self._counts.value = captions.counts(s)
        self._windows.value = captions.windows(s)
        self._others.value = captions.others(s, self.beside)
        self._prediction.value = captions.prediction(s, self.beside)
        self._copy.code = s.code()

    def still(self) -> tuple[bytes, str]:
        text = f"ModelExplorer: {captions.plain(self.settings)}"
        return nibbles.png(self.view.picture, text), text


def _machine_label(name: str) -> str:
    machine = machines()[name]
    return f"{name}: {machine.bandwidth_gbps:,.0f} GB/s, {machine.tflops:,.0f} TFLOP/s"
