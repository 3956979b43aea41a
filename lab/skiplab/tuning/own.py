"""Finds the fastest of a user's own configs: `skiplab.tune`, `skiplab tune kernel`. On any device, into a run.

What is compiled is the user's own affair, so nothing is left out beforehand: each config is checked and timed on each
workload. Nothing is written but the run; its winner is for the user's own code.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from statistics import geometric_mean, median
from typing import TYPE_CHECKING, Any, ClassVar, cast

from skiplab.contenders import Contender, contender
from skiplab.measure import Measurement, Point
from skiplab.operations import DEFAULT_OPERATION, OPERATIONS, Operation, operation_of
from skiplab.report.rows import axis_text, records
from skiplab.store import Run
from skiplab.store.keys import without_index
from skiplab.sweep import AnySweep, Where, own_device, row_of, run_sweep, sweep_at
from skiplab.templates import render
from skiplab.text import digits, sentence
from skiplab.tuning.base import Candidate

if TYPE_CHECKING:
    import pandas as pd

Config = tuple[int, ...]
SCORE = "times the fastest"
SCORE_MEANS = "the geometric mean over what was timed, 1.000 for what is fastest everywhere"


@dataclass(frozen=True)
class KernelTuning:
    """What is tuned: a user's kernel, over its configs (None: all) and the workloads of a sweep, which says where.

    at: the sweep's axes, as texts or values (`sweep.sweep_at`).
    """

    kernel: str
    operation: str = DEFAULT_OPERATION
    at: Mapping[str, Any] = field(default_factory=dict)
    configs: tuple[Config, ...] | None = None
    device: str = "cpu"
    verb: ClassVar[str] = "tune kernel"
    interleave: ClassVar[bool | None] = None

    def __post_init__(self) -> None:
        operation_of(self.operation)
        entry = self.entry
        if entry.user is None:
            raise ValueError(
                f"kernel: got {self.kernel}, which is the lab's own; `skiplab tune {self.operation}` tunes those"
            )
        if not entry.sizes:
            raise ValueError(f"kernel: {self.kernel} has nothing to choose from; give @skiplab.kernel its configs, as "
                             "configs={'BLOCK': (64, 128), 'num_warps': (4, 8)}")  # fmt: skip
        for one in self.configs or ():
            if len(one) != len(entry.sizes):
                raise ValueError(
                    f"config: got {one}; {self.kernel} takes {len(entry.sizes)} numbers: {', '.join(entry.sizes)}"
                )
        self.sweep  # noqa: B018 - checks its axes

    @property
    def entry(self) -> Contender:
        return contender(self.kernel, self.operation)

    @property
    def sweep(self) -> AnySweep:
        return sweep_at(self.operation, (self.kernel,), self.at, self.device)

    # what a run's header and its file's name are made of, as of a sweep

    @property
    def contenders(self) -> tuple[str, ...]:
        return (self.kernel,)

    @property
    def seed(self) -> int:
        return self.sweep.seed

    @property
    def budget_s(self) -> float:
        return self.sweep.budget_s

    @property
    def dtype(self) -> str:
        return self.sweep.dtype

    @property
    def key(self) -> str:
        return self.sweep.key

    def command(self) -> str:
        """The command line that repeats it."""
        words = [f"skiplab {self.verb} {shlex.quote(self.kernel)} --operation {self.operation} --device {self.device}"]
        words += [f"--at {shlex.quote(f'{name}={_text(value)}')}" for name, value in self.at.items()]
        words += [f"--config {'x'.join(map(str, one))}" for one in self.configs or ()]
        return " ".join(words)

    def points(self) -> list[Point]:
        """Every config on every workload; those of a workload follow each other, and share its float64 reference."""
        chosen = self.configs or self.entry.configs
        return [Point(w, self.kernel, one, self.device) for w, one in product(self.sweep.workloads(), chosen)]


@dataclass(frozen=True)
class TunedKernel:
    """What came of tuning a user's kernel: the run, and each config's score, best first; 1 is the fastest everywhere.

    Scores are geometric means, over the workloads, of the config's median over the fastest one's; only a config that is
    right and timed on all of them has one.
    """

    run: Run
    sizes: tuple[str, ...]
    scores: Mapping[Config, float]
    times_ms: Mapping[Config, tuple[float, ...]]
    problems: tuple[str, ...] = ()

    @property
    def best(self) -> dict[str, int]:
        """The winner, as a kernel's `config` is given it; ValueError where no config is right on all workloads."""
        if not self.scores:
            raise ValueError(
                f"{self.run.run_id}: no config is right and timed on all workloads; {'; '.join(self.problems)}"
            )
        return dict(zip(self.sizes, next(iter(self.scores)), strict=True))

    def table(self) -> pd.DataFrame:
        """All configs that have a score, best first, with their medians on each workload, in words."""
        import pandas as pd

        heads = _heads(self.run)
        return pd.DataFrame([
            {**dict(zip(self.sizes, one, strict=True)), SCORE: f"{score:.3f}",
             **{head: digits(ms) for head, ms in zip(heads, self.times_ms[one], strict=True)}}
            for one, score in self.scores.items()
        ])  # fmt: skip

    @property
    def caption(self) -> str:
        """What was timed, where, and what the score is; empty of a run in which nothing was."""
        operation = OPERATIONS[self.run.operation]
        subjects = dict.fromkeys(operation.subject(row["axes"]) for row in self.run.rows)
        return sentence("; ".join([*subjects, self.run.provenance, f"{SCORE}: {SCORE_MEANS}"]))

    def _repr_html_(self) -> str:
        table = self.table()
        heads, rows = list(table.columns), table.to_numpy().tolist()
        return render("tables.captioned", caption=self.caption, notes=self.problems, heads=heads, rows=rows, left=())

    def __str__(self) -> str:
        return "\n".join([self.caption, "", self.table().to_string(index=False), "", *self.problems])


def tune(
    kernel: str,
    *,
    operation: str = DEFAULT_OPERATION,
    configs: Sequence[Mapping[str, int] | Config] | None = None,
    device: str | None = None,
    devices: Sequence[str] = (),
    cluster: str | None = None,
    gpu: str | None = None,
    path: Path | str | None = None,
    isolate: bool = True,
    progress: bool = True,
    limit_s: float = 480.0,
    cancelled: Callable[[], bool] = lambda: False,
    **at: Any,
) -> TunedKernel:
    """Check and time a kernel of your own with each of its configs; `.best` is the fastest, as a dict.

    configs: some of those that `@skiplab.kernel` names, as dicts; all by default. at: axes of the operation's sweep, as
    `q_len=(512, 1024), window=256, budget_s=0.5`. devices, cluster, gpu, path, isolate, progress: as `skiplab.sweep`;
    all configs of a workload are timed on one device. limit_s: seconds for all; what is measured by then is kept, and
    the same call goes on.
    """
    sizes = contender(kernel, operation).sizes
    numbers = None if configs is None else tuple(_numbers(one, sizes) for one in configs)
    where = Where(own_device(device, devices, cluster), tuple(devices), cluster, gpu)
    return tuned(
        KernelTuning(kernel, operation, at, numbers, where.device), path, where, isolate, progress, limit_s, cancelled
    )


def tuned(
    wanted: KernelTuning,
    path: Path | str | None = None,
    where: Where | None = None,
    isolate: bool = True,
    progress: bool = True,
    limit_s: float = 480.0,
    cancelled: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = print,
) -> TunedKernel:
    """Measure what the run file lacks, where a sweep would be, and rank what it then holds."""
    end, sizes = time.monotonic() + limit_s, wanted.entry.sizes
    run = run_sweep(
        cast(Any, wanted), path, topic=f"tune-{wanted.kernel}", anew=True, say=say, isolate=isolate, progress=progress,
        cancelled=lambda: cancelled() or time.monotonic() > end, as_row=partial(_row, sizes=sizes),
        **(where.options if where else {}),
    )  # fmt: skip
    return ranked(run, sizes)


def ranked(run: Run, sizes: tuple[str, ...]) -> TunedKernel:
    """The ranking of a run's rows; of a point the latest row counts."""
    latest = {without_index(row["point"]): row for row in run.rows}
    times: dict[str, dict[Config, float]] = {}
    problems = []
    for row in latest.values():
        where, config = row["point"].split(" | ")[1], tuple(row["config"])
        times.setdefault(where, {})
        if row["status"] == "ok":
            times[where][config] = median(row["samples_ns"]) / 1e6
        else:
            problems.append(f"{row['label']} is {row['status']}: {row.get('error_text', '')}")
    everywhere = set.intersection(*map(set, times.values())) if times else set()
    scores = {one: geometric_mean([by[one] / min(by.values()) for by in times.values()]) for one in everywhere}
    order = sorted(scores, key=lambda one: (scores[one], one))
    medians = {one: tuple(by[one] for by in times.values()) for one in order}
    return TunedKernel(run, sizes, {one: scores[one] for one in order}, medians, tuple(dict.fromkeys(problems)))


def _heads(run: Run) -> list[str]:
    """The head of each workload's times, in the order of the run: where they differ, in words; of one workload all."""
    operation, table = OPERATIONS[run.operation], run.frame()
    texts = {name: [_words(operation, name, row) for row in records(table)] for name in operation.varying_in(table)}
    differing = [own for own in texts.values() if len(set(own)) > 1] or list(texts.values())
    keys = (row["point"].split(" | ")[1] for row in run.rows)
    words = dict(zip(keys, map(", ".join, zip(*differing, strict=True)), strict=True))
    return [f"median ms, {text}" for text in (words if len(set(words.values())) < len(words) else words.values())]


def _words(operation: Operation, axis: str, row: Mapping[str, Any]) -> str:
    """`1,024 tokens`, `window 128`, `causal`."""
    value, phrase = row[axis], operation.phrases.get(axis)
    if isinstance(value, int | float) and value == value:
        return phrase(value) if phrase else f"{operation.heading(axis)} {axis_text(axis, row)}"
    return axis_text(axis, row)


def _row(taken: Measurement, sizes: Sequence[str]) -> dict[str, Any]:
    """Its contender is named with the config, so that tables and figures tell them apart."""
    config = taken.point.config or ()
    words = " ".join(f"{name}={number}" for name, number in zip(sizes, config, strict=True))
    return {**row_of(taken), "contender": str(Candidate(taken.point.contender, config)), "label": words}


def _numbers(config: Mapping[str, int] | Config, sizes: tuple[str, ...]) -> Config:
    if not isinstance(config, Mapping):
        return tuple(config)
    if set(config) != set(sizes):
        raise ValueError(f"config: got {dict(config)}; allowed are numbers for {', '.join(sizes) or 'none'}")
    return tuple(config[name] for name in sizes)


def _text(value: Any) -> str:
    several = value if isinstance(value, tuple | list) else (value,)
    return ",".join(
        "causal" if one is None else "x".join(map(str, one)) if isinstance(one, tuple) else str(one) for one in several
    )
