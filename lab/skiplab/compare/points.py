"""A point over the runs that hold it: its timings, and what follows from the first and the last of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from skiplab.compare.interval import ratio_intervals
from skiplab.measure.point import OTHER_DEVICE
from skiplab.store.frames import label_of, quartiles

VERDICTS = ("faster", "slower", "same", "unclear")
MARGIN = 0.01
DOUBTFUL = frozenset({"busy", "bimodal", "impossible", "unchecked"})
"""Flags that allow no verdict. `unconverged` is none: the interval tells it."""
ONE_SIDED = frozenset({"throttled", OTHER_DEVICE})
"""Flags that allow none where one of the two timings has them: their clocks, or the GPUs of one kind, differed."""
LEAST_SAMPLES = 5

Row = Mapping[str, Any]
Held = list[tuple[int, Row]]
"""The rows of a point, each with the number of its run, in the order of the runs."""


@dataclass(frozen=True)
class TimedPoint:
    """A point as one run has it. run: the run's number; times are milliseconds, nan where its status is not ok.

    source_hash: of its kernel, where that is a user's own, else of our kernels.
    """

    run: int
    status: str
    median_ms: float
    low_ms: float
    high_ms: float
    samples: int
    method: str | None
    flags: tuple[str, ...]
    source_hash: str
    why: str

    @property
    def is_doubtful(self) -> bool:
        """Whether it has a flag that may allow no verdict."""
        return bool((DOUBTFUL | ONE_SIDED) & set(self.flags))


@dataclass(frozen=True)
class Pair:
    """A point that is ok in several runs: its first and last medians in milliseconds, and `ratio`, new time / old time,
    below 1 for faster.

    label: the contender's name in words. low, high: the ratio's 95 % interval. `doubts`: why the verdict is unclear
    whatever the interval, flags of either row first.
    """

    contender: str
    label: str
    config: tuple[int, ...] | None
    axes: Mapping[str, Any]
    old_ms: float
    new_ms: float
    ratio: float
    low: float
    high: float
    verdict: str
    doubts: tuple[str, ...]
    timings: tuple[TimedPoint, ...]

    @property
    def first(self) -> TimedPoint:
        return next(one for one in self.timings if one.status == "ok")

    @property
    def last(self) -> TimedPoint:
        return self.timings[-1]

    @property
    def flags(self) -> tuple[str, ...]:
        """All flags of the two timings, whether or not they allow a verdict."""
        return tuple(sorted({*self.first.flags, *self.last.flags}))


@dataclass(frozen=True)
class Unpaired:
    """A point without a ratio: its status in the first and the last run that hold it; None where there is one alone."""

    contender: str
    label: str
    config: tuple[int, ...] | None
    axes: Mapping[str, Any]
    old: str | None
    new: str | None
    timings: tuple[TimedPoint, ...]

    @property
    def fails_now(self) -> bool:
        """Whether it was ok and has failed in a later run."""
        return self.old == "ok" and self.new is not None

    @property
    def outcome(self) -> str:
        """In a word or two, in a verdict's place; the last run alone has what is `new`, and lacks what is `missing`."""
        if self.new is None or self.old is None:
            return "missing" if self.new is None else "new"
        if self.fails_now:
            return "fails now"
        return "ok now" if self.new == "ok" else "never ok"


def judged(points: Iterable[Held], runs: int, margin: float) -> tuple[list[Pair], list[Unpaired]]:
    """The points that are ok in their last run and in one before it, and all others, in their order.

    runs: how many there are; a point that only the last of them holds is new.
    """
    timed: list[tuple[Held, Row, Row]] = []
    unpaired = []
    for held in points:
        first = next((row for _, row in held[:-1] if row["status"] == "ok"), held[0][1])
        last = held[-1][1]
        if first is not last and first["status"] == last["status"] == "ok":
            timed.append((held, first, last))
        else:
            unpaired.append(_unpaired(held, first, last, runs))
    intervals = ratio_intervals([(first["samples_ns"], last["samples_ns"]) for _, first, last in timed])
    return [_pair(*one, interval, margin) for one, interval in zip(timed, intervals, strict=True)], unpaired


def config_of(row: Row) -> tuple[int, ...] | None:
    return tuple(row["config"]) if row.get("config") else None


def _label(row: Row) -> str:
    return label_of(row["axes"]["operation"], row["contender"], row.get("label"))


def _pair(held: Held, old: Row, new: Row, interval: tuple[float, float, float], margin: float) -> Pair:
    ratio, low, high = interval
    timings = _timings(held)
    before = next(one for one in timings if one.status == "ok")
    doubts = _doubts(old, new)
    verdict = "unclear" if doubts else _verdict(low, high, margin)
    return Pair(
        new["contender"],
        _label(new),
        config_of(new),
        new["axes"],
        before.median_ms,
        timings[-1].median_ms,
        ratio,
        low,
        high,
        verdict,
        doubts,
        timings,
    )


def _unpaired(held: Held, old: Row, new: Row, runs: int) -> Unpaired:
    is_new = held[0][0] == runs - 1
    before, after = (None, new["status"]) if is_new else (old["status"], new["status"] if len(held) > 1 else None)
    return Unpaired(new["contender"], _label(new), config_of(new), new["axes"], before, after, _timings(held))


def _timings(held: Held) -> tuple[TimedPoint, ...]:
    return tuple(_timing(number, row) for number, row in held)


def _timing(number: int, row: Row) -> TimedPoint:
    samples = row["samples_ns"]
    low, median, high = quartiles(np.array([samples]))[:, 0].tolist() if len(samples) else (np.nan,) * 3
    return TimedPoint(
        number, row["status"], median / 1e6, low / 1e6, high / 1e6, len(samples), row.get("method"),
        tuple(row.get("flags", ())),
        row.get("kernel_hash") or row.get("source_hash", ""), row.get("error_text", ""),
    )  # fmt: skip


def _doubts(old: Row, new: Row) -> tuple[str, ...]:
    before, after = (set(row.get("flags", ())) for row in (old, new))
    doubts = sorted(DOUBTFUL & (before | after))
    doubts += [f"{flag} in one of the two" for flag in sorted(ONE_SIDED & (before ^ after))]
    if old.get("method") != new.get("method"):
        doubts.append(f"timed by {old.get('method')}, then {new.get('method')}")
    if min(len(old["samples_ns"]), len(new["samples_ns"])) < LEAST_SAMPLES:
        doubts.append(f"fewer than {LEAST_SAMPLES} samples")
    return tuple(doubts)


def _verdict(low: float, high: float, margin: float) -> str:
    if high < 1 - margin:
        return "faster"
    if low > 1 + margin:
        return "slower"
    return "same" if low >= 1 - margin and high <= 1 + margin else "unclear"
