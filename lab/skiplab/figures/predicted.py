"""A chart of measured times beside what the roofs of their machine allow, for every operation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd

from skiplab.figures import series, theme
from skiplab.figures.charts import Hover, LineChart
from skiplab.figures.modules import MODULES
from skiplab.figures.series import RowDict
from skiplab.operations import OPERATIONS
from skiplab.text import percent


def measured_vs_predicted(table: pd.DataFrame) -> LineChart:
    """Measured time against the least that the device's roofs allow; a kernel on the diagonal reaches the roofs.

    table: of one operation, or of several, which the legend then names. `bound_ms` is `roofline.bound_of` of the useful
    FLOPs and of each byte that must move once, by the roofs in the run's header; of a linear layer that is the packed
    weight, also for a contender that reads a float one.
    """
    good: Any = table[
        table["operation"].isin(list(OPERATIONS)) & (table["status"] == "ok") & table["bound_ms"].notna()
        & table["source"].isin(["measured", "recorded"])
    ]  # fmt: skip
    good = good.assign(x_s=good["bound_ms"] / 1e3, y_s=good["median_ms"] / 1e3)
    good = good.assign(low_s=good["low_ms"] / 1e3, high_s=good["high_ms"] / 1e3)
    operations = list(dict.fromkeys(good["operation"]))
    lines = series.lines(good, "x_s", "y_s", "low_s", "high_s", lambda row: row["operation"], _hover)
    what = f": {OPERATIONS[operations[0]].title}" if len(operations) == 1 else ""
    return LineChart(
        f"Measured against predicted time{what}", "least time that the roofs allow (useful work)", "measured time",
        tuple(replace(line, joined=False) for line in lines), series.sources(good),
        series.note(table, good, "no measured row has a roof in its run's header"), x_is_time=True, diagonal=True,
        y_is_time=True,
    )  # fmt: skip


def _hover(row: RowDict) -> Hover:
    """A point's hover text: problem, time, least time and doubts."""
    least = theme.seconds(row["bound_ms"] / 1e3)
    reached = f"the roofs allow {least}: it reaches {percent(row['bound_ms'] / row['median_ms'])}"
    lines = (series.time_text(row), reached, *series.doubts(row))
    return Hover(row["label"], f", {MODULES[row['operation']].problem(row)}", lines)
