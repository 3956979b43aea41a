"""ReplayExplorer: step through a kernel's programs on the tile map, recorded in Triton's interpreter."""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from typing import Any

import ipywidgets as w
import traitlets

from skiplab.replay import Replay
from skiplab.widgets import controls
from skiplab.widgets.changes import Changes
from skiplab.widgets.fallback import Pictured
from skiplab.widgets.replay import captions
from skiplab.widgets.replay.settings import LONGEST, TILES, ReplaySettings, kernels
from skiplab.widgets.replay.view import ReplayView
from skiplab.widgets.worker import BackgroundWorker, IsCancelled

ADVICE = "Correct it; the picture still shows what was recorded last."


class ReplayExplorer(Pictured, w.VBox):
    """A recorded launch to step through; keywords are those of `ReplaySettings`: `ReplayExplorer(mask="causal()")`.

    Or of a recording that there is: `ReplayExplorer(skiplab.replay.replay(...))`. `settings` is a trait; `replay` is
    what is shown, `go(step)` moves to a step, of which the first is 0 and -1 the beginning. The kernel runs in a child
    process with Triton's interpreter, whether or not there is a GPU.
    """

    settings = traitlets.Instance(ReplaySettings)

    def __init__(self, recorded: Replay | None = None, **settings: Any):
        known = [field.name for field in fields(ReplaySettings)]
        for name in settings:
            if name not in known:
                raise TypeError(f"{name}: ReplayExplorer has no such setting; there are {', '.join(known)}")
        if recorded is not None:
            map_ = recorded.tilemap
            settings = {"mask": str(map_.mask.spec()), "q_len": map_.q_len, "block_m": map_.block_m,
                        "block_n": map_.block_n, **settings}  # fmt: skip
        self.settings = ReplaySettings(**settings)
        self.replay = recorded if recorded is not None else self.settings.record()
        self._changes = Changes()
        self.worker = BackgroundWorker(self._failed, lambda: self._busy(False))
        self._build()
        super().__init__(
            controls.page(self._column(), [self._problem, self._counts, self._steps, self._told, self.view], [])
        )
        self.add_class("skiplab-page")
        self.add_class("skiplab-replay-explorer")
        for name, control in self._controls.items():
            control.observe(self._changes.heard(partial(self._take, name)), "value")
        self.view.observe(self._changes.heard(self._moved), "step")
        self._play.observe(self._changes.heard(self._moved), "value")
        self._step.observe(self._changes.heard(lambda steps: self._moved(steps - 1)), "value")
        self._show(-1)

    @property
    def step(self) -> int:
        """The step that is shown."""
        return self.view.step

    def go(self, step: int) -> None:
        """Show this step; ValueError for one that there is not."""
        if not -1 <= step < len(self.replay.places):
            raise ValueError(f"step: got {step}; allowed are -1, the beginning, to {len(self.replay.places) - 1}")
        self._show(step)

    def code(self) -> str:
        """Python that makes what is shown."""
        return self.settings.code()

    def set(self, **settings: Any) -> None:
        """Other settings, recorded before this returns; the same names as in `ReplaySettings`."""
        new = ReplaySettings(**{**vars(self.settings), **settings})
        self._recorded(new, new.record())

    def record(self) -> None:
        """The Record button: run the kernel in the background."""
        settings = self.settings
        self._problem.value = ""
        self._busy(True)
        self.worker.submit(lambda cancelled: self._take_record(settings, cancelled))

    def cancel(self) -> None:
        """Stop what runs; what was recorded before stays."""
        self.worker.cancel()
        self._busy(False)

    def wait(self, timeout_s: float = 60.0) -> bool:
        """Wait until the recording has ended; False when it has not within the time. For scripts and tests."""
        return self.worker.wait(timeout_s)

    def close(self) -> None:
        if hasattr(self, "worker"):  # not where the constructor refused its arguments
            self.worker.cancel()
        super().close()

    def still(self) -> tuple[bytes, str]:
        picture, told = self.view.still()
        return picture, f"ReplayExplorer: {self.replay.label}. {told}"

    def _build(self) -> None:
        s, choice, count = self.settings, controls.choice, controls.CountControl
        self._controls: dict[str, Any] = {
            "mask": controls.field("Mask", s.mask, "mask", "as `skiplab sweep --mask` takes it"),
            "q_len": count("Prompt length", "queries", s.q_len, 1, LONGEST, "q-len"),
            "block_m": choice("Tile height", TILES, s.block_m, "block-m", "240px"),
            "block_n": choice("Tile width", TILES, s.block_n, "block-n", "240px"),
            "kernel": choice("Kernel", kernels(), s.kernel, "kernel"),
        }
        self._record = controls.button(
            "Record", "bullseye", "Run the kernel in the interpreter", self.record, "record", True
        )
        self._cancel = controls.button("Cancel", "stop", "Stop what runs", self.cancel, "cancel")
        self._progress, self._problem, self._counts = w.HTML(), w.HTML(), w.HTML()
        self._told = w.HTML()
        self._told.add_class("skiplab-replay-told")
        self._play = w.Play(min=-1, max=0, value=-1, interval=400, layout=w.Layout(width="auto"))
        self._play.add_class("skiplab-play")
        self._step = count("Steps done", "", 0, 0, 1, "step", even=True)
        self._steps = w.HBox([self._play, self._step], layout=w.Layout(flex_flow="row wrap"))
        self.view = ReplayView()
        self._copy = controls.CodeBox(code=s.code())
        self._code = w.Accordion([self._copy], titles=("Copy as code",), selected_index=None)
        self._busy(False)

    def _column(self) -> list[w.Widget]:
        row = w.HBox([self._record, self._cancel, self._progress], layout=w.Layout(flex_flow="row wrap"))
        return [controls.heading("What is launched"), *self._controls.values(), row, self._code]

    def _take(self, name: str, value: Any) -> None:
        """Keep the settings with a control's new value, to be recorded when Record is pressed."""
        try:
            settings = ReplaySettings(**{**vars(self.settings), name: value})
        except ValueError as error:
            self._problem.value = controls.problem(str(error), ADVICE)
            return
        self._problem.value = controls.hint_line("Press Record to run the kernel with these settings.")
        self.settings = settings
        self._copy.code = settings.code()

    def _take_record(self, settings: ReplaySettings, cancelled: IsCancelled) -> None:
        self._recorded(settings, settings.record(cancelled))

    def _recorded(self, settings: ReplaySettings, made: Replay) -> None:
        with self._changes.setting():
            self.settings, self.replay = settings, made
            for name, control in self._controls.items():
                control.value = getattr(settings, name)
            self._problem.value, self._copy.code = "", settings.code()
        self._show(-1)

    def _moved(self, value: int) -> None:
        """Show a step that the user chose; the slider counts those that are done."""
        self._show(min(max(value, -1), len(self.replay.places) - 1))

    def _show(self, at: int) -> None:
        with self._changes.setting():
            last = len(self.replay.places)
            self._play.max, self._play.value = last - 1, at
            self._step.limit(last)
            self._step.value = at + 1
            self._counts.value = captions.counts(self.replay)
            self.view.show(self.replay, at)
            self._told.value = controls.status(self.view.told)

    def _failed(self, error: Exception) -> None:
        if type(error).__name__ != "Cancelled":
            what, *advice = error.args or (str(error),)
            self._problem.value = controls.problem(
                f"{type(error).__name__}: {what}", str(advice[0]) if advice else ADVICE
            )

    def _busy(self, busy: bool) -> None:
        self._record.disabled, self._cancel.disabled = busy, not busy
        self._progress.value = controls.status("running the kernel in Triton's interpreter …") if busy else ""
