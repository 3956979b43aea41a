"""The chart of the ladder: a whole model's tokens a second, rung by rung."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd

from skiplab.contenders.ladder import adds
from skiplab.figures import model, series, theme
from skiplab.figures.charts import BarChart, Bars, Hover
from skiplab.figures.series import RowDict
from skiplab.ladder import Call, calls, of_call, share_of_attention
from skiplab.text import digits, percent
from skiplab.workload import ModelWorkload

BRACKET = re.compile(r"\(.*, ([^,()]*)\)")
COLOURS = {
    ("published",): (theme.style("executorch").colour,), ("predicted",): (theme.GREEN, theme.AMBER, theme.GREY),
    ("recorded", "measured"): (*theme.OURS, theme.DARK),
}  # fmt: skip
"""Of the devices of these sources, in this order: what we timed is blue, whether here or elsewhere."""


def rungs(table: pd.DataFrame, workload: Call | ModelWorkload) -> BarChart:
    """Tokens a second of one call: a group of bars for each rung, a bar for each source and device.

    table: of `ladder.ladder`. What others published is one series, whichever of their tables a rate is from.
    """
    good, added = of_call(table, workload), adds(workload.phase)
    rows = [placed(row) for row in series.rows_of(good)]
    groups = [name for name in added if any(row["contender"] == name for row in rows)]
    bars = []
    for sources, colours in COLOURS.items():
        places = dict.fromkeys((source, row["place"]) for source in sources for row in rows if row["source"] == source)
        for number, place in enumerate(places):
            own = {row["contender"]: row for row in rows if (row["source"], row["place"]) == place}
            bars.append(_bars(*place, own, groups, colours[number % len(colours)]))
    return BarChart(
        f"The ladder: {model.settings_words(_first(workload))}, {workload.model}", "rung, each with all before it",
        "tokens/s", tuple(added[name] for name in groups), tuple(bars), _sources(good), _note(table, good, workload),
        y_is_log=False,
    )  # fmt: skip


def charts(table: pd.DataFrame) -> dict[str, BarChart]:
    """A chart for each call of the table, by name."""
    made = {}
    for workload in calls(table):
        made[f"{workload.model}: {model.settings_words(_first(workload))}"] = rungs(table, workload)
    return made


def placed(row: RowDict) -> RowDict:
    """The row with its `place`: the device, or for all published rows the same."""
    return {**row, "place": "" if row["source"] == "published" else row["device"]}


def _first(workload: Call | ModelWorkload) -> RowDict:
    return {"phase": workload.phase, "q_len": workload.q_len, "depth": workload.depth}


def _bars(source: str, device: str, own: dict[str, RowDict], groups: list[str], colour: str) -> Bars:
    values, hover, below = [], [], None
    for name in groups:
        row = own.get(name)
        values.append(np.nan if row is None else row["tokens_per_s"])
        hover.append(Hover(source) if row is None else _hover(row, below))
        below = below if row is None else row
    name = theme.source_label(source, device) if device else source
    return Bars(name, tuple(values), colour, theme.HATCHES.get(source, ""), hover=tuple(hover))


def _hover(row: RowDict, below: RowDict | None) -> Hover:
    """Rate, gain over the rung below, attention's share, and what makes it doubtful."""
    lines = [f"{digits(row['tokens_per_s'])} tokens/s"]
    if below is not None:
        lines.append(f"{theme.ratio(row['tokens_per_s'] / below['tokens_per_s'])} the bar before")
    if (share := share_of_attention(row["parts"])) == share:
        lines.append(f"attention takes {percent(share, 1)} of the time")
    if row["source"] == "published" and row["phase"] == "decode":
        told = row["depth"] == row["depth"]
        lines.append(f"behind {int(row['depth']):,} tokens" if told else "at a depth that is not told")
    if row["by_kind"] == 1:
        lines.append(model.BY_KIND)
    return Hover(row["label"], "", (*lines, *series.doubts(row)))


def _sources(good: Any) -> str:
    """As `series.sources`, in two lines: of a publisher its number and its GPU, since the title names the model."""
    brief = [BRACKET.sub(r"(\1)", device).replace("pull request", "PR") for device in good["device"]]
    return theme.provenances(zip(good["source"], brief, strict=True))


def _note(table: pd.DataFrame, good: Any, workload: Call | ModelWorkload) -> str:
    """Which rungs could not be measured, and why: a figure never hides a failure. Points say their own flags."""
    if not len(good):
        return series.note(table, good)
    refused: Any = table[(table["phase"] == workload.phase) & (table["status"] != "ok")]
    refused = refused[(refused["model"] == workload.model) & (refused["q_len"] == workload.q_len)]
    failed = dict.fromkeys(f"{row['error_text'] or row['label']} ({row['status']})" for row in series.rows_of(refused))
    return "; ".join(failed)
