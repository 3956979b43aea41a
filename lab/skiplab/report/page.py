"""A run -> one HTML file that works offline: figures, tables, where it is from, how to run it again, the raw data."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skiplab import figures, thin
from skiplab.figures import interactive, legends
from skiplab.figures.frames import AXES
from skiplab.measure.point import OTHER_DEVICE
from skiplab.operations import DEFAULT_OPERATION, OPERATIONS, Baseline, Operation
from skiplab.paths import file_name
from skiplab.report.modules import MODULES
from skiplab.report.points import data_of, of_frame, told_once
from skiplab.report.rows import axis_text, records
from skiplab.report.times import notes_above, time_table
from skiplab.store import END, FLAGS, Run
from skiplab.templates import render, trusted
from skiplab.text import counted

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


UNCLAIMED = {"busy", "bimodal", "impossible", "unchecked", "unconverged", OTHER_DEVICE}
"""Flags that no speed-up is claimed on."""
LEGEND = 240
"""Pixels of a figure's legend, beside it: lines are many."""
RAW_BYTES = 6_000_000
"""A run of more is not in its report: a browser would take long to open the page."""


def report_html(run: Run) -> str:
    """The report as text. Of a long run figures and the table of times show an excerpt, and say what is left out."""
    from plotly.offline import get_plotlyjs

    table = run.frame()
    axes = (*OPERATIONS[run.operation].varying, "mask")
    times = thin.by_setting(table, axes)
    drawn = report_figures(table)
    return "<!doctype html>\n" + render(
        "report.page", title=title(run), plotly=trusted(get_plotlyjs()), provenance=run.provenance,
        start=run.header.get("start", ""), summary=summary(table),
        figures=[(_drawn(figure), text) for figure, text in drawn if not _is_blank(figure)],
        blank=[(_reason(figure), text) for figure, text in drawn if _is_blank(figure)],
        times=time_table(times.table), above=notes_above(times.table), times_left_out=times.left_out,
        name=file_name(run.run_id, ""), points=data_of(of_frame(table)), flags=meanings(_flags(table)),
        once=_told_once(table), command=run.header.get("command", ""), header=header_table(run), raw=raw_data(run),
    )  # fmt: skip


def title(run: Run) -> str:
    """One line that says what was swept."""
    axes = run.rows[0]["axes"] if run.rows else {}
    if not axes:
        return f"Skiplab run {run.run_id}: no point yet"
    return f"Skiplab: {OPERATIONS[run.operation].subject(axes)}"


def summary(table: pd.DataFrame) -> str:
    """The number of points by status, and the best checked speed-up over the base, in words.

    Flagged points make no claim, and are counted with what they would say: figures show them.
    """
    counts = ", ".join(f"{number} {status}" for status, number in table["status"].value_counts().items())
    text = f"{len(table)} points: {counts or 'none'}."
    if not len(table):
        return text
    operation = OPERATIONS[table["operation"].iloc[0]]
    base, axes = operation.baseline, operation.varying
    unclaimed = [flags for flags in table["flags"].unique() if UNCLAIMED & set(flags.split(", "))]
    doubtful: Any = table["flags"].isin(unclaimed)
    over = (base.contender, (*AXES, *(set(axes) - set(AXES))))
    ours, all_ours = (_ours_over(part, *over) for part in (table.loc[~doubtful], table))
    if not len(all_ours):
        return f"{text} No speed-up is claimed: no checked point of {base.ours} has one of {base.label} beside it."
    left_out = _left_out(table.loc[doubtful, "flags"], ours, all_ours, base)
    if not len(ours):
        return f"{text} No speed-up is claimed: no pair of points is free of doubt.{left_out}"
    best = records(ours.iloc[-1:])[0]
    told = [name for name in axes if not (name in operation.defaults or best[name] is None)]
    setting = ", ".join(_axis_words(operation, name, best) for name in told)
    words = _compared(best["speedup"], base.label)
    flags = f"; flags: {best['flags']}" * bool(best["flags"])
    return f"{text} {base.ours} is {words} ({setting}; results checked against float64{flags}).{left_out}"


def _ours_over(table: pd.DataFrame, base: str, axes: tuple[str, ...]) -> Any:
    """Our speed-ups over the base, the best last."""
    faster: Any = figures.speedups(table, base, axes)
    return faster[faster["contender"] == "blockskip"].sort_values("speedup")


def _left_out(flags: Any, ours: Any, all_ours: Any, base: Baseline) -> str:
    """How many points no claim is made on, by which flags, and what would be claimed with them; empty without any."""
    if not len(flags):
        return ""
    named = sorted({flag for text in flags for flag in text.split(", ")} & UNCLAIMED)
    verb = "is" if len(flags) == 1 else "are"
    text = f" {counted(len(flags), 'flagged point')} ({', '.join(named)}) {verb} left out of this"
    best, most = (float(part["speedup"].iloc[-1]) if len(part) else 0.0 for part in (ours, all_ours))
    if most <= best * 1.05:
        return f"{text}."
    return f"{text}; counted with them {base.ours} is {_compared(most, base.label)}."


def _compared(best: float, base: str) -> str:
    """The largest of several speed-ups over a base, in words; if it is below 1, all are slow-downs."""
    if best >= 1.05:
        return f"up to {best:.1f} times as fast as {base}"
    if best > 0.95:
        return f"at best about as fast as {base}"
    return f"slower than {base} at every point compared, and takes at least {1 / best:.1f} times as long"


def report_figures(table: pd.DataFrame) -> list[tuple[go.Figure, str]]:
    """The figures and the text under each."""
    name = table["operation"].iloc[0] if len(table) else DEFAULT_OPERATION
    excerpt = thin.scatter(table[table["status"] == "ok"], "bound_ms", "median_ms")
    against = figures.measured_vs_predicted(excerpt.table if excerpt.left_out else table)
    words = f"Each point against the least time that the machine's roofs allow. {excerpt.left_out}"
    return [*MODULES[name].figures_of(table, [*OPERATIONS[name].varying, "mask"]), (against, words)]


def _axis_words(operation: Operation, name: str, row: Mapping[str, Any]) -> str:
    if name == "window" and math.isnan(row[name]):
        return axis_text(name, row)
    return operation.phrases[name](row[name])


def header_table(run: Run) -> pd.DataFrame:
    """The header's entries, a line each."""
    import pandas as pd

    shown = {name: value for name, value in run.header.items() if name not in ("record", "command")}
    lines = [(name, value if isinstance(value, str) else json.dumps(value)) for name, value in shown.items()]
    return pd.DataFrame(lines, columns=["what", "value"])


def _flags(table: pd.DataFrame) -> Counter[str]:
    """How many points have each flag."""
    return Counter(flag for flags in table["flags"] for flag in flags.split(", ") if flag)


def meanings(flags: Counter[str]) -> list[tuple[str, str, str]]:
    """Each flag, how many points have it, and what it means."""
    return [(flag, counted(count, "point"), FLAGS.get(flag, "")) for flag, count in sorted(flags.items())]


def _told_once(table: pd.DataFrame) -> str:
    """The axes that all points share, which the table of points does not repeat."""
    return told_once(OPERATIONS[table["operation"].iloc[0]], records(table)) if len(table) else ""


def _is_blank(figure: go.Figure) -> bool:
    """Whether nothing is drawn in it: its points lack a partner, say."""
    traces: Any = figure.data
    return not any(len(values) for trace in traces for values in (trace.x, trace.y) if values is not None)


def _reason(figure: go.Figure) -> str:
    """What a blank figure says in its middle, as plain text."""
    said: Any = figure.layout.annotations  # type: ignore[attr-defined]
    return html.unescape(said[0].text) if said else "no point to draw"


def _drawn(figure: go.Figure) -> str:
    """A live figure as HTML: its data is in a script, with `<` and `>` escaped as in JSON."""
    legends.beside(figure, LEGEND)
    return trusted(
        figure.to_html(full_html=False, include_plotlyjs=False, config={"responsive": True, **interactive.CONFIG})
    )


@dataclass(frozen=True)
class RawData:
    """The run file in the page as base64, every sample; or, of a large one, its size and hash and no data."""

    name: str
    points: int
    base64: str = ""
    megabytes: float = 0.0
    sha256: str = ""


def raw_data(run: Run) -> RawData:
    """The run's records as JSON lines, up to `RAW_BYTES`; of a larger run what identifies its file."""
    name = file_name(run.path.stem if run.path else run.run_id, ".jsonl")
    lines, size = [], 0
    for line in _lines(run):
        size += len(line)
        if size > RAW_BYTES:
            return _elsewhere(run, name)
        lines.append(line)
    return RawData(name, len(run.rows), base64.b64encode(b"".join(lines)).decode())


def _elsewhere(run: Run, name: str) -> RawData:
    """What identifies the run's file, if there is one: size and hash."""
    if run.path is None or not run.path.is_file():
        return RawData(name, len(run.rows))
    with run.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return RawData(run.path.name, len(run.rows), "", run.path.stat().st_size / 1e6, digest)


def _lines(run: Run) -> Iterator[bytes]:
    header = {name: value for name, value in run.header.items() if name not in END}
    end = {name: run.header[name] for name in END if name in run.header}
    for records_ in ([header], run.rows, [{"record": "end", **end}] if end else []):
        yield from (json.dumps(record).encode() + b"\n" for record in records_)
