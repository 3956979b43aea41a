"""What several commands share: measure a sweep, show a run, write its report."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from skiplab.compare import MARGIN
from skiplab.results.tables import Shown
from skiplab.store import Run, frame, read_run
from skiplab.store.keys import without_index
from skiplab.sweep import AnySweep, Progress, Where, row_key, run_sweep

if TYPE_CHECKING:
    import pandas as pd

INTERRUPTED = 130


def swept(
    wanted: AnySweep,
    path: Path | None,
    where: Where | None = None,
    *,
    topic: str | None = None,
    again: tuple[str, ...] = (),
    fresh: bool = False,
) -> Run:
    """Measure a sweep until Ctrl-C; say what was kept, where, how to continue, and what each of several devices did.

    path, topic, fresh: as `run_sweep` has them. where: by default on the sweep's own device. Only with `again` are
    points added to a finished run; else it is measured once more, beside it.
    """
    began, steps = list[Run](), list[Progress]()
    how = {
        "topic": topic, "again": again, "fresh": fresh, "anew": not again, "say": typer.echo, "on_start": began.append,
        "on_progress": steps.append, **(where or Where(wanted.device)).options,
    }  # fmt: skip
    try:
        with interrupts() as interrupted:
            done = run_sweep(wanted, path, cancelled=interrupted, **how)
    except KeyboardInterrupt:  # the second
        if began and began[0].path:
            typer.echo(stopped(wanted, read_run(began[0].path)))
        raise typer.Exit(INTERRUPTED) from None
    if "interrupted" in done.header:
        typer.echo(stopped(wanted, done))
    if steps and len(steps[-1].devices) > 1:
        typer.echo(f"points by device: {steps[-1].counts}")
    assert done.path is not None
    typer.echo(f"run: {shown(done.path)}")
    return done


def stopped(wanted: AnySweep, run: Run) -> str:
    """What an interrupted sweep has kept, and how to continue it, in one line."""
    points = {row_key(point) for point in wanted.points()}
    kept = points & {without_index(row["key"]) for row in run.rows}
    return f"Stopped: {len(kept)} of {len(points)} points are kept; the same command goes on."


def end_as_interrupted(*runs: Run) -> None:
    """Exit with status 130, as a program ended by Ctrl-C does, if one of the runs was interrupted."""
    if any("interrupted" in run.header for run in runs):
        raise typer.Exit(INTERRUPTED)


@contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Ctrl-C sets a flag instead of raising, once; a second one ends the program."""
    seen: list[int] = []

    def note(number: int, stack: object) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    previous = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(seen)
    finally:
        signal.signal(signal.SIGINT, previous)


def told(run: Run) -> Shown:
    """A run's table of times, failures with their reasons, flags, and a summary of one line."""
    from skiplab.report import narrow_notes, notes_above, summary, time_table

    table = frame(run)
    above = notes_above(table)
    caption = f"{run.provenance}: median time a call" + (f", {above}" if above else "")
    failures = Counter(
        (row["contender"], row["status"], row.get("error_text", "")) for row in run.rows if row["status"] != "ok"
    )
    notes = [f"{name}, {count} points {status}: {why}" for (name, status, why), count in failures.items()]
    notes += narrow_notes(table)
    flags = sorted({flag for text in table["flags"] for flag in text.split(", ") if flag})
    if flags:
        notes.append(f"flags seen: {', '.join(flags)} (the report says what they mean)")
    return Shown(caption, time_table(table), (*notes, *_timed_apart(run), summary(table)))


def _timed_apart(run: Run) -> list[str]:
    """Of a run that interleaves, whose points were timed alone though others have some of the same workloads.

    They failed beside those, or were measured on another occasion.
    """
    if not (run.header.get("parameters") or {}).get("interleave"):
        return []
    good = [row for row in run.rows if row["status"] == "ok"]
    others = Counter(_workload(row) for row in good)
    apart = Counter(row["contender"] for row in good if not row.get("together") and others[_workload(row)] > 1)
    return [f"{name}, {count} points timed by themselves, not in turn with others'" for name, count in apart.items()]


def _workload(row: Mapping[str, Any]) -> str:
    """The workload and the kind of device, as a point's text has them behind the contender."""
    return without_index(row["point"]).partition(" | ")[2]


def show(run: Run) -> None:
    """Print what is told of the run."""
    typer.echo(f"\n{told(run)}")


def write_tables(run: Run, files: Sequence[Path]) -> None:
    """Write the files of --table: all points with all their numbers as CSV, or what is printed as Markdown."""
    save(files, lambda: frame(run), lambda: told(run).markdown())


def save(
    files: Sequence[Path], numbers: Callable[[], pd.DataFrame], words: Callable[[], str], say: bool = True
) -> None:
    """Write numbers to each .csv, words (Markdown) to each .md, and say where."""
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = words() if path.suffix == ".md" else numbers().to_csv(index=False)
        path.write_text(text, encoding="utf-8", newline="")
        if say:
            typer.echo(f"table: {shown(path)}")


def write_report(runs: Run | Sequence[Run], path: Path | None = None, margin: float = MARGIN, say: bool = True) -> None:
    """Write the HTML of a run, or of several that are compared, by default into `out`, and say where it is."""
    from skiplab import report

    if path is None:
        one = runs if isinstance(runs, Run) else None
        path = Path("out") / f"{'runs' if one is None else one.path.stem if one.path else one.run_id}.html"
    report.write_report(runs, path, margin)
    if say:
        typer.echo(f"report: {shown(path)}")


def shown(path: Path) -> Path:
    """The path relative to the working folder, as a user would type it."""
    path = path.resolve()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
