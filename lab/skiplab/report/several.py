"""Several runs -> one HTML file that works offline: a part for each operation and device, with its points compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from skiplab.compare import Comparison, compare, together
from skiplab.compare.words import difference_lines, notes
from skiplab.operations import operation_of
from skiplab.paths import file_name
from skiplab.report.page import meanings, summary
from skiplab.report.points import axes_of, data_of, name_of, of_comparison, of_frame, told_once
from skiplab.store import Run
from skiplab.templates import render
from skiplab.text import counted

RUN_HEADS = ("run", "began", "points", "flags", "torch", "triton", "commit", "kernels", "command")


@dataclass(frozen=True)
class PagePart:
    """What a page says of the runs of one operation and one device."""

    title: str
    name: str
    summary: tuple[str, ...]
    data: dict[str, Any]
    runs: tuple[tuple[str, ...], ...]
    differences: tuple[str, ...] = ()
    run_heads: tuple[str, ...] = RUN_HEADS


def several_html(runs: Sequence[Run], margin: float) -> str:
    """The page as text; the runs in the order given."""
    parts = [_part(group, margin) for group in together(runs)]
    flags = Counter(flag for run in runs for row in run.rows for flag in row.get("flags", ()))
    title = f"Skiplab: {len(runs)} runs" + (f" of {parts[0].title}" if len(parts) == 1 else "")
    return "<!doctype html>\n" + render("comparison.page", title=title, sections=parts, flags=meanings(flags))


def _part(runs: Sequence[Run], margin: float) -> PagePart:
    run = runs[-1]
    title = f"{operation_of(run.operation).title}, {run.device}"
    name = file_name(title, "")
    lines = tuple(tuple(_run_cells(one)) for one in runs)
    if len(runs) == 1:
        table = run.frame()
        said = (f"One run, with nothing to compare it with. {summary(table)}",)
        return PagePart(title, name, said, data_of(of_frame(table)), lines)
    comparison = compare(*runs, margin=margin)
    fields, words = of_comparison(comparison)
    differ = tuple(line.strip() for line in difference_lines(comparison.differences))
    return PagePart(title, name, tuple(_said(comparison)), data_of(fields, runs, words, "verdict"), lines, differ)


def _said(comparison: Comparison) -> list[str]:
    """The headline: all points of the part, counted once each, and what makes those with a ratio doubtful."""
    points = [*comparison.pairs, *comparison.unpaired]
    outcomes = Counter(one.outcome for one in comparison.unpaired)
    counts = ", ".join(f"{number:,} {word}" for word, number in {**comparison.counts, **outcomes}.items() if number)
    once = told_once(operation_of(comparison.operation), axes_of(comparison))
    return [
        f"{counted(len(comparison.runs), 'run')}, {counted(len(points), 'point')}: {counts or 'none'}. A point's last "
        f"time is compared with its first; up to {100 * comparison.margin:g} % counts as noise."
        f"{f' All points: {once}.' * bool(once)}",
        *notes(comparison)[1:],
    ]


def _run_cells(run: Run) -> Iterable[str]:
    header, git = run.header, run.header.get("git") or {}
    flags = Counter(flag for row in run.rows for flag in row.get("flags", ()))
    statuses = Counter(row["status"] for row in run.rows)
    kernels = sorted({row["source_hash"] for row in run.rows if row.get("source_hash")})
    commit = str(git.get("commit", ""))[:12] + ", with changes" * bool(git.get("dirty"))
    return (
        name_of(run), str(header.get("start", "")), _listed(statuses), _listed(flags), str(header.get("torch") or ""),
        str(header.get("triton") or ""), commit, ", ".join(kernels), header.get("command", ""),
    )  # fmt: skip


def _listed(words: Counter[str]) -> str:
    return ", ".join(f"{number:,} {word}" for word, number in words.most_common())
