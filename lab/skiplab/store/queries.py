"""Questions to run files: rows by the values of their columns, and SQL, which DuckDB answers.

DuckDB reads the files itself, in columns and on all cores: a run's rows need not become Python objects for that. Every
line is checked by the schema before (`reading.scan`), and the columns' types are the schema's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skiplab.store.frames import framed
from skiplab.store.runs import Run, read_run
from skiplab.store.scanning import held_columns

if TYPE_CHECKING:
    import pandas as pd

Files = str | Path | Iterable[str | Path]


def query(source: pd.DataFrame | Files, sql: str | None = None, /, **wanted: Any) -> pd.DataFrame:
    """Rows whose columns equal the given values, or lie in the given lists; None stands for no window.

    source: a frame, or run files: a path, a pattern as `data/runs/*.jsonl`, or several of them. sql: a question to what
    is left, in two tables: `points`, with the columns of a frame but `parts`, and, of files, `runs` (run_id, file,
    start, device, torch, triton, commit, dirty, source_hash, command). The answer is a frame again.

    ValueError for an unknown column, for no file, and for SQL that DuckDB refuses; RunFileError for a broken file.
    Examples: `query(frame, contender=["blockskip", "flex"], window=512, status="ok")`,
    `query("runs/*.jsonl", "SELECT contender, min(median_ms) FROM points GROUP BY contender", operation="decode")`.
    """
    import pandas as pd

    if isinstance(source, pd.DataFrame):
        table, runs = source, None
    else:
        runs = [_checked(path) for path in files_of(source)]
        table = framed(runs, held_columns(runs))
    table = _where(table, wanted)
    return table if sql is None else _answer(sql, table, runs)


def files_of(source: Files) -> list[Path]:
    """The run files that a path, a pattern or several of them name, each once; ValueError for what names none."""
    found: dict[Path, None] = {}
    for one in [source] if isinstance(source, str | Path) else source:
        paths = [Path(one)] if Path(one).is_file() else sorted(map(Path, glob(str(one))))
        if not paths:
            raise ValueError(f"query: there is no file {str(one)!r}")
        found.update(dict.fromkeys(paths))
    return list(found)


def _checked(path: Path) -> Run:
    """The run with its first row alone: the others are checked, and need not be held."""
    run = read_run(path)
    return replace(run, rows=run.rows[:1])


def _where(table: pd.DataFrame, wanted: Mapping[str, Any]) -> pd.DataFrame:
    for name, value in wanted.items():
        if name not in table.columns:
            raise ValueError(f"query: no column {name!r}; there are {', '.join(table.columns)}")
        values = list(value) if isinstance(value, list | tuple | set) else [value]
        keep = table[name].isin([item for item in values if item is not None])
        if None in values:
            keep |= table[name].isna()
        table = table.loc[keep]
    return table


def _answer(sql: str, table: pd.DataFrame, runs: Sequence[Run] | None) -> pd.DataFrame:
    """What DuckDB says to that SQL; ValueError in its own words."""
    import duckdb

    with duckdb.connect() as connection:
        connection.register("points", table.drop(columns="parts", errors="ignore"))
        if runs is not None:
            connection.register("runs", _headers(runs))
        try:
            return connection.execute(sql).df()
        except duckdb.Error as error:
            words = str(error).strip().splitlines()
            raise ValueError(f"sql: {' '.join(line.strip() for line in words if line.strip())}") from error


def _headers(runs: Iterable[Run]) -> pd.DataFrame:
    import pandas as pd

    lines = []
    for run in runs:
        header, git = run.header, run.header.get("git") or {}
        told = {name: header.get(name) for name in ("start", "torch", "triton", "source_hash", "command")}
        file = run.path.name if run.path else ""
        lines.append({"run_id": run.run_id, "file": file, "device": run.device, **told,
                      "commit": git.get("commit"), "dirty": git.get("dirty")})  # fmt: skip
    columns = ["run_id", "file", "start", "device", "torch", "triton", "commit", "dirty", "source_hash", "command"]
    return pd.DataFrame.from_records(lines, columns=columns).astype(object)
