"""Runs of one operation on one device: what differs between them, how each point's time changed, and which changes are
noise.

A ratio comes from one process on each side. Samples of one process are correlated, so the bootstrap interval says how
far the samples scatter, not how far two fresh processes would. On an H100, points that two runs of `data/runs` share
lie up to 1.1 % apart where nothing of their code changed, one 2.7 %, with intervals of 0.1 to 0.5 %. So a verdict asks
for an interval that lies beyond a margin as a whole; one that matters deserves a second pair of runs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from skiplab.compare.facts import differences, differing_axes
from skiplab.compare.points import MARGIN, VERDICTS, Held, Pair, Unpaired, config_of, judged
from skiplab.operations import OPERATIONS
from skiplab.store import Run

if TYPE_CHECKING:
    import pandas as pd

FAILURES = ("slower", "failing", "unclear", "missing")
"""What a check of a comparison may fail on."""
NUMBERS = ("old_ms", "new_ms", "ratio", "low", "high", "verdict", "doubts", "flags", "old_run", "new_run")
"""Columns of its table behind the axes."""
KEPT = ("contender", "config", "axes", "status", "method", "flags", "source_hash", "kernel_hash", "error_text")
"""What is held of a row beside its samples: whole rows of 100,000 points would take a gigabyte."""

Key = tuple[Any, ...]


@dataclass(frozen=True)
class Comparison:
    """What `compare` found. `differences`: name -> its value in each run; points in the last run's order, then those of
    the runs before it."""

    runs: tuple[Run, ...]
    margin: float
    differences: Mapping[str, tuple[Any, ...]]
    pairs: tuple[Pair, ...]
    unpaired: tuple[Unpaired, ...]

    @property
    def operation(self) -> str:
        return self.runs[-1].operation

    @property
    def device(self) -> str:
        return self.runs[-1].device

    @property
    def counts(self) -> dict[str, int]:
        """Pairs of each verdict."""
        verdicts = Counter(pair.verdict for pair in self.pairs)
        return {verdict: verdicts[verdict] for verdict in VERDICTS}

    @property
    def failures(self) -> dict[str, int]:
        """How many points each of `FAILURES` is true of: slower, failing now, unclear, missing in the last run."""
        last = len(self.runs) - 1
        return {
            "slower": self.counts["slower"],
            "failing": sum(one.fails_now for one in self.unpaired),
            "unclear": self.counts["unclear"],
            "missing": sum(one.timings[-1].run != last for one in (*self.pairs, *self.unpaired)),
        }

    @property
    def is_worse(self) -> bool:
        """Whether a point is slower in its last run, or was ok and has failed there."""
        return self.fails(("slower", "failing"))

    def fails(self, on: Collection[str]) -> bool:
        """Whether one of these `FAILURES` is true of a point."""
        return any(self.failures[word] for word in on)

    @cached_property
    def axes(self) -> tuple[str, ...]:
        """The operation's axes, and others in which the points differ."""
        return differing_axes(self.operation, [one.axes for one in (*self.pairs, *self.unpaired)])

    def frame(self) -> pd.DataFrame:
        """Every point as a table: contender, config, axes, and `NUMBERS`. Without a ratio the verdict says why: `new`,
        `missing`, `fails now`, `ok now` or `never ok`."""
        import pandas as pd

        records = [self._record(one) for one in (*self.pairs, *self.unpaired)]
        return pd.DataFrame.from_records(records, columns=["contender", "config", *self.axes, *NUMBERS])

    def _record(self, one: Pair | Unpaired) -> dict[str, Any]:
        common = {"contender": one.contender, "config": one.config, **{name: one.axes.get(name) for name in self.axes}}
        if isinstance(one, Unpaired):
            first, last = one.timings[0], one.timings[-1]
            told = {"verdict": one.outcome, "doubts": "", "flags": ", ".join(sorted({*first.flags, *last.flags}))}
            return {
                **common, **told, "old_ms": math.nan if one.old is None else first.median_ms,
                "new_ms": math.nan if one.new is None else last.median_ms,
                **self._sides(None if one.old is None else first.run, None if one.new is None else last.run),
            }  # fmt: skip
        told = {"verdict": one.verdict, "doubts": ", ".join(one.doubts), "flags": ", ".join(one.flags)}
        numbers = {name: getattr(one, name) for name in ("old_ms", "new_ms", "ratio", "low", "high")}
        return {**common, **numbers, **told, **self._sides(one.first.run, one.last.run)}

    def _sides(self, old: int | None, new: int | None) -> dict[str, str]:
        ends = {"old_run": old, "new_run": new}
        return {name: "" if number is None else self.runs[number].run_id for name, number in ends.items()}

    def record(self) -> dict[str, Any]:
        """The same for scripts, JSON-able; without `nan`."""
        ends = {"old": self.runs[0], "new": self.runs[-1]}
        return {
            **{name: {"run_id": run.run_id, "device": run.device} for name, run in ends.items()},
            "runs": [{"run_id": run.run_id, "start": run.header.get("start", "")} for run in self.runs],
            "operation": self.operation, "margin": self.margin,
            "differences": {name: list(values) for name, values in self.differences.items()},
            "counts": self.counts, "failures": self.failures, "points": [_plain(pair) for pair in self.pairs],
            "unpaired": [_plain(one) for one in self.unpaired],
        }  # fmt: skip


def _plain(one: Pair | Unpaired) -> dict[str, Any]:
    record = asdict(one)
    for timing in record["timings"]:
        timing |= {name: None for name in ("median_ms", "low_ms", "high_ms") if math.isnan(timing[name])}
    return record


def compare(*runs: Run, margin: float = MARGIN) -> Comparison:
    """Follow the points of two or more runs, in the order given, and judge each one's last time over its first.

    faster, slower: the whole interval lies beyond 1 - margin or 1 + margin; same: it lies between them; unclear:
    neither, or a row is doubtful (`Pair.doubts`). Of a point measured twice in a run the later row counts. ValueError
    where there are fewer than two runs, runs are of different operations or devices, a row lacks one of its axes, or
    margin is not within 0 and 1.
    """
    if not 0 <= margin < 1:
        raise ValueError(f"margin: got {margin}; allowed is 0 up to but not including 1")
    if len(runs) < 2:
        raise ValueError(f"compare: got {len(runs)} run{'s' * (len(runs) != 1)}; two are needed at least")
    rows = [_rows(run) for run in runs]
    for run in runs:
        _check_alike(runs[0], run)
    held: dict[Key, Held] = {}
    for number, by_point in enumerate(rows):
        for key, row in by_point.items():
            held.setdefault(key, []).append((number, row))
    order = dict.fromkeys(key for by_point in reversed(rows) for key in by_point)
    pairs, unpaired = judged((held[key] for key in order), len(runs), margin)
    return Comparison(runs, margin, differences(*runs), tuple(pairs), tuple(unpaired))


def together(runs: Iterable[Run]) -> list[list[Run]]:
    """The runs that can be compared with one another: those of one operation and one device each, in their order."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.operation, run.device), []).append(run)
    return list(groups.values())


def _check_alike(first: Run, run: Run) -> None:
    """ValueError unless the times of the two are times of the same thing."""
    if first.operation != run.operation:
        raise ValueError(
            f"{_name(run)} is a run of {run.operation}, {_name(first)} one of {first.operation}; "
            "only runs of the same operation can be compared"
        )
    if first.device != run.device:
        raise ValueError(
            f"{_name(run)} was measured on {run.device}, {_name(first)} on {first.device}; "
            "only runs on the same device can be compared"
        )


def _rows(run: Run) -> dict[Key, Mapping[str, Any]]:
    """What is compared of the rows, by contender, config and axes without those that are None; no device.

    ValueError for a row whose operation is unknown or not its run's, and for one that lacks an axis.
    """
    by_point: dict[Key, Mapping[str, Any]] = {}
    operation = None
    for row in run.rows:
        operation = operation or row["axes"].get("operation")
        _check_axes(run, row, operation)
        axes = tuple(sorted((name, str(value)) for name, value in row["axes"].items() if value is not None))
        by_point[row["contender"], config_of(row), axes] = {
            **{name: row[name] for name in KEPT if name in row}, "samples_ns": np.asarray(row["samples_ns"], np.int64)
        }  # fmt: skip
    return by_point


def _check_axes(run: Run, row: Mapping[str, Any], first: str | None) -> None:
    axes, operation = row["axes"], row["axes"].get("operation")
    if operation != first or operation not in OPERATIONS:
        allowed = ", ".join(OPERATIONS) if operation == first else f"{first!r}, as of the first point"
        raise ValueError(f"{_name(run)}: operation of a point: got {operation!r}; allowed is {allowed}")
    missing = [name for name in OPERATIONS[operation].varying if name not in axes]
    if missing:
        raise ValueError(f"{_name(run)}: a point of {row['contender']} lacks the axis {', '.join(missing)}")


def _name(run: Run) -> str:
    return run.path.name if run.path else run.run_id
