"""MaskExplorer: choose a mask and a problem, see at once which tiles are visited, what that is worth; measure it."""

from __future__ import annotations

import threading
from dataclasses import fields
from typing import Any

import ipywidgets as w
import pandas as pd

from skiplab.figures import attention, tiles
from skiplab.figures.frames import speedups
from skiplab.machine import Machine, default_device, device_name, known_gpus, this_machine
from skiplab.measure import Measurement
from skiplab.widgets import controls
from skiplab.widgets.fallback import Pictured
from skiplab.widgets.live import LiveChart
from skiplab.widgets.mask import captions, measuring
from skiplab.widgets.mask.record import Record, record, why_not
from skiplab.widgets.mask.settings import KINDS, THIS_MACHINE, MaskSettings
from skiplab.widgets.mask.view import TileCanvas, picture
from skiplab.widgets.session import run_of
from skiplab.widgets.worker import BackgroundWorker, IsCancelled
from skiplab.workload import DTYPES, MODELS

LONGEST = 1 << 20
LARGEST_TILE = 512


class MaskExplorer(Pictured, w.VBox):
    """A tile map to explore; keywords are those of `MaskSettings`: `MaskExplorer(kind="causal", q_len=8192)`.

    `settings`, `workload` and `tilemap` are what it shows; `frame()` holds what was measured here, and
    `set(window=1024)` moves its controls from code. An unknown setting raises TypeError, a wrong value ValueError.
    `budget_s` is the most time that Measure takes for one contender; `isolate` measures in a child process.
    """

    def __init__(self, *, isolate: bool = True, budget_s: float = 3.0, **settings: Any):
        known = [field.name for field in fields(MaskSettings)]
        for name in settings:
            if name not in known:
                raise TypeError(f"{name}: MaskExplorer has no such setting; there are {', '.join(known)}")
        self.settings = MaskSettings(**settings)
        self._isolate, self._budget_s = isolate, budget_s
        self._measurements: list[Measurement] = []
        self._refreshing = threading.RLock()
        self._quiet = False
        self._roof: Machine | None = None
        self._worker = BackgroundWorker(self._failed, self._ended)
        self.canvas = TileCanvas(self.settings.tilemap)
        self._build()
        super().__init__(
            [w.HBox([self._column(), self._view()], layout=w.Layout(flex_flow="row wrap")), self._measure_box()]
        )
        self.add_class("skiplab-explorer")
        for name, control in self._controls.items():
            control.observe(lambda change, name=name: self._changed(name, change["new"]), "value")
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
        return run_of(self._measurements, self.settings.dtype).frame()

    def code(self) -> str:
        """Python that makes what is shown."""
        return self.settings.code()

    def set(self, **settings: Any) -> None:
        """Move controls from code; the same names as in `MaskSettings`."""
        wanted = {field.name: getattr(self.settings, field.name) for field in fields(MaskSettings)} | settings
        new = MaskSettings(**wanted)
        with self._refreshing:
            self._quiet = True
            for name, control in self._controls.items():
                control.value = (
                    new.kv_len is None if name == "square" else new.keys if name == "kv_len" else getattr(new, name)
                )
            self._quiet = False
            self.settings = new
            self._show()

    def measure(self) -> None:
        """The Measure button: time dense + mask and block-skip in the background; replaces the last measurement."""
        workload = self.settings.workload
        self._problem.value = ""
        self._busy(True)
        self._worker.submit(lambda cancelled: self._measure(workload, cancelled))

    def cancel(self) -> None:
        """Stop the running measurement; its finished results are kept."""
        self._worker.cancel()
        self._busy(False)
        self._progress.value = controls.status("cancelled")

    def wait(self, timeout_s: float = 60.0) -> bool:
        """Wait until the measurement has ended; False when it has not within the time. For scripts and tests."""
        return self._worker.wait(timeout_s)

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
            "sink": count("Sink", "keys", s.sink, 0, 4096, "sink"),
            "prefix": count("Prefix", "keys", s.prefix, 0, LONGEST, "prefix"),
            "chunk": count("Chunk", "tokens", s.chunk, 1, LONGEST, "chunk"),
            "documents": count("Documents", "prompts", s.documents, 1, 256, "documents"),
            "stride": count("Stride", "keys", s.stride, 1, 8192, "stride"),
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
        self._counts, self._work, self._prediction = w.HTML(), w.HTML(), w.HTML()
        self._progress, self._problem, self._table, self._recorded = w.HTML(), w.HTML(), w.HTML(), w.HTML()
        self._figure = LiveChart()
        button = controls.button
        self._measure_button = button(
            "Measure here",
            "play",
            "Time dense + mask against block-skip on this machine",
            self.measure,
            "measure",
            True,
        )
        self._cancel_button = button("Cancel", "stop", "Stop the measurement", self.cancel, "cancel")
        self._record_button = button(
            "Record the kernel", "bullseye", "Lay over the map what the Triton kernel visits", self.record, "record"
        )
        self._cancel_button.disabled = True
        reason = why_not()
        self._record_button.disabled = reason is not None
        self._recorded.value = controls.hint(reason) if reason else ""
        self._copy = controls.CodeBox(code=s.code())
        self._code = w.Accordion([self._copy], titles=("Copy as code",), selected_index=None)

    def _column(self) -> w.Widget:
        c = self._controls
        shape = [c[name] for name in ("q_len", "square", "kv_len", "block_m", "block_n")]
        mask = [
            c[name] for name in ("kind", "window", "sink", "prefix", "chunk", "documents", "stride", "inside_causal")
        ]
        machine = [c[name] for name in ("model", "batch", "dtype", "predict_for")]
        groups = [controls.heading("Which keys a query sees"), *mask, controls.heading("Problem and tiles"), *shape,
                  controls.heading("Head shape and machine"), *machine]  # fmt: skip
        return w.VBox([*groups, self._code], layout=w.Layout(width="500px"))

    def _view(self) -> w.Widget:
        return w.VBox(
            [self._counts, self.canvas, self._work, self._prediction],
            layout=w.Layout(min_width="480px", flex="1 1 480px"),
        )

    def _measure_box(self) -> w.Widget:
        row = w.HBox(
            [self._measure_button, self._cancel_button, self._record_button, self._progress],
            layout=w.Layout(flex_flow="row wrap"),
        )
        return w.VBox([row, self._recorded, self._problem, self._figure, self._table])

    # what happens

    def _changed(self, name: str, value: Any) -> None:
        if self._quiet:
            return
        with self._refreshing:
            values = {key: control.value for key, control in self._controls.items()}
            square = values.pop("square")
            if square:
                values["kv_len"] = None
            self.settings = MaskSettings(**values)
            self._show()

    def _show(self) -> None:
        s, c = self.settings, self._controls
        used = KINDS[s.kind].parameters
        for kind in KINDS.values():
            for name in kind.parameters:
                c[name].layout.display = None if name in used else "none"
        c["kv_len"].layout.display = "none" if s.kv_len is None else None
        if s.kv_len is None:
            self._quiet = True
            c["kv_len"].value = s.q_len
            self._quiet = False
        tilemap, workload = s.tilemap, s.workload
        if tilemap is not self.canvas.tilemap:
            self.canvas.show(tilemap)
            self._recorded.value = self._recorded.value if self._record_button.disabled else ""
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
        self._worker.submit(self._measure_roof)

    def _measure_roof(self, cancelled: IsCancelled) -> None:
        self._roof = this_machine(default_device(), self.settings.dtype)
        self._predict()

    def _measure(self, workload: Any, cancelled: IsCancelled) -> None:
        def say(text: str) -> None:
            self._progress.value = controls.status(f"{text} …")

        taken = measuring.measure_pair(workload, cancelled, say, budget_s=self._budget_s, isolate=self._isolate)
        for item in taken:
            if isinstance(item, measuring.Refused):
                self._problem.value += controls.problem(item.what, item.advice)
                continue
            if item.status != "ok":
                self._problem.value += controls.problem(
                    f"{item.label}: {item.status}. {item.error_text}", ADVICE.get(item.status, "")
                )
            self._measurements.append(item)
            self._draw()
        done = controls.status(f"measured on {device_name(default_device())}")
        self._progress.value = "" if cancelled() else done

    def _draw(self) -> None:
        table = self.frame()
        self._figure.draw(attention.speedup(table))
        self._table.value = captions.measured(speedups(table), table)

    def record(self) -> None:
        """The Record button: run the Triton kernel on this mask and lay its record over the map."""
        self._problem.value = ""
        self._busy(True)
        self._worker.submit(lambda cancelled: self._lay_over(record(self.settings)))

    def _lay_over(self, made: Record) -> None:
        with self._refreshing:
            self.set(block_m=made.tilemap.block_m, block_n=made.tilemap.block_n)
            wrong = self.canvas.lay_over(made.visits)
        if wrong:
            self._recorded.value = controls.problem(
                f"THE KERNEL DIFFERS FROM THE PLAN in {wrong:,} of {made.visits.size:,} tiles (crossed out above).",
                "This is a bug in the kernel or in the plan: copy the state as code and report it.",
            )
        else:
            self._recorded.value = controls.status(
                f"Recorded on {made.device}: {made.description}; no tile differs from the plan."
            )

    def _failed(self, error: Exception) -> None:
        if type(error).__name__ != "Cancelled":
            advice = (
                error.args[1] if len(error.args) > 1 else "Change the setting that the message names, then try again."
            )
            self._problem.value = controls.problem(
                f"{type(error).__name__}: {error.args[0] if error.args else error}", str(advice)
            )

    def _ended(self) -> None:
        self._busy(False)

    def _busy(self, busy: bool) -> None:
        self._cancel_button.disabled = not busy
        if not busy and "…" in self._progress.value:
            self._progress.value = ""

    def close(self) -> None:
        """Stop the running measurement and close the widgets."""
        if hasattr(self, "_worker"):  # not where the constructor refused its arguments
            self._worker.cancel()
        super().close()

    def still(self) -> tuple[bytes, str]:
        text = f"MaskExplorer: {self.settings.mask!r}, {self.settings.q_len:,} queries x {self.settings.keys:,} keys: "
        return picture(self.tilemap), text + tiles.summary(self.tilemap)


ADVICE = {
    "wrong": "The result is outside the tolerance, so its time counts for nothing: copy the state as code, report it.",
    "out-of-memory": "Shorten the prompt, or choose a smaller head shape.",
    "timeout": "Shorten the prompt, or choose a smaller head shape.",
    "crashed": "Copy the state as code and run it in a cell of its own to see the whole error.",
    "unsupported": "Choose a mask, dtype or shape that this contender takes.",
}


def _model_label(name: str) -> str:
    shape = MODELS[name]
    return f"{name}: {shape.q_heads} query, {shape.kv_heads} key heads of {shape.head_dim}"
