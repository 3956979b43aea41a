"""Runs -> one HTML file that works offline: page.py of one run, several.py of more; a file for each operation has the
figures of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from skiplab.compare import MARGIN
from skiplab.report.page import raw_data, report_figures, report_html, summary, title
from skiplab.report.several import several_html
from skiplab.report.times import marks_note, narrow_notes, notes_above, time_table
from skiplab.store import Run

__all__ = [
    "marks_note", "narrow_notes", "notes_above", "raw_data", "report_figures", "report_html", "several_html", "summary",
    "time_table", "title", "write_report",
]  # fmt: skip


def write_report(runs: Run | Sequence[Run], path: Path | str, margin: float = MARGIN) -> Path:
    """Write the HTML of a run (plotly's 5 MB, and 25 more at most), or of several, and return its path.

    margin: of several runs, the share by which two processes' times differ anyway.
    """
    path = Path(path)
    page = report_html(runs) if isinstance(runs, Run) else several_html(runs, margin)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path
