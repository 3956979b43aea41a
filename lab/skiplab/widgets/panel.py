"""SweepPanel: choose contenders, lengths and windows; watch the figure grow; lay stored and published runs over it."""

from __future__ import annotations

import html
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ipywidgets as w
import pandas as pd

from skiplab.contenders import contenders
from skiplab.figures import charts, static
from skiplab.figures.frames import published_prefill
from skiplab.figures.model import Chart
from skiplab.machine import default_device, device_name
from skiplab.measure import Measurement
from skiplab.store import Run, frame, read_run, runs_directory
from skiplab.sweep import DEFAULT_CONTENDERS, Sweep, default_path, run_sweep
from skiplab.widgets import controls, measuring
from skiplab.widgets.fallback import with_picture
from skiplab.widgets.live import LiveChart
from skiplab.widgets.worker import Cancelled, Worker
from skiplab.workload import DTYPES, MODELS, Workload

PUBLISHED = "published: ExecuTorch PR 20198, prefill of the whole model"
VIEWS = {
    "speed-up over dense + mask, by prompt length": lambda table: charts.speedup(table),
    "speed-up over dense + mask, by window": lambda table: charts.speedup(table, x="window"),
    "speed-up, prompt length × window": lambda table: charts.heatmap(table),
    "tokens/s, by prompt length": lambda table: charts.throughput(table),
    "useful TFLOP/s, by prompt length": lambda table: charts.throughput(table, "useful_tflops"),
    "useful, executed and dense work": lambda table: charts.flops(table),
    "measured against predicted": lambda table: charts.measured_vs_predicted(table),
}


class SweepPanel(w.VBox):
    """A sweep with buttons; its rows go to a run file as they come, and the same sweep again goes on where it stopped.

    contenders, q_len, window: what is chosen at first (a window of None is plain causal). model: a name of
    `skiplab.workload.MODELS`. budget_s: the most seconds of timing a point. `frame()` is all that is shown, `run` the
    last run.
    """

    def __init__(
        self,
        contenders: Iterable[str] = DEFAULT_CONTENDERS,
        *,
        q_len: Iterable[int] = (512, 1024, 2048, 4096),
        window: Iterable[int | None] = (256, 512, 1024, None),
        model: str = "laptop",
        dtype: str = "bfloat16",
        budget_s: float = 2.0,
        directory: Path | str | None = None,
        isolate: bool = True,
    ):
        self._directory = Path(directory) if directory is not None else runs_directory()
        self._directory.mkdir(parents=True, exist_ok=True)
        self._isolate = isolate
        self._worker = Worker(self._failed, self._ended)
        self._measurements: list[Measurement] = []
        self.run: Run | None = None
        self._build(tuple(contenders), tuple(q_len), tuple(window), model, dtype, budget_s)
        super().__init__([w.HBox([self._settings(), self._over()], layout=w.Layout(flex_flow="row wrap")),
                          self._buttons(), self._problem, self.figure])  # fmt: skip
        self.add_class("skiplab-sweep")
        self._draw()

    def sweep(self) -> Sweep:
        """The sweep that the controls describe; ValueError says which field cannot be read."""
        shape = MODELS[str(self._model.value)]
        return Sweep(
            tuple(name for name, box in self._boxes.items() if box.value), numbers("prompt lengths", self._q_len.value),
            windows("windows", self._window.value), q_heads=shape.q_heads, kv_heads=shape.kv_heads,
            head_dim=shape.head_dim, dtype=str(self._dtype.value), device=default_device(), budget_s=self._budget.value,
        )  # fmt: skip

    def frame(self) -> pd.DataFrame:
        """Everything that the figure draws: what was measured here, and the runs laid over it."""
        parts = [part for part in self._frames() if len(part)]
        return pd.concat(parts, ignore_index=True) if parts else frame([])

    def start(self) -> None:
        """What the Run button does; a sweep that runs is replaced."""
        self._problem.value = ""
        try:
            sweep = self.sweep()
        except ValueError as error:
            self._problem.value = controls.problem(str(error), "Correct the field that the message names.")
            return
        self._measurements = []
        self.run = None
        self._cancel.disabled = False
        self._worker.submit(lambda cancelled: self._run(sweep, cancelled))

    def cancel(self) -> None:
        """Stop; what has been measured is in the run file, and the same sweep goes on from there."""
        self._worker.cancel()
        self._cancel.disabled = True
        self._say("cancelled; Run goes on where it stopped")

    def wait(self, timeout_s: float = 600.0) -> bool:
        """Wait until the sweep has ended; False when it has not within the time. For scripts and tests."""
        return self._worker.wait(timeout_s)

    def save(self) -> list[Path]:
        """Write the figure as PNG and its rows as CSV to the folder in the field; returns both paths."""
        folder = Path(self._folder.value).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        name = self.run.run_id if self.run else "skiplab-sweep"
        picture, rows = folder / f"{name}.png", folder / f"{name}.csv"
        picture.write_bytes(static.png(self._chart()))
        self.frame().to_csv(rows, index=False)
        return [picture, rows]

    # what is seen

    def _build(
        self, names: tuple[str, ...], q_len: tuple, window: tuple, model: str, dtype: str, budget_s: float
    ) -> None:
        wide = {"style": {"description_width": controls.LABEL}, "layout": w.Layout(width="380px")}
        self._boxes = {name: self._box(name, name in names) for name in contenders()}
        unknown = [name for name in names if name not in self._boxes]
        if unknown:
            raise ValueError(f"contenders: no {unknown[0]!r}; there are {', '.join(self._boxes)}")
        self._q_len = w.Text(
            ", ".join(map(str, q_len)), description="Prompt lengths", tooltip="tokens, commas between", **wide
        )
        words = ("causal" if item is None else str(item) for item in window)
        self._window = w.Text(
            ", ".join(words), description="Windows", tooltip="keys, commas between; causal for no window", **wide
        )
        self._model = controls.choice("Head shape", MODELS, model, "model", "480px")
        self._dtype = controls.choice("Number format", DTYPES, dtype, "dtype", "280px")
        self._budget = w.BoundedFloatText(
            budget_s, min=0.1, max=15, step=0.5, description="Time a point",
            style={"description_width": controls.LABEL},
            layout=w.Layout(width="210px"),
        )  # fmt: skip
        self._stored = w.SelectMultiple(options=self._choices(), rows=6, layout=w.Layout(width="480px"))
        self._stored.add_class("skiplab-stored")
        self._view = controls.choice("Figure", VIEWS, next(iter(VIEWS)), "view", "480px")
        self._folder = w.Text(".", description="Folder", layout=w.Layout(width="240px"))
        self._bar, self._status, self._problem = w.IntProgress(layout=w.Layout(width="160px")), w.HTML(), w.HTML()
        self._bar.layout.visibility = "hidden"
        self.figure = LiveChart()
        self._stored.observe(lambda _: self._draw(), "value")
        self._view.observe(lambda _: self._draw(), "value")

    def _box(self, name: str, chosen: bool) -> w.Checkbox:
        """A contender's tick box; one that this machine cannot run is greyed, and says why."""
        entry = contenders()[name]
        reason = entry.supports(Workload(64), default_device())
        impossible = reason is not None and ("CUDA" in reason or "g++" in reason)
        label = f"{entry.label} ({name})" + (f": {reason}" if impossible else "")
        box = w.Checkbox(
            chosen and not impossible, description=label, disabled=impossible, indent=False, tooltip=entry.summary
        )
        box.layout.width = "480px"
        box.add_class(f"skiplab-contender-{name}")
        return box

    def _choices(self) -> list[tuple[str, str]]:
        folders = dict.fromkeys([self._directory, runs_directory()])
        stored = [path for folder in folders for path in sorted(folder.glob("*.jsonl"))]
        return [(PUBLISHED, PUBLISHED), *((f"recorded: {path.stem}", str(path)) for path in stored)]

    def _settings(self) -> w.Widget:
        possible = [box for box in self._boxes.values() if not box.disabled]
        others = [box for box in self._boxes.values() if box.disabled]
        rest = w.Accordion(
            [w.VBox(others)], titles=(f"{len(others)} more that this machine cannot run",), selected_index=None
        )
        timing = w.HBox([self._budget, w.Label("seconds at most")])
        lengths = w.HBox([self._q_len, w.Label("tokens")])
        keys = w.HBox([self._window, w.Label("keys, or causal")])
        return w.VBox(
            [controls.heading("Contenders"), *possible, *([rest] if others else []), controls.heading("Settings"),
             lengths, keys, self._model, self._dtype, timing], layout=w.Layout(width="510px"),
        )  # fmt: skip

    def _over(self) -> w.Widget:
        hint = w.HTML("<i>Ctrl-click (or Ctrl+Space) lays several over the figure.</i>")
        reload = controls.button("Look again", "refresh", "List the run files anew", self._relist, "relist")
        save = controls.button("Save figure and rows", "download", "PNG and CSV into the folder", self._save, "save")
        return w.VBox([controls.heading("Stored and published runs"), self._stored, w.HBox([reload, hint]),
                       controls.heading("Figure"), self._view, w.HBox([self._folder, save])],
                      layout=w.Layout(width="510px"))  # fmt: skip

    def _buttons(self) -> w.Widget:
        run = controls.button("Run", "play", f"Measure on {device_name(default_device())}", self.start, "run", True)
        self._cancel = controls.button("Cancel", "stop", "Stop; what is measured is kept", self.cancel, "cancel")
        self._cancel.disabled = True
        return w.HBox([run, self._cancel, self._bar, self._status], layout=w.Layout(flex_flow="row wrap"))

    # what happens

    def _run(self, sweep: Sweep, cancelled: Cancelled) -> None:
        path = self._directory / default_path(sweep, "panel").name
        points = len(sweep.points())
        self._bar.max, self._bar.value, self._bar.layout.visibility = points, 0, "visible"
        self._say(f"{points} points on {device_name(sweep.device)}; the first takes longest …")
        if path.exists():
            self._measurements = [Measurement.from_row(row) for row in read_run(path).rows]
        self._bar.value = len(self._measurements)

        def on_measurement(item: Measurement) -> None:
            self._measurements.append(item)
            self._bar.value = len(self._measurements)
            point = item.point.workload
            self._say(f"{self._bar.value} of {points}: {item.label}, {point.q_len:,} tokens: {item.status}")
            self._draw()

        self.run = run_sweep(
            sweep,
            path,
            topic="panel",
            on_measurement=on_measurement,
            cancelled=cancelled,
            progress=False,
            isolate=self._isolate,
        )
        self._draw()
        if not cancelled():
            self._say(f"done; the run is kept as {path.name}")
        self._relist()

    def _frames(self) -> list[pd.DataFrame]:
        parts = [measuring.run_of(self._measurements, str(self._dtype.value)).frame()] if self._measurements else []
        for choice in self._stored.value:
            parts.append(published_prefill() if choice == PUBLISHED else read_run(choice).frame())
        return parts

    def _chart(self) -> Chart:
        return VIEWS[str(self._view.value)](self.frame())

    def _draw(self) -> None:
        try:
            self.figure.draw(self._chart())
        except ValueError as error:  # a run file that cannot be read: its message names file and line
            self._problem.value = controls.problem(str(error), "Choose another run, or mend the file.")

    def _relist(self) -> None:
        chosen = self._stored.value
        self._stored.options = self._choices()
        self._stored.value = [value for value in chosen if value in {path for _, path in self._choices()}]

    def _save(self) -> None:
        try:
            paths = self.save()
        except OSError as error:
            self._problem.value = controls.problem(f"Saving failed: {error}", "Name a folder that can be written to.")
            return
        self._say("written: " + ", ".join(path.name for path in paths))

    def _say(self, text: str) -> None:
        self._status.value = f'<span role="status">{html.escape(text)}</span>'

    def _failed(self, error: Exception) -> None:
        self._problem.value = controls.problem(
            f"{type(error).__name__}: {error}", "Change what the message names, then press Run."
        )

    def _ended(self) -> None:
        self._cancel.disabled = True

    def close(self) -> None:
        """Stop what runs and take the widgets away."""
        if hasattr(self, "_worker"):  # not where the constructor refused its arguments
            self._worker.cancel()
        super().close()

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        chart = self._chart()
        return with_picture(super()._repr_mimebundle_(**kwargs), static.png(chart, bare=True), static.text(chart))


def numbers(name: str, text: str) -> tuple[int, ...]:
    """`512, 1024` as numbers of at least 1, each once; ValueError names the field and the word."""
    words = [word for word in text.replace(",", " ").split() if word]
    wrong = [word for word in words if not word.isdecimal() or int(word) < 1]
    if wrong or not words:
        given = f"got {wrong[0]!r}" if wrong else "got nothing"
        raise ValueError(f"{name}: {given}; allowed are whole numbers of at least 1, commas between")
    return tuple(dict.fromkeys(int(word) for word in words))


def windows(name: str, text: str) -> tuple[int | None, ...]:
    """As `numbers`, and the word `causal` for no window (None)."""
    words = [word for word in text.replace(",", " ").split() if word]
    found: list[int | None] = []
    for word in words:
        found.append(None if word in ("causal", "none") else numbers(name, word)[0])
    if not found:
        raise ValueError(f"{name}: got nothing; allowed are whole numbers of at least 1, or causal")
    return tuple(dict.fromkeys(found))
