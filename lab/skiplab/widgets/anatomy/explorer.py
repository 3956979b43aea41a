"""AnatomyExplorer: a kernel's config as sliders, and what the compiler makes of it, for any GPU, without one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import ipywidgets as w
import pandas as pd
import traitlets

from skiplab.anatomy import Anatomy, anatomy_table
from skiplab.figures import static
from skiplab.figures.anatomy import mix
from skiplab.machine.capability import MULTIPROCESSORS, sm_name
from skiplab.operations import DEFAULT_OPERATION
from skiplab.paths import slug
from skiplab.widgets import controls
from skiplab.widgets.anatomy import captions
from skiplab.widgets.anatomy.settings import AnatomySettings
from skiplab.widgets.anatomy.subject import subject_of
from skiplab.widgets.changes import Changes
from skiplab.widgets.fallback import Pictured
from skiplab.widgets.live import LiveChart
from skiplab.widgets.worker import BackgroundWorker, IsCancelled

ADVICE = "Move a slider back, or to another size; what is shown was compiled before."
MOST_BARS = 6


class AnatomyExplorer(Pictured, w.VBox):
    """A kernel compiled for a GPU that need not be there: `AnatomyExplorer("blockskip", arch="sm_90")`.

    kernel: a contender's name (ours, or your own) of an operation, at the axes of its sweep: `at={"head_dim": 256}`; or
    a Triton or Gluon function with its arguments as `skiplab.anatomy.kernel_anatomy` takes them, and `configs`: the
    numbers to choose from, `AnatomyExplorer(total, "*fp32", "*fp32", "i32", configs={"BLOCK": (256, 512)})`.
    config: the numbers to begin with. `settings` is a trait; `set(arch=..., block_m=...)` moves the sliders, `anatomy`
    is what is shown, `compiled` all that was, and `frame()` their table. Nothing runs.
    """

    settings = traitlets.Instance(AnatomySettings)

    def __init__(
        self, kernel: Any = "blockskip", *arguments: Any, operation: str = DEFAULT_OPERATION,
        at: Mapping[str, Any] | None = None, configs: Mapping[str, Sequence[int]] | None = None, arch: Any = "sm_90",
        config: Mapping[str, int] | None = None,
    ):  # fmt: skip
        self.subject = subject_of(kernel, arguments, operation, at or {}, configs)
        self.settings = AnatomySettings.of(arch, self._numbers(self.subject.default, config or {}))
        self.compiled: dict[str, Anatomy] = {}
        self._changes = Changes()
        self.worker = BackgroundWorker(self._failed, lambda: self._say(""))
        self._compile(self.settings, lambda: False)  # so that what is shown is there, also where nobody waits
        self._build()
        view = [self._problem, self._progress, self._counts, self._mix, self._occupancy]
        super().__init__(controls.page(self._column(), view, [self._table, self._lines, self.chart]))
        self.add_class("skiplab-page")
        self.add_class("skiplab-anatomy-explorer")
        for name, control in self._controls.items():
            control.observe(self._changes.heard(partial(self._take, name)), "value")
        self._show(self.settings)

    @property
    def anatomy(self) -> Anatomy:
        """What is shown; of a contender with several kernels, the first."""
        return next(iter(self._of(self.settings).values()))

    def frame(self) -> pd.DataFrame:
        """All that was compiled in this explorer, a row each (`Anatomy.row`)."""
        return anatomy_table(self.compiled)

    def code(self) -> str:
        """Python that makes what is shown."""
        given = f"arch={self.settings.arch!r}, config={dict(self.settings.config)!r}"
        return (
            f"from skiplab import AnatomyExplorer\n\nexplorer = AnatomyExplorer({self.subject.code}, {given})\nexplorer"
        )

    def set(self, arch: Any = None, **numbers: int) -> None:
        """Move the sliders from code, and compile before this returns."""
        s = self.settings
        new = AnatomySettings.of(arch or s.arch, self._numbers(dict(s.config), numbers))
        self._compile(new, lambda: False)
        self._show(new)

    def wait(self, timeout_s: float = 60.0) -> bool:
        """Wait until what was chosen is compiled; False when it is not within the time. For scripts and tests."""
        return self.worker.wait(timeout_s)

    def still(self) -> tuple[bytes, str]:
        return static.png(self._chart(), bare=True), captions.plain(self.anatomy, self.settings.label)

    def close(self) -> None:
        if hasattr(self, "worker"):  # not where the constructor refused its arguments
            self.worker.cancel()
        super().close()

    def _numbers(self, now: Mapping[str, int], given: Mapping[str, int]) -> dict[str, int]:
        for name in given:
            if name not in self.subject.choices:
                known = ", ".join(self.subject.choices) or "none"
                raise TypeError(f"{name}: {self.subject.name} has no such number; there are {known}")
        return {**now, **given}

    def _build(self) -> None:
        s, numbers = self.settings, dict(self.settings.config)
        archs = tuple(map(sm_name, MULTIPROCESSORS))
        self._controls: dict[str, Any] = {"arch": controls.choice("GPU", archs, s.arch, "arch", "240px")}
        for name, values in self.subject.choices.items():
            options = tuple(sorted({*values, numbers[name]}))
            self._controls[name] = slider = w.SelectionSlider(
                options=options, value=numbers[name], description=name, continuous_update=False,
                style={"description_width": controls.LABEL}, layout=w.Layout(width="440px"),
            )  # fmt: skip
            slider.add_class("skiplab-control")
            slider.add_class(f"skiplab-{slug(name)}")
        self._problem, self._progress, self._counts, self._lines, self._table = (w.HTML() for _ in range(5))
        self._occupancy, self._mix = w.HTML(), w.HTML()
        self.chart = LiveChart()
        self._copy = controls.CodeBox(code=self.code())
        self._code = w.Accordion([self._copy], titles=("Copy as code",), selected_index=None)

    def _column(self) -> list[w.Widget]:
        return [controls.heading(f"How {self.subject.name} is compiled"), *self._controls.values(), self._code]

    def _take(self, name: str, value: Any) -> None:
        """Compile with a control's new value, in the background."""
        numbers = {key: control.value for key, control in self._controls.items()} | {name: value}
        new = AnatomySettings.of(numbers.pop("arch"), numbers)
        self._problem.value = ""
        self._say(f"compiling for {new.label} …")
        self.worker.submit(lambda cancelled: self._compile_and_show(new, cancelled))

    def _compile_and_show(self, settings: AnatomySettings, cancelled: IsCancelled) -> None:
        self._compile(settings, cancelled)
        if not cancelled():
            self._show(settings)

    def _compile(self, settings: AnatomySettings, cancelled: IsCancelled) -> None:
        if not self._of(settings) and not cancelled():
            made = self.subject.compile(settings.arch, dict(settings.config))
            several = len(made) > 1
            for name, one in made.items():
                self.compiled[f"{settings.label} {name}" if several else settings.label] = one

    def _of(self, settings: AnatomySettings) -> dict[str, Anatomy]:
        """What was compiled with these settings."""
        label = settings.label
        return {name: one for name, one in self.compiled.items() if name == label or name.startswith(f"{label} ")}

    def _chart(self) -> Any:
        """The last few kernels beside each other, the one shown among them."""
        shown = self._of(self.settings)
        others = [name for name in self.compiled if name not in shown][-MOST_BARS + 1 :]
        return mix({name: self.compiled[name] for name in self.compiled if name in shown or name in others})

    def _show(self, settings: AnatomySettings) -> None:
        with self._changes.setting():
            self.settings = settings
            for name, value in (("arch", settings.arch), *settings.config):
                if name in self._controls:
                    self._controls[name].value = value
            one = self.anatomy
            self._problem.value = ""
            self._counts.value, self._lines.value = captions.resources(one), captions.lines(one)
            self._occupancy.value, self._mix.value = captions.occupancy(one), captions.mix(one)
            self._table.value = captions.table(self.compiled, next(iter(self._of(settings))))
            self._copy.code = self.code()
            self.chart.draw(self._chart())

    def _say(self, text: str) -> None:
        self._progress.value = controls.status(text) if text else ""

    def _failed(self, error: Exception) -> None:
        with self._changes.setting():
            for name, value in (("arch", self.settings.arch), *self.settings.config):
                if name in self._controls:
                    self._controls[name].value = value
        self._problem.value = controls.problem(f"{type(error).__name__}: {error}", ADVICE)
