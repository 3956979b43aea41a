"""Under the explorer of masks: buttons that measure or record what it shows, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ipywidgets as w
import pandas as pd
import torch

from skiplab.figures import attention
from skiplab.figures.frames import speedups
from skiplab.machine import default_device, device_name
from skiplab.measure import Measurement
from skiplab.widgets import controls
from skiplab.widgets.live import LiveChart
from skiplab.widgets.mask import captions, measuring
from skiplab.widgets.mask.record import Record, record, why_not
from skiplab.widgets.mask.settings import MaskSettings
from skiplab.widgets.session import run_of
from skiplab.widgets.worker import BackgroundWorker, IsCancelled

ADVICE = {
    "wrong": "The result is outside the tolerance, so its time counts for nothing: copy the state as code, report it.",
    "out-of-memory": "Shorten the prompt, or choose a smaller head shape.",
    "timeout": "Shorten the prompt, or choose a smaller head shape.",
    "crashed": "Copy the state as code and run it in a cell of its own to see the whole error.",
    "unsupported": "Choose a mask, dtype or shape that this contender takes.",
}


class MeasureBox(w.VBox):
    """Measures and records on a thread. settings(): what the explorer shows; lay_over(record): shows a kernel's record.

    One thing at a time: while it runs its buttons are disabled, but for Cancel.
    """

    def __init__(
        self,
        settings: Callable[[], MaskSettings],
        lay_over: Callable[[Record], int],
        budget_s: float,
        isolate: bool,
    ):
        self._settings, self._lay_over = settings, lay_over
        self._budget_s, self._isolate = budget_s, isolate
        self._measurements: list[Measurement] = []
        self.worker = BackgroundWorker(self._failed, self._ended)
        self.progress, self.problem, self.table, self.recorded = w.HTML(), w.HTML(), w.HTML(), w.HTML()
        self.figure = LiveChart()
        what = "Time dense + mask against blockskip on this machine"
        self.measure_button = controls.button("Measure here", "play", what, self.measure, "measure", True)
        self.cancel_button = controls.button("Cancel", "stop", "Stop what runs", self.cancel, "cancel")
        what = "Lay over the map what the Triton kernel visits"
        self.record_button = controls.button("Record the kernel", "bullseye", what, self.record, "record")
        self._no_record = why_not()
        self.recorded.value = controls.hint(self._no_record) if self._no_record else ""
        self._busy(False)
        buttons = [self.measure_button, self.cancel_button, self.record_button, self.progress]
        row = w.HBox(buttons, layout=w.Layout(flex_flow="row wrap"))
        super().__init__([row, self.recorded, self.problem, self.figure, self.table], layout=w.Layout(width="100%"))

    def frame(self) -> pd.DataFrame:
        """The points measured here, with the columns of every run."""
        return run_of(self._measurements, self._settings().dtype).frame()

    def measure(self) -> None:
        """Time dense + mask and blockskip in the background; what runs already is replaced."""
        workload = self._settings().workload
        self._begin()
        self.worker.submit(lambda cancelled: self._measure(workload, cancelled))

    def record(self) -> None:
        """Run the Triton kernel on this mask, and lay its record over the map."""
        settings = self._settings()
        self._begin()
        slow = "" if torch.cuda.is_available() else " in Triton's interpreter, for up to half a minute"
        self._say(f"running the kernel{slow}")
        self.worker.submit(lambda cancelled: self._show_record(record(settings, cancelled)))

    def cancel(self) -> None:
        """Stop what runs; finished results are kept."""
        self.worker.cancel()
        self._busy(False)
        self.progress.value = controls.status("cancelled")

    def forget_record(self) -> None:
        """Drop the words about a record, whose map is no longer shown."""
        if self._no_record is None:
            self.recorded.value = ""

    def _begin(self) -> None:
        self.problem.value = ""
        self._busy(True)

    def _say(self, text: str) -> None:
        self.progress.value = controls.status(f"{text} …")

    def _measure(self, workload: Any, cancelled: IsCancelled) -> None:
        taken = measuring.measure_pair(workload, cancelled, self._say, budget_s=self._budget_s, isolate=self._isolate)
        for item in taken:
            if isinstance(item, measuring.Refused):
                self.problem.value += controls.problem(item.what, item.advice)
                continue
            if item.status != "ok":
                what = f"{item.label}: {item.status}. {item.error_text}"
                self.problem.value += controls.problem(what, ADVICE.get(item.status, ""))
            self._measurements.append(item)
            self._draw()
        done = controls.status(f"measured on {device_name(default_device())}")
        self.progress.value = "" if cancelled() else done

    def _draw(self) -> None:
        table = self.frame()
        self.figure.draw(attention.speedup(table))
        self.table.value = captions.measured(speedups(table), table)

    def _show_record(self, made: Record) -> None:
        wrong = self._lay_over(made)
        if wrong:
            self.recorded.value = controls.problem(
                f"THE KERNEL DIFFERS FROM THE PLAN in {wrong:,} of {made.visits.size:,} tiles (crossed out above).",
                "This is a bug in the kernel or in the plan: copy the state as code and report it.",
            )
            return
        words = f"Recorded on {made.device}: {made.description}; no tile differs from the plan."
        self.recorded.value = controls.status(words)

    def _failed(self, error: Exception) -> None:
        if type(error).__name__ == "Cancelled":
            return
        what, *advice = error.args or (str(error),)
        plain = "Change the setting that the message names, then try again."
        self.problem.value = controls.problem(f"{type(error).__name__}: {what}", str(advice[0]) if advice else plain)

    def _ended(self) -> None:
        self._busy(False)

    def _busy(self, busy: bool) -> None:
        self.measure_button.disabled = busy
        self.record_button.disabled = busy or self._no_record is not None
        self.cancel_button.disabled = not busy
        if not busy and "…" in self.progress.value:
            self.progress.value = ""
