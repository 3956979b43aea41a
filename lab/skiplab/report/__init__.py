"""A run -> one HTML file that works offline: page.py; a file for each operation has the figures of its own."""

from skiplab.report.page import (
    DOUBTS,
    point_table,
    raw_data,
    report_figures,
    report_html,
    summary,
    time_table,
    title,
    write_report,
)

__all__ = [
    "DOUBTS",
    "point_table", "raw_data", "report_figures", "report_html", "summary", "time_table", "title", "write_report",
]  # fmt: skip
