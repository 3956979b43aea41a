"""A comparison in sentences, for the command and for pages: what differs, verdicts, flags, points without a ratio."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

from skiplab.compare.comparison import Comparison
from skiplab.compare.points import Pair, Unpaired
from skiplab.operations import OPERATIONS
from skiplab.store import Run
from skiplab.text import called, counted, mask_words

SHOWN = 8
"""Values of an axis that are listed."""


def difference_lines(found: Mapping[str, Sequence[Any]]) -> list[str]:
    """A line for each thing that differs: its values, each once where runs behind one another have it."""
    lines = [f"{name}: {' -> '.join(str(value) for value, _ in groupby(values))}" for name, values in found.items()]
    return lines or ["nothing in device, versions, git and kernels"]


def notes(comparison: Comparison) -> list[str]:
    """How many points have each verdict, and which flags they have."""
    counts = ", ".join(f"{number:,} {verdict}" for verdict, number in comparison.counts.items() if number)
    lines = [
        f"{counted(len(comparison.pairs), 'point')} ok in {sides(comparison.runs)}: {counts or 'none'} "
        f"(up to {100 * comparison.margin:g} % counts as noise)."
    ]
    flags = Counter(flag for pair in comparison.pairs for flag in pair.flags)
    doubts = Counter(doubt for pair in comparison.pairs for doubt in pair.doubts)
    if flags:
        lines.append(f"Flags of these points: {_tally(flags)}.")
    if doubts:
        doubted = sum(bool(pair.doubts) for pair in comparison.pairs)
        lines.append(f"{counted(doubted, 'point')} without a verdict, whatever the ratio: {_tally(doubts)}.")
    return lines


def _tally(words: Counter[str]) -> str:
    return ", ".join(f"{word} ({count:,})" for word, count in words.most_common())


def unpaired_lines(comparison: Comparison) -> list[str]:
    """What has no ratio: a line for those that failed, and for those of one run alone."""
    failed = [one for one in comparison.unpaired if one.old and one.new]
    lines = _listed(
        comparison, failed, lambda one: f"not ok in {sides(comparison.runs)}: {who(one)} ({one.old}, then {one.new})"
    )
    alone = [one for one in comparison.unpaired if not (one.old and one.new)]
    for number in range(len(comparison.runs)):
        label = label_of(comparison.runs, number)
        here = [one for one in alone if one.timings[0].run == number]
        lines += _listed(comparison, here, lambda one, label=label: _alone(label, one))
    return lines


def label_of(runs: Sequence[Run], number: int) -> str:
    """`old` and `new` of two runs; of more their numbers."""
    return ("old", "new")[number] if len(runs) == 2 else f"run {number + 1}"


def sides(runs: Sequence[Run]) -> str:
    """In how many of the runs a point must be ok."""
    return "both" if len(runs) == 2 else "two runs"


def who(one: Pair | Unpaired) -> str:
    """The contender's name, with the tile config that was asked for."""
    config, name = "x".join(map(str, one.config or ())), called(one.label, one.contender)
    return name if config in name else f"{name} {config}"


def axis_value(name: str, axes: Mapping[str, Any]) -> str:
    """An axis in a cell; without a window, what all keys or the mask are called."""
    value = axes.get(name)
    if name != "window" or value is not None:
        return "" if value is None else str(value)
    return OPERATIONS[axes["operation"]].without_window or mask_words(axes)


def apart(runs: Sequence[Run]) -> str:
    """Axes, contenders included, for which no two runs have a value in common: `q_heads (32, then 8)`."""
    values = [_values(run) for run in runs]
    shared = [name for name in values[0] if all(name in one for one in values)]
    return ", ".join(
        f"{name} ({', then '.join(_few(one[name]) for one in values)})"
        for name in shared
        if len(set().union(*(one[name] for one in values))) == sum(len(set(one[name])) for one in values)
    )


def _values(run: Run) -> dict[str, list[str]]:
    points = [{"contender": row["contender"], **row["axes"]} for row in run.rows]
    names = dict.fromkeys(name for axes in points for name in axes)
    return {name: [axis_value(name, axes) for axes in points] for name in names}


def _listed(comparison: Comparison, members: Sequence[Unpaired], title: Callable[[Unpaired], str]) -> list[str]:
    """A line for each title: how many points have it, and their values of the axes that differ between points."""
    groups: dict[str, list[Unpaired]] = {}
    for one in members:
        groups.setdefault(title(one), []).append(one)
    varying = _varying(comparison) if groups else []
    lines = []
    for name, group in groups.items():
        heads = {axis: OPERATIONS[comparison.operation].heading(axis) for axis in varying}
        values = [f"{head} {_few([axis_value(axis, one.axes) for one in group])}" for axis, head in heads.items()]
        lines.append(f"{name}, {counted(len(group), 'point')}: {'; '.join(values)}")
    return lines


def _alone(label: str, one: Unpaired) -> str:
    status = one.old or one.new
    return f"only in {label}: {who(one)}{'' if status == 'ok' else f' ({status})'}"


def _varying(comparison: Comparison) -> list[str]:
    """The axes in which the compared points differ; the first axis, if they differ in none."""
    points = [one.axes for one in (*comparison.pairs, *comparison.unpaired)]
    defaults = OPERATIONS[comparison.operation].defaults
    silent = {name for name, other in defaults.items() if all(axes.get(name) in (None, axes[other]) for axes in points)}
    names = [name for name in comparison.axes if name not in silent]
    return [name for name in names if len({axis_value(name, axes) for axes in points}) > 1] or names[:1]


def _few(values: Sequence[str]) -> str:
    """The distinct values, shortened after `SHOWN`."""
    different = list(dict.fromkeys(values))
    return ", ".join([*different[:SHOWN], *(["…"] if len(different) > SHOWN else [])])
