"""The command `skiplab query`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from skiplab.cli import options
from skiplab.cli.run import save
from skiplab.paths import data_path, runs_directory
from skiplab.store import query as ask
from skiplab.text import digits, markdown


def query(
    sql: Annotated[str, typer.Argument(help="A question in SQL to the tables `points` and `runs`.", metavar="SQL")],
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            help=f"Run files, or patterns of them. Default: what skiplab brings with it, and {options.RUNS}.",
            metavar="RUN...",
        ),
    ] = None,
    table: options.Tables = None,
) -> None:
    """Ask run files in SQL. DuckDB answers; `points` has a line for each point, `runs` one for each file.

    skiplab query "DESCRIBE points" lists the columns.

    \b
    Example:
      skiplab query "SELECT device, contender, kv_len, median_ms FROM points
        WHERE operation = 'decode' AND status = 'ok' ORDER BY median_ms LIMIT 10"
    """
    files = options.tables(table)
    found = ask(runs or _all_runs(), sql)
    typer.echo(found.map(_cell).to_string(index=False) if len(found) else "no row")
    save(files, lambda: found, lambda: markdown(list(found.columns), found.map(_cell).to_numpy().tolist()) + "\n")


def _all_runs() -> list[Path]:
    return [path for folder in (data_path("runs"), runs_directory()) for path in sorted(folder.glob("*.jsonl"))]


def _cell(value: Any) -> Any:
    """Three digits of a fraction, nothing of what is missing."""
    if value is None or value is pd.NA or value != value:
        return ""
    return digits(value) if isinstance(value, float) and not value.is_integer() else value
