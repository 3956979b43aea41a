"""The command `skiplab compare`, and its words for a comparison, which `skiplab rerun` says too."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skiplab.cli import options
from skiplab.cli.run import save
from skiplab.compare import MARGIN, Comparison, Pair, Unpaired
from skiplab.compare import compare as compare_runs
from skiplab.figures import theme
from skiplab.operations import OPERATIONS
from skiplab.results.tables import Shown
from skiplab.store import Run, read_run

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 8
"""Values of an axis that are listed."""


def compare(
    old: Annotated[Path, typer.Argument(help="A run: a .jsonl file that `skiplab sweep` wrote.", metavar="OLD")],
    new: Annotated[Path, typer.Argument(help="The run that is compared with it.", metavar="NEW")],
    margin: Annotated[float, typer.Option(help="Share by which two processes' times differ anyway.")] = MARGIN,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the table.")] = False,
    table: options.Tables = None,
) -> None:
    """Compare two runs of one operation. The ratio of each point's times, and whether it is more than noise.

    A point is faster or slower if the 95 % interval of the ratio new / old lies beyond 1 by the margin as a whole, same
    if it lies within, else unclear; so is a doubtful one (its flags, another way of timing, few samples).

    Exit status: 0 no point is slower; 1 a point is slower, or was ok and fails now; 2 the runs cannot be compared, or
    no point is ok in both. Example: skiplab compare before.jsonl after.jsonl
    """
    files = options.tables(table)
    before, after = read_run(old), read_run(new)
    comparison = compare_runs(before, after, margin)
    typer.echo(json.dumps(comparison.record(), indent=1, allow_nan=False) if as_json else text(comparison))
    if comparison.pairs:
        save(files, comparison.frame, lambda: told(comparison), say=not as_json)
    else:
        apart = _apart(before, after)
        raise ValueError(
            f"{old.name} and {new.name}: no point is ok in both{f'; they differ in {apart}' * bool(apart)}"
        )
    raise typer.Exit(1 if comparison.is_worse else 0)


def text(comparison: Comparison) -> str:
    """The differences, the table of pairs, the count of each verdict, and the points without a pair."""
    parts = [
        f"old: {comparison.old.run_id}, on {comparison.old.device}",
        f"new: {comparison.new.run_id}, on {comparison.new.device}",
    ]
    parts += ["", "What differs:", *_difference_lines(comparison)]
    if comparison.pairs:
        parts += ["", "Time new / time old, with the 95 % interval of the samples' scatter (one process on each side):"]
        if not comparison.same_device:
            parts.append("The devices differ: the ratio compares machines, not code.")
        parts += [pairs(comparison).to_string(index=False), "", _summary(comparison)]
    else:
        parts += ["", "No point is ok in both runs."]
    failed = [one for one in comparison.unpaired if one.old and one.new]
    parts += _listed(comparison, failed, lambda one: f"not ok in both: {_who(one)}, {one.old}, then {one.new}")
    parts += _listed(
        comparison, [one for one in comparison.unpaired if one.new is None], lambda one: _alone("old", one, one.old)
    )
    parts += _listed(
        comparison, [one for one in comparison.unpaired if one.old is None], lambda one: _alone("new", one, one.new)
    )
    return "\n".join(parts)


def told(comparison: Comparison) -> Shown:
    """The pairs for a file, with what differs above, and their verdicts below."""
    old, new = comparison.old, comparison.new
    differs = "; ".join(line.strip() for line in _difference_lines(comparison))
    caption = f"{new.run_id} on {new.device}, compared with {old.run_id} on {old.device}. What differs: {differs}."
    return Shown(caption, pairs(comparison), (_summary(comparison),))


def pairs(comparison: Comparison) -> pd.DataFrame:
    """A line for each pair."""
    import pandas as pd

    lines = [
        {
            "contender": _who(pair), **{name: _value(name, pair.axes) for name in comparison.axes},
            "old": theme.seconds(pair.old_ms / 1e3), "new": theme.seconds(pair.new_ms / 1e3),
            "ratio": f"{pair.ratio:.3f}", "interval": f"{pair.low:.3f} to {pair.high:.3f}",
            "verdict": pair.verdict, "why": ", ".join(pair.doubts),
        }
        for pair in comparison.pairs
    ]  # fmt: skip
    shown = pd.DataFrame.from_records(lines)
    if not any(pair.doubts for pair in comparison.pairs):
        shown = shown.drop(columns="why")
    return shown


def _difference_lines(comparison: Comparison) -> list[str]:
    lines = [f"  {name}: {before} -> {after}" for name, (before, after) in comparison.differences.items()]
    return lines or ["  nothing in device, versions, git and kernels"]


def _summary(comparison: Comparison) -> str:
    counts = ", ".join(f"{number} {verdict}" for verdict, number in comparison.counts.items() if number)
    points = f"{len(comparison.pairs)} point{'s' * (len(comparison.pairs) != 1)}"
    return f"{points} ok in both: {counts} (up to {100 * comparison.margin:g} % counts as noise)."


def _listed(comparison: Comparison, members: Sequence[Unpaired], title: Callable[[Unpaired], str]) -> list[str]:
    """A line for each title: how many points have it, and their values of the axes that differ between points."""
    groups: dict[str, list[Unpaired]] = {}
    for one in members:
        groups.setdefault(title(one), []).append(one)
    lines = []
    for name, group in groups.items():
        values = [f"{axis} {_few([_value(axis, one.axes) for one in group])}" for axis in _varying(comparison)]
        lines.append(f"{name}: {len(group)} point{'s' * (len(group) != 1)}, {', '.join(values)}")
    return lines


def _alone(side: str, one: Unpaired, status: str | None) -> str:
    return f"only in {side}: {_who(one)}{'' if status == 'ok' else f', {status}'}"


def _varying(comparison: Comparison) -> list[str]:
    """The axes in which the compared points differ; the first axis, if they differ in none."""
    points = [one.axes for one in (*comparison.pairs, *comparison.unpaired)]
    defaults = OPERATIONS[comparison.new.operation].defaults
    silent = {name for name, other in defaults.items() if all(axes.get(name) in (None, axes[other]) for axes in points)}
    names = [name for name in comparison.axes if name not in silent]
    return [name for name in names if len({_value(name, axes) for axes in points}) > 1] or names[:1]


def _apart(old: Run, new: Run) -> str:
    """Axes, contenders included, for which the runs have no value in common: `q_heads (32, then 8)`."""
    before, after = (_values(run) for run in (old, new))
    shared = [name for name in before if name in after]
    return ", ".join(
        f"{name} ({_few(before[name])}, then {_few(after[name])})"
        for name in shared
        if not set(before[name]) & set(after[name])
    )


def _values(run: Run) -> dict[str, list[str]]:
    points = [{"contender": row["contender"], **row["axes"]} for row in run.rows]
    names = dict.fromkeys(name for axes in points for name in axes)
    return {name: [_value(name, axes) for axes in points] for name in names}


def _few(values: Sequence[str]) -> str:
    """The distinct values, shortened after `SHOWN`."""
    different = list(dict.fromkeys(values))
    return " ".join([*different[:SHOWN], *(["..."] if len(different) > SHOWN else [])])


def _who(one: Pair | Unpaired) -> str:
    """The contender, with the tile config that was asked for."""
    config = "x".join(map(str, one.config or ()))
    return one.contender if config in one.contender else f"{one.contender} {config}"


def _value(name: str, axes: Mapping[str, Any]) -> str:
    """An axis in a cell; without a window, what all keys or the mask are called."""
    value = axes.get(name)
    if name != "window" or value is not None:
        return "" if value is None else str(value)
    mask = axes.get("mask")
    return OPERATIONS[axes["operation"]].without_window or ("causal" if mask == "causal()" else str(mask))
