"""SweepPanel: choose an operation, contenders and settings; watch the figure grow; compare it with other runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from threading import RLock
from typing import Any

import ipywidgets as w
import pandas as pd

from skiplab.figures import static
from skiplab.figures.charts import Chart, is_empty
from skiplab.figures.frames import by_method
from skiplab.machine import known_gpus
from skiplab.measure import Measurement, Point
from skiplab.operations import DEFAULT_OPERATION
from skiplab.paths import data_path, file_name, inside, runs_directory
from skiplab.store import Run, frame, read_run
from skiplab.sweep import AnySweep, Progress, Where, run_sweep
from skiplab.widgets import controls
from skiplab.widgets.fallback import Pictured
from skiplab.widgets.live import LiveChart
from skiplab.widgets.sweep.form import FormControls
from skiplab.widgets.sweep.forms import FORMS
from skiplab.widgets.sweep.settings import PanelForm
from skiplab.widgets.sweep.stored import stored
from skiplab.widgets.sweep.where import WhereControls
from skiplab.widgets.worker import BackgroundWorker, IsCancelled, Stages

PREDICTED = "predicted: "
NOTHING = "press Run to measure, or choose something stored, published or predicted"


class SweepPanel(Pictured, w.VBox):
    """A sweep with buttons; its rows go to a run file as they come, and the same sweep again goes on where it stopped.

    operation: attention, decode, linear or model, which may be changed in the panel. contenders: those ticked at first
    (None: a few). budget_s: the most seconds of timing a point. devices, cluster, gpu: where it measures at first, as
    `run_sweep` has them. fields: first values of the operation's settings:
    q_len, window (None is plain causal), model (a name of `skiplab.MODELS`), dtype; of decode kv_len, window, buffer,
    model, dtype; of linear shape, rows, bits, group_size, dtype; of model model (a name in `data/models`), prompt,
    depth, rows, new, bits, dtype. `frame()` is all that is shown, `run` the last run.
    """

    def __init__(
        self,
        contenders: Iterable[str] | None = None,
        *,
        operation: str = DEFAULT_OPERATION,
        budget_s: float = 2.0,
        directory: Path | str | None = None,
        isolate: bool = True,
        devices: Sequence[str] = (),
        cluster: str | None = None,
        gpu: str | None = None,
        **fields: Any,
    ):
        if operation not in FORMS:
            raise ValueError(f"operation: got {operation!r}; allowed are {', '.join(FORMS)}")
        self._forms = {operation: FormControls(FORMS[operation], contenders, fields)}
        self._directory = Path(directory) if directory is not None else runs_directory()
        self._directory.mkdir(parents=True, exist_ok=True)
        self._isolate = isolate
        self._worker = BackgroundWorker(self._failed, self._ended)
        self._state, self._changing = RLock(), False  # the worker draws too, from its thread
        self._measurements: dict[str, list[Measurement]] = {name: [] for name in FORMS}
        self._began: dict[str, Run] = {}
        self._where = WhereControls(devices, cluster, gpu)
        self.run: Run | None = None
        self._stage = ("", "")  # of which operation something is measured now, and what
        self._build(operation, budget_s)
        columns = w.HBox([self._settings(), self._over()])
        columns.add_class("skiplab-columns")
        below = [self._by_device, self._problem, self._left_out, self.figure]
        super().__init__([controls.style(), columns, self._buttons(), *below])
        self.add_class("skiplab-page")
        self.add_class("skiplab-sweep")
        self._draw()

    @property
    def operation(self) -> str:
        """The operation chosen, by its name."""
        return str(self._operation.value)

    @property
    def form(self) -> PanelForm:
        """The form of the chosen operation."""
        return FORMS[self.operation]

    @property
    def controls(self) -> FormControls:
        """Tick boxes and fields of the operation chosen."""
        return self._forms[self.operation]

    def sweep(self) -> AnySweep:
        """The sweep that the controls describe; ValueError says which field cannot be read."""
        return self.controls.sweep(self._budget.value, self._where.where.device)

    def frame(self) -> pd.DataFrame:
        """All rows that the figure draws: those measured here, and the runs laid over them."""
        parts = [part for part in self._frames() if len(part)]
        return pd.concat(parts, ignore_index=True) if parts else frame([])

    def start(self) -> None:
        """The Run button: starts the sweep, and stops one that is running."""
        self._problem.value = ""
        try:
            sweep = self.sweep()
        except (TypeError, ValueError) as error:
            self._problem.value = controls.problem(str(error), "Correct the field that the message names.")
            return
        self._measurements[self.operation] = []
        self.run = None
        self._busy(True)
        form, where, name = self.form, self._where.where, self._where.name
        self._worker.submit(lambda cancelled: self._run(sweep, form, where, name, cancelled))

    def cancel(self) -> None:
        """Stop; the run file keeps what was measured, and the same sweep continues from there."""
        self._worker.cancel()
        self._busy(False)
        self._say("cancelled; Run goes on where it stopped")

    def wait(self, timeout_s: float = 600.0) -> bool:
        """Wait until the sweep has ended; False when it has not within the time. For scripts and tests."""
        return self._worker.wait(timeout_s)

    def save(self) -> list[Path]:
        """Write the figure as PNG and its rows as CSV to the folder in the field; returns both paths."""
        folder = Path(self._folder.value).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        name = self.run.run_id if self.run else "skiplab-sweep"
        picture, rows = (inside(folder, file_name(name, suffix)) for suffix in (".png", ".csv"))
        picture.write_bytes(static.png(self._chart()))
        self.frame().to_csv(rows, index=False)
        return [picture, rows]

    # what is seen

    def _build(self, operation: str, budget_s: float) -> None:
        options = [(form.label, name) for name, form in FORMS.items()]
        self._operation = controls.choice("Operation", options, operation, "operation", "380px")
        self._budget = w.BoundedFloatText(
            budget_s, min=0.1, max=15, step=0.5, description="Time a point",
            style={"description_width": controls.LABEL}, layout=w.Layout(width="210px"),
        )  # fmt: skip
        self._form_box = w.VBox([self.controls])
        self._stored = w.SelectMultiple(options=self._choices(), rows=9, layout=w.Layout(width="480px"))
        self._stored.add_class("skiplab-stored")
        self._view = controls.choice("Figure", self.form.views, next(iter(self.form.views)), "view", "480px")
        self._folder = w.Text(".", description="Folder", layout=w.Layout(width="240px"))
        self._bar = w.IntProgress(layout=w.Layout(width="160px"))
        self._status, self._by_device, self._problem, self._left_out = (w.HTML() for _ in range(4))
        self._bar.layout.visibility = "hidden"
        self.figure = LiveChart()
        self._operation.observe(lambda _: self._change(), "value")
        self._stored.observe(lambda _: self._draw(), "value")
        self._view.observe(lambda _: self._draw(), "value")
        self._where.choice.observe(lambda _: self._moved(), "value")
        self._run_button = controls.button("Run", "play", "", self.start, "run", True)
        self._moved()
        self._listen()

    def _choices(self) -> list[tuple[str, str]]:
        folders = dict.fromkeys([self._directory, runs_directory(), data_path("runs")])
        return [
            *((name, name) for name in self.form.published),
            *stored(folders, self.operation),
            *((f"{PREDICTED}{name}, at the settings beside", f"{PREDICTED}{name}") for name in known_gpus()),
        ]

    def _settings(self) -> w.Widget:
        timing = w.HBox([self._budget, w.Label("seconds at most")])
        return w.VBox([self._operation, self._form_box, timing, self._where])

    def _over(self) -> w.Widget:
        hint = w.HTML(controls.hint("Ctrl-click (or Ctrl+Space) lays several over the figure."))
        reload = controls.button("Look again", "refresh", "List the run files anew", self._relist, "relist")
        save = controls.button("Save figure and rows", "download", "PNG and CSV into the folder", self._save, "save")
        return w.VBox([controls.heading("Stored, published and predicted"), self._stored, w.HBox([reload, hint]),
                       controls.heading("Figure"), self._view, w.HBox([self._folder, save])])  # fmt: skip

    def _buttons(self) -> w.Widget:
        self._cancel = controls.button("Cancel", "stop", "Stop; what is measured is kept", self.cancel, "cancel")
        self._busy(False)
        return w.HBox([self._run_button, self._cancel, self._bar, self._status], layout=w.Layout(flex_flow="row wrap"))

    # what happens

    def _change(self) -> None:
        """Switch to another operation: its controls, figures and comparable runs; a running sweep goes on."""
        with self._state:
            self._changing = True
            if self.operation not in self._forms:
                self._forms[self.operation] = FormControls(self.form, None, {})
                self._listen()
            self._moved()
            self._problem.value = ""
            self._form_box.children = [self.controls]
            self._stored.value, self._stored.options = (), self._choices()
            self._view.options = list(self.form.views)
            self._changing = False
            self._draw()

    def _listen(self) -> None:
        """Update predictions when the fields change."""
        for control in self.controls.fields.values():
            control.observe(lambda _: self._predict_again(), "value")

    def _moved(self) -> None:
        """Follow where it measures: a cluster may have what this machine lacks."""
        self.controls.allow_all(self._where.where.cluster is not None)
        self._run_button.tooltip = f"Measure on {self._where.name}"

    def _predict_again(self) -> None:
        if any(choice.startswith(PREDICTED) for choice in self._stored.value):
            self._problem.value = ""
            self._draw()

    def _run(self, sweep: AnySweep, form: PanelForm, where: Where, name: str, cancelled: IsCancelled) -> None:
        which = list[str]()
        points, taken = len(sweep.points()), self._measurements[form.operation]
        self._bar.max, self._bar.value, self._bar.layout.visibility = points, 0, "visible"
        stages = Stages(cancelled, lambda words: self._say("; ".join([f"{words} …", *which])))
        first = "starting workers" if where.cluster else "measuring this machine's roofs first"
        self._begin(stages, form.operation, f"{points} points on {name}: {first}")

        def on_start(held: Run) -> None:
            self._began[form.operation] = held
            taken.extend(map(Measurement.from_row, held.rows))
            self._bar.value = len(taken)

        def on_points(begun: Sequence[Point]) -> None:
            labels = " and ".join(point.entry.label for point in begun)
            what = f"{len(taken) + 1} of {points}: {labels}, {form.point(begun[0].workload)}"
            each = ", in turn, each" if len(begun) > 1 else ""
            words = f"{what}: checking against float64, then timing{each} for {sweep.budget_s:g} s at most"
            self._begin(stages, form.operation, words)

        def on_measurement(item: Measurement) -> None:
            taken.append(item)
            self._bar.value = len(taken)
            now = f"{len(taken)} of {points}: {item.label}, {form.point(item.point.workload)}: {item.status}"
            self._say("; ".join([now, *which]))
            self._draw()

        def on_progress(progress: Progress) -> None:
            if progress.begins:
                on_points(progress.begins)
            if len(progress.devices) > 1:
                self._by_device.value = controls.status(str(progress))

        self._by_device.value = ""
        self.run = run_sweep(
            sweep, topic="panel", folder=self._directory, on_start=on_start, on_measurement=on_measurement,
            on_progress=on_progress, cancelled=stages, progress=False, isolate=self._isolate, anew=True,
            say=which.append, **where.options,
        )  # fmt: skip
        self._draw()
        if not cancelled() and self.run.path:
            self._say("; ".join([f"done; the run is kept as {self.run.path.name}", *which]))
        self._relist()

    def _begin(self, stages: Stages, operation: str, words: str) -> None:
        """A stage of the sweep that runs: in the status line, and in a figure that has no point yet."""
        self._stage = (operation, words)
        stages.begin(words)
        self._draw_empty()

    def _draw_empty(self) -> None:
        """Draw a figure without points again, which says what is done or what to do."""
        if self.figure.chart is not None and is_empty(self.figure.chart):
            self._draw()

    def _frames(self) -> list[pd.DataFrame]:
        taken = self._measurements[self.operation]
        mine = [self._rows(self._session(taken))] if taken else []
        return [*mine, *self._chosen_frames()]

    def _session(self, taken: list[Measurement]) -> Run:
        """What was measured by now as a run, with the header of the run that it goes into."""
        header = {**self._began[self.operation].header, "run_id": "this session"}
        return Run(header, tuple(item.row() for item in taken), source="measured")

    def _chosen_frames(self) -> list[pd.DataFrame]:
        """The rows of each that is chosen in the list."""
        parts = []
        for choice in self._stored.value:
            if choice in self.form.published:
                parts.append(self.form.published[choice]())
            elif choice.startswith(PREDICTED):
                parts.append(self.controls.predicted(known_gpus()[choice.removeprefix(PREDICTED)]))
            else:
                parts.append(self._rows(read_run(choice)))
        return parts

    def _rows(self, run: Run) -> pd.DataFrame:
        """The run's rows; for each way of timing, if the form says so."""
        return by_method(run) if self.form.each_method else run.frame()

    def _chart(self) -> Chart:
        """The figure chosen, of all rows; without any it says what is done, or what to do."""
        table = self.frame()
        chart = self._figure_of(table)
        operation, stage = self._stage
        if is_empty(chart) and operation == self.operation:
            return replace(chart, note=stage)
        return chart if len(table) else replace(chart, note=NOTHING)

    def _figure_of(self, table: pd.DataFrame) -> Chart:
        return self.form.views[str(self._view.value)](table)

    def _nothing_of(self) -> str:
        """What was chosen and is not in the figure, as HTML, with the reason."""
        said = []
        for name, table in zip(self._stored.value, self._chosen_frames(), strict=True):
            chart = self._figure_of(table)
            if is_empty(chart):
                said.append(f"{Path(name).stem if name.endswith('.jsonl') else name}: nothing to show: {chart.note}")
        return "".join(map(controls.hint_line, said))

    def _draw(self) -> None:
        with self._state:
            if self._changing:
                return
            try:
                self.figure.draw(self._chart())
                self._left_out.value = self._nothing_of()
            except (TypeError, ValueError) as error:  # a run file or a field that cannot be read: the message names it
                self._problem.value = controls.problem(str(error), "Correct the field, or choose another run.")

    def _relist(self) -> None:
        chosen, choices = self._stored.value, self._choices()
        self._stored.options = choices
        self._stored.value = [value for value in chosen if value in {path for _, path in choices}]

    def _save(self) -> None:
        try:
            paths = self.save()
        except OSError as error:
            self._problem.value = controls.problem(f"Saving failed: {error}", "Name a folder that can be written to.")
            return
        self._say("written: " + ", ".join(path.name for path in paths))

    def _say(self, text: str) -> None:
        self._status.value = controls.status(text)

    def _failed(self, error: Exception) -> None:
        self._problem.value = controls.problem(
            f"{type(error).__name__}: {error}", "Change what the message names, then press Run."
        )

    def _ended(self) -> None:
        self._busy(False)
        self._stage = ("", "")
        self._draw_empty()

    def _busy(self, busy: bool) -> None:
        self._run_button.disabled, self._cancel.disabled = busy, not busy

    def close(self) -> None:
        """Stop the running sweep and close the widgets."""
        if hasattr(self, "_worker"):  # not where the constructor refused its arguments
            self._worker.cancel()
        super().close()

    def still(self) -> tuple[bytes, str]:
        chart = self._chart()
        return static.png(chart, bare=True), static.text(chart)
