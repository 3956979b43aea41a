"""MaskExplorer: choose a mask and a problem, see at once which tiles are visited, what that is worth; measure it."""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from typing import Any

import ipywidgets as w
import pandas as pd
import traitlets

from skiplab.figures import tiles
from skiplab.machine import Machine, default_device, device_name, known_gpus, this_machine
from skiplab.widgets import controls
from skiplab.widgets.changes import Changes
from skiplab.widgets.fallback import Pictured
from skiplab.widgets.mask import captions
from skiplab.widgets.mask.bench import MeasureBox
from skiplab.widgets.mask.record import Record
from skiplab.widgets.mask.settings import KINDS, THIS_MACHINE, MaskSettings
from skiplab.widgets.mask.view import TileCanvas, picture
from skiplab.widgets.worker import IsCancelled
from skiplab.workload import DTYPES, MODELS

LONGEST = 1 << 20
LARGEST_TILE = 512
INSIDE_THE_PROMPT = ("window", "sink", "prefix", "chunk", "stride")
"""Settings whose controls end where the keys do."""
ADVICE = "Correct it; the picture still shows the last mask that could be read."


class MaskExplorer(Pictured, w.VBox):
    """A tile map to explore; keywords are those of `MaskSettings`: `MaskExplorer(kind="causal", q_len=8192)`.

    `settings` is a trait: `explorer.observe(function, "settings")` tells of every change. `workload` and `tilemap` are
    what it shows, `frame()` holds what was measured here, and `set(window=1024)` moves its controls from code. An
    unknown setting raises TypeError, a wrong value ValueError. `budget_s` is the most time that Measure times one
    contender for; `isolate` measures in a child process.
    """

    settings = traitlets.Instance(MaskSettings)

    def __init__(self, *, isolate: bool = True, budget_s: float = 3.0, **settings: Any):
        known = [field.name for field in fields(MaskSettings)]
        for name in settings:
            if name not in known:
                raise TypeError(f"{name}: MaskExplorer has no such setting; there are {', '.join(known)}")
        self.settings = MaskSettings(**settings)
        self._changes = Changes()
        self._roof: Machine | None = None
        self.canvas = TileCanvas(self.settings.tilemap)
        self.bench = MeasureBox(lambda: self.settings, self._lay_over, budget_s, isolate)
        self._build()
        view = [self._counts, self._problem, self.canvas, self._work, self._prediction]
        super().__init__(controls.page(self._column(), view, [self.bench]))
        self.add_class("skiplab-page")
        self.add_class("skiplab-explorer")
        for name, control in self._controls.items():
            control.observe(self._changes.heard(partial(self._take, name)), "value")
        self._show()

    @property
    def workload(self):
        """The problem that is shown."""
        return self.settings.workload

    @property
    def tilemap(self):
        """The tile map that is shown."""
        return self.canvas.tilemap

    def frame(self) -> pd.DataFrame:
        """The points measured in this explorer, with the columns of every run (`store.frame`)."""
        return self.bench.frame()

    def code(self) -> str:
        """Python that makes what is shown."""
        return self.settings.code()

    def set(self, **settings: Any) -> None:
        """Move controls from code; the same names as in `MaskSettings`."""
        wanted = {field.name: getattr(self.settings, field.name) for field in fields(MaskSettings)} | settings
        new = MaskSettings(**wanted)
        with self._changes.setting():
            for name, control in self._controls.items():
                control.value = (
                    new.kv_len is None if name == "square" else new.keys if name == "kv_len" else getattr(new, name)
                )
            self.settings = new
            self._show()

    def measure(self) -> None:
        """The Measure button: time dense + mask and blockskip in the background."""
        self.bench.measure()

    def record(self) -> None:
        """The Record button: run the Triton kernel on this mask and lay its record over the map."""
        self.bench.record()

    def cancel(self) -> None:
        """Stop the running measurement; its finished results are kept."""
        self.bench.cancel()

    def wait(self, timeout_s: float = 60.0) -> bool:
        """Wait until the measurement has ended; False when it has not within the time. For scripts and tests."""
        return self.bench.worker.wait(timeout_s)

    # what is seen

    def _build(self) -> None:
        s = self.settings
        gpus = [(f"{gpu.name} (data sheet)", name) for name, gpu in known_gpus().items()]
        here = (f"this machine: {device_name(default_device())} (measured)", THIS_MACHINE)
        models = [(_model_label(name), name) for name in MODELS]
        count, choice = controls.CountControl, controls.choice
        self._controls: dict[str, Any] = {
            "kind": choice("Mask", [(kind.label, name) for name, kind in KINDS.items()], s.kind, "kind"),
            "window": count("Window", "keys", s.window, 1, LONGEST, "window"),
            "sink": count("Sink", "keys", s.sink, 0, LONGEST, "sink"),
            "prefix": count("Prefix", "keys", s.prefix, 0, LONGEST, "prefix"),
            "chunk": count("Chunk", "tokens", s.chunk, 1, LONGEST, "chunk"),
            "documents": count("Documents", "prompts", s.documents, 1, 256, "documents"),
            "stride": count("Stride", "keys", s.stride, 1, LONGEST, "stride"),
            "text": controls.field("Text", s.text, "text", "as `skiplab sweep --mask` takes it; Enter shows it"),
            "inside_causal": controls.tick("and causal", s.inside_causal, "causal"),
            "q_len": count("Prompt length", "queries", s.q_len, 1, LONGEST, "q-len"),
            "square": controls.tick("as many keys as queries (prefill)", s.kv_len is None, "square"),
            "kv_len": count("Keys", "keys", s.keys, 1, LONGEST, "kv-len"),
            "block_m": count("Tile height", "queries", s.block_m, 1, LARGEST_TILE, "block-m"),
            "block_n": count("Tile width", "keys", s.block_n, 1, LARGEST_TILE, "block-n"),
            "model": choice("Head shape", models, s.model, "model"),
            "batch": count("Batch", "prompts", s.batch, 1, 64, "batch"),
            "dtype": choice("Number format", DTYPES, s.dtype, "dtype", "240px"),
            "predict_for": choice("Predict for", [*gpus, here], s.predict_for, "predict-for"),
        }
        self._counts, self._work, self._prediction, self._problem = (w.HTML() for _ in range(4))
        self._copy = controls.CodeBox(code=s.code())
        self._code = w.Accordion([self._copy], titles=("Copy as code",), selected_index=None)

    def _column(self) -> list[w.Widget]:
        names = {
            "Which keys a query sees": ("kind", *dict.fromkeys(p for kind in KINDS.values() for p in kind.parameters)),
            "Problem and tiles": ("q_len", "square", "kv_len", "block_m", "block_n"),
            "Head shape and machine": ("model", "batch", "dtype", "predict_for"),
        }
        groups = ([controls.heading(title), *(self._controls[name] for name in own)] for title, own in names.items())
        return [*(control for group in groups for control in group), self._code]

    # what happens

    def _take(self, name: str, value: Any) -> None:
        """Show the settings with a control's new value."""
        values = {key: control.value for key, control in self._controls.items()} | {name: value}
        if values.pop("square"):
            values["kv_len"] = None
        try:
            settings = MaskSettings(**values)
        except ValueError as error:
            self._problem.value = controls.problem(str(error), ADVICE)
            return
        with self._changes.setting():
            self._controls[name].value = value  # `set` on another thread may have set it back
            self.settings = settings
            self._show()

    def _show(self) -> None:
        s, c = self.settings, self._controls
        self._problem.value = ""
        used = KINDS[s.kind].parameters
        for kind in KINDS.values():
            for name in kind.parameters:
                c[name].layout.display = None if name in used else "none"
        c["kv_len"].layout.display = "none" if s.kv_len is None else None
        if s.kv_len is None:
            c["kv_len"].value = s.q_len
        for name in INSIDE_THE_PROMPT:
            c[name].limit(s.keys)
        tilemap, workload = s.tilemap, s.workload
        if tilemap is not self.canvas.tilemap:
            self.canvas.show(tilemap)
            self.bench.forget_record()
        self._counts.value = captions.counts(tilemap)
        self._work.value = captions.work(workload, tilemap)
        self._copy.code = s.code()
        self._predict()

    def _predict(self) -> None:
        s = self.settings
        machine = known_gpus().get(s.predict_for) or self._roof
        if machine is not None and (s.predict_for != THIS_MACHINE or machine.dtype == s.dtype):
            self._prediction.value = captions.prediction(s.workload, s.tilemap, machine)
            return
        self._prediction.value = "Measuring this machine's roofs (about 2 s) …"
        self.bench.worker.submit(self._measure_roof)

    def _measure_roof(self, cancelled: IsCancelled) -> None:
        self._roof = this_machine(default_device(), self.settings.dtype)
        with self._changes.setting():
            self._predict()

    def _lay_over(self, made: Record) -> int:
        """Show the tiles of the kernel's launch with its record over them; return how many differ from the plan."""
        with self._changes.setting():
            self.set(block_m=made.tilemap.block_m, block_n=made.tilemap.block_n)
            return self.canvas.lay_over(made.visits)

    def close(self) -> None:
        """Stop the running measurement and close the widgets."""
        if hasattr(self, "bench"):  # not where the constructor refused its arguments
            self.bench.worker.cancel()
        super().close()

    def still(self) -> tuple[bytes, str]:
        text = f"MaskExplorer: {self.settings.mask!r}, {self.settings.q_len:,} queries x {self.settings.keys:,} keys: "
        return picture(self.tilemap), text + tiles.summary(self.tilemap)


def _model_label(name: str) -> str:
    shape = MODELS[name]
    return f"{name}: {shape.q_heads} query, {shape.kv_heads} key heads of {shape.head_dim}"
