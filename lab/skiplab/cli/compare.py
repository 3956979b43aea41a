"""The command `skiplab compare`, and its words for a comparison, which `skiplab rerun` and `report` say too."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skiplab.cli import options
from skiplab.cli.run import save, write_report
from skiplab.cli.run import told as told_run
from skiplab.compare import FAILURES, MARGIN, Comparison, differences, together, words
from skiplab.compare import compare as compare_runs
from skiplab.figures import theme
from skiplab.operations import OPERATIONS
from skiplab.results.tables import Shown
from skiplab.store import Run, read_run
from skiplab.text import counted

if TYPE_CHECKING:
    import pandas as pd

FAIL_ON = ("slower", "failing")


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Two runs or more, the oldest first: .jsonl files of one device.", metavar="OLD... NEW"),
    ],
    margin: Annotated[float, typer.Option(help="Share by which two processes' times differ anyway.")] = MARGIN,
    contender: Annotated[options.Texts, options.several(help="Only these contenders, as blockskip")] = None,
    fail_on: Annotated[
        options.Texts,
        options.several(
            "--fail-on", help=f"What exit status 1 is for: {', '.join(FAILURES)}", default=",".join(FAIL_ON)
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the table.")] = False,
    report: Annotated[
        Path | None, options.output("--report", help="Write the comparison to this HTML file, too.")
    ] = None,
    table: options.Tables = None,
) -> None:
    """Compare runs of one operation on one device. The ratio of each point's times, and whether it is more than noise.

    The ratio is a point's time in the last run that has it over that in the first. It is faster or slower if the 95 %
    interval of the ratio lies beyond 1 by the margin as a whole, same if it lies within, else unclear; so is a doubtful
    one (its flags, another way of timing, few samples). missing: not in the last run. failing: was ok, and no more.

    Exit status: 0 nothing of --fail-on is true of any point; 1 it is; 2 the runs cannot be compared, or no point is ok
    in two.

    \b
    Example:
      skiplab compare before.jsonl after.jsonl --margin 0.05 --report out/compare.html
    """
    files, failures = options.tables(table), _failures(fail_on)
    read = [_only(read_run(path), options.words("--contender", contender)) for path in runs]
    comparison = compare_runs(*read, margin=margin)
    typer.echo(json.dumps(comparison.record(), indent=1, allow_nan=False) if as_json else text(comparison))
    if not comparison.pairs:
        raise ValueError(_nothing_in_common([path.name for path in runs], read))
    save(files, comparison.frame, lambda: told(comparison).markdown(), say=not as_json)
    if report:
        write_report(read, report, margin, say=not as_json)
    raise typer.Exit(1 if comparison.fails(failures) else 0)


def _failures(texts: options.Texts) -> tuple[str, ...]:
    """The words of --fail-on; ValueError for one that is not of `FAILURES`."""
    chosen = options.words("--fail-on", texts) or FAIL_ON
    for word in chosen:
        if word not in FAILURES:
            raise ValueError(f"--fail-on: got {word!r}; allowed are {', '.join(FAILURES)}")
    return chosen


def _only(run: Run, contenders: Sequence[str]) -> Run:
    """The run with the rows of these contenders, all without one; ValueError names one that it has none of."""
    if not contenders:
        return run
    rows = tuple(row for row in run.rows if row["contender"] in contenders)
    if missing := [name for name in contenders if name not in {row["contender"] for row in rows}]:
        there = ", ".join(dict.fromkeys(row["contender"] for row in run.rows))
        raise ValueError(f"--contender: {run.path and run.path.name} has no point of {missing[0]!r}; it has {there}")
    return replace(run, rows=rows)


def _nothing_in_common(names: Sequence[str], runs: Sequence[Run]) -> str:
    found = words.apart(runs)
    return f"{' and '.join(names)}: no point is ok in {words.sides(runs)}{f'; they differ in {found}' * bool(found)}"


def text(comparison: Comparison) -> str:
    """The differences, the table of pairs, the count of each verdict, and the points without a pair."""
    runs, two, missing = comparison.runs, words.sides(comparison.runs), comparison.failures["missing"]
    parts = [_run_line(runs, number) for number in range(len(runs))]
    parts += ["", "What differs:", *(f"  {line}" for line in words.difference_lines(comparison.differences))]
    if comparison.pairs:
        ends = "Time new / time old" if len(runs) == 2 else "A point's last time / its first"
        parts += ["", f"{ends}, with the 95 % interval of the samples' scatter (one process on each side):"]
        parts += [pairs(comparison).to_string(index=False), "", *words.notes(comparison)]
        parts += [f"{counted(missing, 'point')} of earlier runs missing in the last."] * bool(missing)
    else:
        parts += ["", f"No point is ok in {two}{' runs' * (two == 'both')}."]
    return "\n".join([*parts, *words.unpaired_lines(comparison)])


def rerun_text(old: Run, new: Run) -> str:
    """What differs between a run and its repetition, with the times where both are of one device."""
    if old.device == new.device:
        return text(compare_runs(old, new))
    differs = "\n".join(f"  {line}" for line in words.difference_lines(differences(old, new)))
    return f"What differs:\n{differs}\nTimes of different devices are not compared: {old.device}, then {new.device}."


def markdown(runs: Sequence[Run], margin: float) -> str:
    """Several runs for a file: a table for each operation and device, of a run alone its times."""
    groups = together(runs)
    parts = [told_run(group[0]) if len(group) == 1 else told(compare_runs(*group, margin=margin)) for group in groups]
    return "\n".join(part.markdown() for part in parts)


def _run_line(runs: Sequence[Run], number: int) -> str:
    run = runs[number]
    began = run.header.get("start")
    return f"{words.label_of(runs, number)}: {run.run_id}, on {run.device}{f', {began}' if began else ''}"


def told(comparison: Comparison) -> Shown:
    """The pairs for a file, with what differs above, and below it their verdicts and what has no ratio."""
    runs = comparison.runs
    before = ", ".join(run.run_id for run in runs[:-1])
    differs = "; ".join(words.difference_lines(comparison.differences))
    caption = f"{runs[-1].run_id} on {comparison.device}, compared with {before}. What differs: {differs}."
    return Shown(caption, pairs(comparison), (*words.notes(comparison), *words.unpaired_lines(comparison)))


def pairs(comparison: Comparison) -> pd.DataFrame:
    """A line for each pair."""
    import pandas as pd

    heads = {name: OPERATIONS[comparison.operation].heading(name) for name in comparison.axes}
    lines = [
        {
            "contender": words.who(pair), **{head: words.axis_value(name, pair.axes) for name, head in heads.items()},
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
