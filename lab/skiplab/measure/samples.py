"""Samples as they come: of one callable, or of several in turn, until their medians are sure or the time is over."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

MIN_SAMPLES = 10
MIN_SECONDS = 0.5
TARGET_ERROR = 0.005  # relative standard error of the median
TURN_S = 0.002  # of one callable's samples, before it is another's turn; a graph's single sample takes longer


class Cancelled(Exception):
    """The caller asked to stop."""


class Way(NamedTuple):
    """One way to take a sample: nanoseconds a call, over so many calls; `most` samples at most."""

    sample: Callable[[], int]
    calls: int = 1
    most: int | None = None


class Samples(NamedTuple):
    """Nanoseconds a call, in order, and whether their median is sure."""

    values: tuple[int, ...]
    converged: bool


def collect(way: Way, budget_s: float, cancelled: Callable[[], bool]) -> Samples:
    """Samples of one way alone; as `in_turn`."""
    return in_turn([way], budget_s, cancelled)[0]


def in_turn(ways: Sequence[Way], budget_s: float, cancelled: Callable[[], bool]) -> list[Samples]:
    """Samples of several ways, a few milliseconds of one, then of the next, so that all see the same clocks.

    Ends when every way has 10 samples, 0.5 s of measured time and a median sure to 0.5 % (or no surer than before), or
    has had `budget_s` seconds, or its most samples; one that is sure goes on beside the others. Raises Cancelled
    between samples.
    """
    each = [_Series(way, budget_s) for way in ways]
    for around in rounds(len(each)):
        if all(one.is_over or one.is_sure for one in each):
            return [one.taken() for one in each]
        going_on = [one for one in each if not one.is_over]
        least = min(one.spent_s for one in going_on)
        for one in (each[index] for index in around):
            if not one.is_over and one.spent_s <= least + TURN_S:  # slow samples are spread over the others' time
                one.take_turn(cancelled)
    raise AssertionError("there is always a further round")


def rounds(count: int) -> Iterator[tuple[int, ...]]:
    """The order of each round, without end: there, back, and then from the next one on.

    There and back a clock that falls evenly falls for all alike, and nobody always follows the same one.
    """
    first = 0
    while True:
        there = tuple((first + index) % count for index in range(count))
        yield there
        yield there[::-1]
        first += 1


class _Series:
    """The samples of one way, and the time that they took."""

    def __init__(self, way: Way, budget_s: float):
        self._way, self._budget_s = way, budget_s
        self._samples: list[int] = []
        self._errors: list[float] = []
        self._measured_ns = 0
        self.spent_s, self.is_sure = 0.0, False

    @property
    def is_over(self) -> bool:
        return self.spent_s > self._budget_s or len(self._samples) == self._way.most

    def take_turn(self, cancelled: Callable[[], bool]) -> None:
        start = now = time.perf_counter()
        before = self.spent_s
        while not self.is_over and now - start < TURN_S:
            if cancelled():
                raise Cancelled
            self._take()
            now = time.perf_counter()
            self.spent_s = before + now - start

    def _take(self) -> None:
        self._samples.append(self._way.sample())
        self._measured_ns += self._samples[-1] * self._way.calls
        if _is_asked(len(self._samples)):
            self._errors.append(median_error(self._samples))
            self.is_sure = self._measured_ns >= MIN_SECONDS * 1e9 and (self._has_converged or self._falls_no_more)

    @property
    def _has_converged(self) -> bool:
        return bool(self._errors) and self._errors[-1] < TARGET_ERROR

    @property
    def _falls_no_more(self) -> bool:
        return len(self._errors) > 4 and min(self._errors[-3:]) > 0.95 * min(self._errors[:-3])

    def taken(self) -> Samples:
        return Samples(tuple(self._samples), self.is_sure or self._has_converged)


def _is_asked(count: int) -> bool:
    """Whether it is looked at after so many samples: every 10, 100 from 100 on, 1,000 from 1,000 on and so forth."""
    return count >= MIN_SAMPLES and count % max(MIN_SAMPLES, 10 ** (len(str(count)) - 1)) == 0


def median_error(samples: Sequence[int]) -> float:
    """Relative standard error of the median, from the interquartile range (as if normal)."""
    low, middle, high = np.percentile(samples, (25, 50, 75))
    return float(1.2533 * (high - low) / 1.349 / np.sqrt(len(samples)) / middle)


def is_bimodal(samples: Sequence[int]) -> bool:
    """Whether the samples form two groups, each of a fifth of them or more, more than 3 % of the median apart."""
    values = np.sort(np.asarray(samples, dtype=np.float64))
    count = len(values)
    if count < MIN_SAMPLES:
        return False
    cuts = np.arange(max(1, count // 5), count - max(1, count // 5) + 1)
    distances = values[cuts] - values[cuts - 1]
    cut = int(cuts[np.argmax(distances)])
    below, above = values[:cut], values[cut:]
    distance = above.mean() - below.mean()
    return bool(distance > 0.03 * np.median(values) and distance > 4 * (below.std() + above.std()))
