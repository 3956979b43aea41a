"""A run on disk: JSON lines, one header, then one row a point, each on the disk before the next point starts.

The schema stands in `data/README.md`. A reader refuses what it cannot trust (a newer schema, a broken line, rows
of another device) with a message that names file and line.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

SCHEMA = 1
STATUSES = ("ok", "wrong", "unsupported", "out-of-memory", "crashed", "timeout")
SOURCES = ("measured", "recorded", "published", "predicted")
COLUMNS = (
    "run_id", "source", "device", "contender", "label", "operation", "q_len", "kv_len", "window", "mask", "batch",
    "q_heads", "kv_heads", "head_dim", "dtype", "status", "method", "median_ms", "low_ms", "high_ms", "samples",
    "error", "tolerance", "useful_tflops", "executed_tflops", "dense_flops", "useful_flops", "executed_flops",
    "bytes", "gbps", "bound_ms", "tokens_per_s", "buffer", "rows", "out_features", "in_features", "bits", "group_size",
    "bits_per_weight", "flags", "error_text",
)  # fmt: skip
TEXTS = (
    "run_id", "source", "device", "contender", "label", "operation", "mask", "dtype", "status", "method", "flags",
    "error_text",
)  # fmt: skip
COUNTS = ("q_len", "kv_len", "batch", "q_heads", "kv_heads", "head_dim", "samples")
AXES = ("operation", "q_len", "kv_len", "mask", "batch", "q_heads", "kv_heads", "head_dim", "dtype", "buffer", "rows",
        "out_features", "in_features", "bits", "group_size")  # fmt: skip


OPERATION_AXES = {
    "attention": ("q_len", "window"),
    "decode": ("kv_len", "window", "buffer", "q_len"),
    "linear": ("out_features", "in_features", "rows", "bits", "group_size"),
}
"""What the points of one run differ in."""


class RunFileError(ValueError):
    """A run file that cannot be trusted; the message names the file and the line."""


def data_path(*parts: str) -> Path:
    """A path inside `data/`: the packaged copy where there is one, else the repository's."""
    packaged = Path(__file__).parent / "data"
    root = packaged if packaged.is_dir() else Path(__file__).resolve().parents[2] / "data"
    return root.joinpath(*parts)


def runs_directory() -> Path:
    """Where runs are kept; made when it is missing."""
    path = data_path("runs")
    path.mkdir(parents=True, exist_ok=True)
    return path


@dataclass(frozen=True)
class Run:
    """A run: its header, a row a point, and whether it was measured here and now or recorded earlier."""

    header: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], ...] = ()
    source: str = "recorded"
    path: Path | None = field(default=None, compare=False)

    @property
    def run_id(self) -> str:
        return self.header["run_id"]

    @property
    def operation(self) -> str:
        """attention, decode or linear: a run holds one."""
        return self.rows[0]["axes"]["operation"] if self.rows else self.header.get("operation", "attention")

    @property
    def device(self) -> str:
        """The device's name, as figures print it."""
        return self.header["device"]["name"]

    @property
    def provenance(self) -> str:
        """`measured on X` or `recorded on X`."""
        return f"{self.source} on {self.device}"

    def frame(self) -> pd.DataFrame:
        """The rows as a table with `COLUMNS`; times in milliseconds."""
        return frame(self)

    def plot(self) -> go.Figure:
        """The operation's overview: throughput over prompt lengths, time over a cache's keys, time of each layer."""
        from skiplab import figures

        return figures.overview(self.frame())

    def _repr_html_(self) -> str:
        table = self.frame()
        axes = OPERATION_AXES[self.operation]
        table = table[["contender", *axes, "status", "median_ms", "useful_tflops", "gbps", "flags"]]
        return f"<p>{self.run_id}: {len(self.rows)} points, {self.provenance}</p>" + table._repr_html_()  # type: ignore


class RunWriter:
    """Appends rows to a run file; every row is on the disk (fsync) when `append` returns.

    An existing file is continued if it was made on the same device with the same versions, else ValueError. A last
    line without its newline is a write that was interrupted: it is cut off, and its point measured again.
    """

    def __init__(self, path: Path | str, header: Mapping[str, Any]):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists() and self.path.stat().st_size:
            _cut_interrupted_line(self.path)
        if self.path.exists() and self.path.stat().st_size:
            self.run = read_run(self.path)
            _same_identity(self.path, self.run.header, header)
        else:
            self.run = Run({"record": "header", "schema": SCHEMA, **header}, path=self.path)
            self._write(self.run.header)

    def settled(self, again: Collection[str] = ()) -> frozenset[str]:
        """The keys whose latest row has none of the statuses and flags in `again`."""
        latest = {row["key"]: row for row in self.run.rows}
        return frozenset(key for key, row in latest.items() if not {row["status"], *row.get("flags", ())} & set(again))

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row; ValueError when it is of another device than the header."""
        if row["device"] != self.run.device:
            raise ValueError(f"row: a run holds one device, {self.run.device!r}; got {row['device']!r}")
        row = {"record": "point", **row}
        self._write(row)
        self.run = replace(self.run, rows=(*self.run.rows, row))

    def finish(self, end: str) -> Run:
        """Note the time at which the run ended (ISO 8601) and return it."""
        self._write({"record": "end", "end": end})
        self.run = replace(self.run, header={**self.run.header, "end": end})
        return self.run

    def _write(self, record: Mapping[str, Any]) -> None:
        line = json.dumps(record, allow_nan=False, separators=(", ", ": "))
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())


def read_run(path: Path | str) -> Run:
    """Read a run file; RunFileError names file and line of what is wrong with it."""
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RunFileError(f"{path.name}: cannot be read: {error}") from error
    if not lines:
        raise RunFileError(f"{path.name}, line 1: the file is empty; a run starts with its header")
    header = _header(path, lines[0])
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        record = _record(path, number, line)
        kind = record.get("record")
        if kind == "end":
            header = {**header, "end": record.get("end")}
        elif kind == "point":
            rows.append(_checked_row(path, number, record, header["device"]["name"]))
        else:
            raise RunFileError(f"{path.name}, line {number}: record is {kind!r}; allowed are 'point' and 'end'")
    return Run(header, tuple(rows), path=path)


def read_runs(directory: Path | str | None = None) -> list[Run]:
    """Every run of a folder (default: `runs_directory()`), oldest name first."""
    folder = Path(directory) if directory is not None else data_path("runs")
    return [read_run(path) for path in sorted(folder.glob("*.jsonl"))]


def _record(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise RunFileError(f"{path.name}, line {number}: broken line: {error}") from error
    if not isinstance(record, dict):
        raise RunFileError(f"{path.name}, line {number}: a JSON object is expected, got {type(record).__name__}")
    return record


def _header(path: Path, line: str) -> dict[str, Any]:
    header = _record(path, 1, line)
    if header.get("record") != "header":
        raise RunFileError(f"{path.name}, line 1: a run starts with its header, got {header.get('record')!r}")
    schema = header.get("schema")
    if not isinstance(schema, int) or not 1 <= schema <= SCHEMA:
        raise RunFileError(f"{path.name}, line 1: schema {schema!r}; this version of skiplab reads 1 to {SCHEMA}")
    if "run_id" not in header or "name" not in header.get("device", {}):
        raise RunFileError(f"{path.name}, line 1: the header lacks run_id or device.name")
    return header


def _checked_row(path: Path, number: int, row: dict[str, Any], device: str) -> dict[str, Any]:
    missing = [
        name for name in ("key", "point", "axes", "contender", "status", "device", "samples_ns") if name not in row
    ]
    if missing:
        raise RunFileError(f"{path.name}, line {number}: the row lacks {', '.join(missing)}")
    if row["status"] not in STATUSES:
        raise RunFileError(f"{path.name}, line {number}: status {row['status']!r}; allowed are {', '.join(STATUSES)}")
    if row["device"] != device:
        raise RunFileError(
            f"{path.name}, line {number}: mixed devices: the header says {device!r}, the row {row['device']!r}"
        )
    return row


def _cut_interrupted_line(path: Path) -> None:
    content = path.read_bytes()
    if not content.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)


def _same_identity(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Rows under one header must share what the header says of device and software."""
    for name in ("torch", "triton", "threads"):
        if old.get(name) != new.get(name):
            raise ValueError(
                f"{path.name}: was made with {name} {old.get(name)}, this is {new.get(name)}; name a new file"
            )
    if old["device"]["name"] != new["device"]["name"]:
        raise ValueError(
            f"{path.name}: was made on {old['device']['name']}, this is {new['device']['name']}; name a new file"
        )


def slug(text: str) -> str:
    """Letters, digits and dashes, for file names."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def frame(runs: Run | Iterable[Run]) -> pd.DataFrame:
    """Rows of one or several runs as a pandas table with `COLUMNS`; of a point measured twice the last row counts."""
    runs = [runs] if isinstance(runs, Run) else list(runs)
    return _table([_flat(run, row) for run in runs for row in {row["point"]: row for row in run.rows}.values()])


def _table(records: list[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    table = pd.DataFrame.from_records(records, columns=list(COLUMNS))
    return table.astype({name: "float64" for name in COLUMNS if name not in (*TEXTS, *COUNTS)})


def _flat(run: Run, row: Mapping[str, Any]) -> dict[str, Any]:
    axes, work = row["axes"], row.get("work") or {}
    low, median, high = _quartiles_ms(row["samples_ns"])
    seconds = median / 1e3
    executed = work.get("executed_flops")
    return {
        "run_id": run.run_id, "source": run.source, "device": run.device,
        "contender": row["contender"], "label": row.get("label", row["contender"]),
        **{name: axes.get(name) for name in AXES},
        "window": axes["window"] if axes.get("window") is not None else np.nan,
        "status": row["status"], "method": row.get("method"),
        "median_ms": median, "low_ms": low, "high_ms": high, "samples": len(row["samples_ns"]),
        "error": row.get("error"), "tolerance": row.get("tolerance"),
        "useful_tflops": work.get("useful_flops", np.nan) / seconds / 1e12,
        "executed_tflops": (np.nan if executed is None else executed) / seconds / 1e12,
        "dense_flops": work.get("dense_flops"), "useful_flops": work.get("useful_flops"),
        "executed_flops": executed, "bytes": work.get("bytes"),
        "gbps": work.get("minimal_bytes", np.nan) / seconds / 1e9, "bits_per_weight": _bits_per_weight(axes),
        "bound_ms": _bound_ms(run.header.get("roof"), work),
        "tokens_per_s": (axes["rows"] if "rows" in axes else axes["q_len"] * axes["batch"]) / seconds,
        "flags": ", ".join(row.get("flags", ())), "error_text": row.get("error_text", ""),
    }  # fmt: skip


def _bits_per_weight(axes: Mapping[str, Any]) -> float:
    from skiplab.workload import LinearWorkload

    return LinearWorkload.from_axes(axes).bits_per_weight if axes["operation"] == "linear" else np.nan


def _quartiles_ms(samples_ns: list[int]) -> tuple[float, float, float]:
    if not samples_ns:
        return np.nan, np.nan, np.nan
    low, median, high = np.percentile(samples_ns, (25, 50, 75)) / 1e6
    return float(low), float(median), float(high)


def _bound_ms(roof: Mapping[str, Any] | None, work: Mapping[str, Any]) -> float:
    """The roofline bound of the useful work, from the roof that the run's header holds."""
    if not roof or not work:
        return np.nan
    compute = work["useful_flops"] / (roof["tflops"] * 1e12)
    memory = work["minimal_bytes"] / (roof["bandwidth_gbps"] * 1e9)
    return max(compute, memory) * 1e3


def query(table: pd.DataFrame, **wanted: Any) -> pd.DataFrame:
    """Rows whose columns equal the given values, or lie in the given lists; None stands for no window.

    Example: `query(frame, contender=["blockskip", "flex"], window=512, status="ok")`.
    """
    for name, value in wanted.items():
        if name not in table.columns:
            raise ValueError(f"query: no column {name!r}; there are {', '.join(table.columns)}")
        values = list(value) if isinstance(value, list | tuple | set) else [value]
        keep = table[name].isin([item for item in values if item is not None])
        if None in values:
            keep |= table[name].isna()
        table = table.loc[keep]
    return table


PUBLISHER = "ExecuTorch pull request 20198 (Gemma 4 31B int4, GPU not named)"


def published(operation: str | None = None) -> pd.DataFrame:
    """The tables of `data/published` with `COLUMNS`; source `published`, device the publisher.

    Operations: `prefill` and `generate` (a whole Gemma 4 31B: `tokens_per_s` alone), and `decode` (one attention call
    at q_len 1: `median_ms`). What the source does not tell is empty.
    """
    records = [*_published_prefill(), *_published_decode(), *_published_decode_attention()]
    names = sorted({record["operation"] for record in records})
    if operation is not None and operation not in names:
        raise ValueError(f"operation: got {operation!r}; published are {', '.join(names)}")
    common = {
        "run_id": "executorch-20198", "source": "published", "device": PUBLISHER, "batch": 1,
        "status": "ok", "flags": "", "error_text": "", "dtype": "bfloat16",
    }  # fmt: skip
    return _table([{**common, **record} for record in records if operation in (None, record["operation"])])


def _csv(name: str) -> list[dict[str, str]]:
    with data_path("published", name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _published_prefill() -> list[dict[str, Any]]:
    columns = {"before_tps": "executorch before", "after_tps": "executorch after", "llama_cpp_tps": "llama.cpp"}
    return [
        {
            "operation": "prefill", "contender": name, "label": name, "q_len": int(row["prompt_tokens"]),
            "kv_len": int(row["prompt_tokens"]), "mask": "whole model", "tokens_per_s": float(row[column]),
        }
        for row in _csv("executorch-20198-prefill.csv")
        for column, name in columns.items()
    ]  # fmt: skip


def _published_decode() -> list[dict[str, Any]]:
    return [
        {
            "operation": "generate", "contender": f"executorch {side}", "label": f"{side} {row['change']}",
            "q_len": 1, "kv_len": int(row["prompt_tokens"] or 0) or None, "tokens_per_s": float(row[f"{side}_tps"]),
        }
        for row in _csv("executorch-20198-decode.csv")
        for side in ("before", "after")
    ]  # fmt: skip


def _published_decode_attention() -> list[dict[str, Any]]:
    names = {
        "standard": "executorch standard",
        "splitk": "executorch split-K",
        "pytorch": "sdpa",
        "flash": "sdpa-flash",
    }
    return [
        {
            "operation": "decode", "contender": name, "label": name, "q_len": 1, "kv_len": int(row["kv_len"]),
            "q_heads": 32, "kv_heads": 16, "head_dim": 256, "method": "graph",
            **dict.fromkeys(("median_ms", "low_ms", "high_ms"), float(row[f"{column}_us"]) / 1e3),
        }
        for row in _csv("executorch-20198-decode-sdpa.csv")
        for column, name in names.items()
        if row[f"{column}_us"]
    ]  # fmt: skip
