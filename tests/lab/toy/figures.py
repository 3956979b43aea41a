"""Charts of doublings."""

from skiplab.figures import series
from skiplab.figures.charts import Hover, LineChart


def overview(table):
    lines = series.lines(
        table, "width", "median_ms", "low_ms", "high_ms", lambda row: "", lambda row: Hover(row["label"])
    )
    return LineChart("Time of a doubling", "numbers", "time", lines, series.sources(table), series.note(table, table))


def problem(row):
    return f"{int(row['width'])} numbers, {row['manner']}"
