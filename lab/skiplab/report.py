"""A run -> one HTML file that works offline: figures, tables, where it is from, how to run it again, the raw data."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skiplab import figures, thin
from skiplab.figures.frames import AXES
from skiplab.store import END, OPERATION_AXES, Run, file_name, query
from skiplab.templates import plotly_text, render, trusted

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True)
class Base:
    """What an operation's speed-ups are over, and what ours is called beside it."""

    contender: str
    label: str
    ours: str

    @property
    def words(self) -> str:
        return f"in brackets times faster than {self.label}"


BASES = {
    "attention": Base("sdpa", "dense + mask", "Block-skip"),
    "decode": Base("sdpa", "SDPA", "Our decode"),
    "linear": Base("bf16", "the float weight", "Our int4 or int8 product"),
}
AXIS_HEADS = {
    ("attention", "q_len"): "prompt length",
    ("decode", "q_len"): "queries",
    ("decode", "kv_len"): "keys",
    ("linear", "out_features"): "outputs",
    ("linear", "in_features"): "inputs",
    ("linear", "group_size"): "group size",
}
AXIS_WORDS: dict[str, Callable[[float], str]] = {
    "q_len": lambda n: f"{n:.0f} tokens" if n > 1 else "1 token",
    "window": lambda n: f"window {n:.0f}",
    "kv_len": lambda n: f"{n:.0f} keys",
    "out_features": lambda n: f"{n:.0f} outputs",
    "in_features": lambda n: f"{n:.0f} inputs",
    "rows": lambda n: f"{n:.0f} row{'s' if n > 1 else ''}",
    "bits": lambda n: f"int{n:.0f}",
    "group_size": lambda n: f"groups of {n:.0f}",
}
UNCLAIMED = {"busy", "bimodal", "impossible", "unchecked", "unconverged"}  # no speed-up is claimed on these
LEGEND = {"orientation": "v", "x": 1.01, "xanchor": "left", "y": 1, "yanchor": "top"}  # beside: lines are many
RAW_BYTES = 6_000_000
"""A run of more is not in its report: a browser would take long to open the page."""
DOUBTS = {
    "launch-bound": "called one by one it takes over 10 % longer than replayed: the host is the limit",
    "l2-resident": "what a call reads was not rotated past five times the last cache",
    "allocates": "the call takes device memory beyond its result",
    "throttled": "the GPU had slowed its clocks while it was timed",
    "busy": "other programs used over 5 % of the processor while it was timed",
    "bimodal": "the samples fall into two groups",
    "impossible": "faster than the machine's roofs allow: something is not measured right",
    "unconverged": "the time budget ended before the median was sure to 0.5 %",
    "tuned-elsewhere": "its tiles were tuned on another GPU of this compute capability",
    "unchecked": "its result was not compared with the reference",
}


def write_report(run: Run, path: Path | str) -> Path:
    """Write the run's report to `path` (one HTML file: plotly's 5 MB, and 15 more at most) and return the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(report_html(run), encoding="utf-8")
    return path


def report_html(run: Run) -> str:
    """The report as text. Of a long run it shows a part, and says of each figure and table what is left out."""
    from plotly.offline import get_plotlyjs

    table = run.frame()
    axes = (*OPERATION_AXES[run.operation], "mask")
    times, points = thin.places(table, axes), thin.points(table)
    return "<!doctype html>\n" + render(
        "report.page", title=title(run), plotly=trusted(get_plotlyjs()), provenance=run.provenance,
        start=run.header.get("start", ""), summary=summary(table),
        figures=[(_drawn(figure), text) for figure, text in report_figures(table)],
        base=BASES[run.operation].words, times=time_table(times.table), times_left_out=times.words,
        points=point_table(points.table), points_left_out=points.words, flags=_doubts(table),
        command=run.header.get("command", ""), header=header_table(run), raw=raw_data(run),
    )  # fmt: skip


def title(run: Run) -> str:
    """One line that says what was swept."""
    axes = run.rows[0]["axes"] if run.rows else {}
    if not axes:
        return f"Skiplab run {run.run_id}: no point yet"
    if run.operation == "linear":
        return f"Skiplab: quantised linear layers, {axes['dtype']}"
    heads = f"{axes['q_heads']}/{axes['kv_heads']} heads of {axes['head_dim']}, {axes['dtype']}"
    buffer = f", in a buffer of {axes['buffer']:,} keys" if run.operation == "attention" and "buffer" in axes else ""
    return f"Skiplab: {axes['operation']}, {heads}{buffer}"


def summary(table: pd.DataFrame) -> str:
    """How many points came out how, and the best checked speed-up over the base, in words."""
    counts = ", ".join(f"{number} {status}" for status, number in table["status"].value_counts().items())
    text = f"{len(table)} points: {counts or 'none'}."
    if not len(table):
        return text
    operation = table["operation"].iloc[0]
    base, axes = BASES[operation], OPERATION_AXES[operation]
    unclaimed = [flags for flags in table["flags"].unique() if UNCLAIMED & set(flags.split(", "))]
    doubtful: Any = table["flags"].isin(unclaimed)
    faster: Any = figures.speedups(table.loc[~doubtful], base.contender, (*AXES, *(set(axes) - set(AXES))))
    ours = faster[faster["contender"] == "blockskip"].sort_values("speedup")
    if not len(ours):
        return f"{text} No speed-up is claimed: no pair of points is free of doubt." if doubtful.any() else text
    best = records(ours.iloc[-1:])[0]
    place = ", ".join(_axis_words(name, best) for name in axes if not (name == "buffer" or best[name] is None))
    words = _compared(best["speedup"], base.label)
    return f"{text} {base.ours} is {words} ({place}; results checked against float64)."


def _compared(best: float, base: str) -> str:
    """The largest of several speed-ups over a base, in words; one below 1 says that all of them are slow-downs."""
    if best >= 1.05:
        return f"up to {best:.1f} times as fast as {base}"
    if best > 0.95:
        return f"at best about as fast as {base}"
    return f"slower than {base} at every point compared, and takes at least {1 / best:.1f} times as long"


def report_figures(table: pd.DataFrame) -> list[tuple[go.Figure, str]]:
    """The figures and the text under each."""
    operation = table["operation"].iloc[0] if len(table) else "attention"
    make = {"attention": _prefill_figures, "decode": _decode_figures, "linear": _linear_figures}[operation]
    part = thin.scatter(table[table["status"] == "ok"], "bound_ms", "median_ms")
    against = figures.measured_vs_predicted(part.table if part.words else table)
    words = f"Each point against the least time that the machine's roofs allow. {part.words}"
    return [*make(table, [*OPERATION_AXES[operation], "mask"]), (against, words)]


def _prefill_figures(table: pd.DataFrame, axes: list[str]) -> list[tuple[go.Figure, str]]:
    faster, rate = thin.lines(table, "q_len", axes, "sdpa"), thin.lines(table, "q_len", axes)
    pairs = thin.grid(table[table["contender"].isin(["sdpa", "blockskip"])], "q_len", ["window", "mask"])
    ours = thin.groups(table[table["contender"] == "blockskip"], axes)
    slider = "move the slider to change the window or mask."
    return [
        (with_window_slider(figures.speedup, faster.table), f"Speed-up over dense + mask; {slider} {faster.words}"),
        (with_window_slider(figures.throughput, rate.table),
         f"Prompt tokens a second through one layer's attention. {rate.words}"),
        (figures.heatmap(pairs.table), f"Times that block-skip is faster than dense + mask. {pairs.words}"),
        (figures.flops(ours.table),
         f"What the mask keeps, what block-skip executes, what dense attention executes. {ours.words}"),
    ]  # fmt: skip


def _decode_figures(table: pd.DataFrame, axes: list[str]) -> list[tuple[go.Figure, str]]:
    part = thin.lines(table, "kv_len", axes)
    time = "Time of a decode step; in grey the least that the machine's roofs allow."
    bytes_moved = "Bytes that a step must move, each once, over its time."
    return [
        (figures.decode_time(part.table), f"{time} {part.words}"),
        (figures.decode_bandwidth(part.table), f"{bytes_moved} {part.words}"),
    ]


def _linear_figures(table: pd.DataFrame, axes: list[str]) -> list[tuple[go.Figure, str]]:
    part = thin.groups(table, axes)
    time = "Time of a product, and the least that the machine's roofs allow."
    bytes_moved = "Bytes that a product must move, each once, over its time."
    return [
        (figures.linear_time(part.table), f"{time} {part.words}"),
        (figures.linear_bandwidth(part.table), f"{bytes_moved} {part.words}"),
    ]


def with_window_slider(make: Callable[[pd.DataFrame], go.Figure], table: pd.DataFrame) -> go.Figure:
    """`make(table)` for all windows and for each of them in one figure, chosen with a native slider."""
    masks = records(table.sort_values("window").drop_duplicates("mask"))  # windows, then what has none
    choices = [("all", table), *((_place("window", row), query(table, mask=row["mask"])) for row in masks)]
    made: list[tuple[str, Any]] = [(name, make(part)) for name, part in choices]
    figure, first = made[0][1], min(1, len(made) - 1)  # one window at first: all of them at once are many lines
    owners = [index for index, (_, one) in enumerate(made) for _ in one.data]
    figure.add_traces([trace for _, one in made[1:] for trace in one.data])
    steps = [
        {"label": plotly_text(name), "method": "update", "args": [{"visible": [owner == index for owner in owners]}]}
        for index, (name, _) in enumerate(made)
    ]
    for trace, owner in zip(figure.data, owners, strict=True):
        trace.update(visible=owner == first)
    slider = {"active": first, "steps": steps, "currentvalue": {"prefix": "window or mask: "}, "pad": {"t": 70}}
    height = figure.layout.height or 450
    return figure.update_layout(sliders=[slider], height=height + 100, margin_b=(figure.layout.margin.b or 80) + 90)


def time_table(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each workload, a column for each contender: `median (speed-up over the base)` or the status."""
    import pandas as pd

    if not len(table):
        return pd.DataFrame()
    operation = table["operation"].iloc[0]
    axes, base = OPERATION_AXES[operation], BASES[operation]
    cells: dict[tuple[float | str, ...], dict[str, dict[str, Any]]] = {}
    for row in records(table):
        place = *(_order(row[name]) for name in axes), str(row["mask"])
        cells.setdefault(place, {})[row["contender"]] = row
    lines, contenders = [], table["contender"].unique()
    for _, rows in sorted(cells.items()):
        first = next(iter(rows.values()))
        time = rows[base.contender]["median_ms"] if base.contender in rows else math.nan
        place = {AXIS_HEADS.get((operation, name), name): _place(name, first) for name in axes}
        lines.append({**place, **{name: _cell(rows.get(name), time, base.contender) for name in contenders}})
    return pd.DataFrame.from_records(lines)


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as plain dictionaries."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _order(value: float) -> float:
    """Causal, which has no window, comes after the widest one."""
    return math.inf if math.isnan(value) else value


def _axis_words(name: str, row: Mapping[str, Any]) -> str:
    if name == "window" and math.isnan(row[name]):
        return _place(name, row)
    return AXIS_WORDS[name](row[name])


def _place(name: str, row: Mapping[str, Any]) -> str:
    """An axis in words; of a mask that is no window, its text."""
    if name == "window" and math.isnan(row[name]):
        text = row["mask"]
        return text if isinstance(text, str) and row["operation"] == "attention" and text != "causal()" else "causal"
    return f"{row[name]:.0f}"


def _cell(row: dict[str, Any] | None, base: float, base_name: str) -> str:
    if row is None or row["status"] != "ok":
        return "" if row is None else row["status"]
    text = _time(row["median_ms"]) + ("*" if row["flags"] else "")
    faster = base / row["median_ms"]
    return text if math.isnan(faster) or row["contender"] == base_name else f"{text} ({faster:.2f}x)"


def _time(milliseconds: float) -> str:
    """Three digits, in the unit that needs no zeros in front."""
    return f"{milliseconds * 1e3:.3g} us" if milliseconds < 0.1 else f"{_number(milliseconds)} ms"


def point_table(table: pd.DataFrame) -> pd.DataFrame:
    """Every point: time with quartiles, rates, error beside its tolerance, status, flags, and why it failed."""
    import pandas as pd

    numbers = ("median_ms", "low_ms", "high_ms", "useful_tflops", "gbps", "error", "tolerance")
    axes = OPERATION_AXES[table["operation"].iloc[0]] if len(table) else ()
    lines = [
        {
            "contender": row["contender"], **{name: _place(name, row) for name in axes},
            "status": row["status"], **{name: _number(row[name]) for name in numbers},
            "method": row["method"], "samples": row["samples"], "flags": row["flags"], "why": row["error_text"],
        }
        for row in records(table)
    ]  # fmt: skip
    return pd.DataFrame.from_records(lines)


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def header_table(run: Run) -> pd.DataFrame:
    """What the header says, a line each."""
    import pandas as pd

    shown = {name: value for name, value in run.header.items() if name not in ("record", "command")}
    lines = [(name, value if isinstance(value, str) else json.dumps(value)) for name, value in shown.items()]
    return pd.DataFrame(lines, columns=["what", "value"])


def _doubts(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Each flag of the run, and what it means."""
    seen = sorted({flag for flags in table["flags"].unique() for flag in flags.split(", ") if flag})
    return [(flag, DOUBTS.get(flag, "")) for flag in seen]


def _drawn(figure: go.Figure) -> str:
    """A live figure as plotly writes it: its data stands in a script, with `<` and `>` as escapes of JSON."""
    figure.update_layout(legend=LEGEND, margin_r=240)
    return trusted(figure.to_html(full_html=False, include_plotlyjs=False, config={"responsive": True}))


@dataclass(frozen=True)
class RawData:
    """The run file in the page as base64, every sample; or, of a large one, its size and hash and no data."""

    name: str
    points: int
    base64: str = ""
    megabytes: float = 0.0
    sha256: str = ""


def raw_data(run: Run) -> RawData:
    """The run's records as JSON lines, up to `RAW_BYTES`; of more, what tells the file where they are."""
    name = file_name(run.path.stem if run.path else run.run_id, ".jsonl")
    lines, size = [], 0
    for line in _lines(run):
        size += len(line)
        if size > RAW_BYTES:
            return _elsewhere(run, name)
        lines.append(line)
    return RawData(name, len(run.rows), base64.b64encode(b"".join(lines)).decode())


def _elsewhere(run: Run, name: str) -> RawData:
    """What tells the run's file, where there is one."""
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
