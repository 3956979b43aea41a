"""Runs made of medians that were noted without samples, `data/benchmarks/*_h200.*`: linear layers, packed prompts."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import blockskip as bs

from skiplab.machine.roofs import recorded_roofs
from skiplab.paths import data_path
from skiplab.store.runs import Run
from skiplab.workload import LinearWorkload, Problem, Workload
from skiplab.workload.packed import lengths_of, packed_mask

DEVICE, DAY = "NVIDIA H200", "2026-11-30"
VERSIONS = {"torch": "2.11.0", "triton": "3.6.0"}
PACKED = {
    "blockskip-varlen": "blockskip, cu_seqlens", "blockskip": "blockskip", "flex": "FlexAttention",
    "flash-varlen": "FlashAttention-2, cu_seqlens", "torch-varlen": "torch varlen_attn",
}  # fmt: skip
HUMMING = {"w4a16": ("humming", "Humming W4A16"), "w4a8": ("humming-int8", "Humming W4A8")}
SHIPPED = "one launch"
"""Of the forms in `linear_tiles_h200.json`, the beginning of the name of those that ship."""


def noted_runs() -> list[Run]:
    """A run for each file, each point with one sample, its median. Prefer a run of `data/runs` that has the same point.

    The products in tiles are the fastest of what was tried of the kernel at each point.
    """
    files = {"linear_h200.csv": _plain, "humming_h200.csv": _humming, "linear_tiles_h200.json": _tiles}
    linear = [_run(data_path("benchmarks", name), read, "linear") for name, read in files.items()]
    return [*linear, _run(data_path("benchmarks", "packed_h200.csv"), _packed, "attention")]


def _run(path: Path, read: Any, operation: str) -> Run:
    machine = recorded_roofs()[DEVICE].machine()
    roof = {"bandwidth_gbps": machine.bandwidth_gbps, "tflops": machine.tflops}
    device = {"name": DEVICE, "kind": "cuda"}
    header = {"run_id": path.stem, "operation": operation, "device": device, "roof": roof, "start": DAY, **VERSIONS}
    return Run(header, tuple(read(path)), path=path)


def _row(contender: str, label: str, workload: Problem, median_us: float, kernel: str = "") -> dict[str, Any]:
    work = workload.work()
    key = f"{contender} | {workload.key()} | cuda"
    return {
        "key": key, "point": key, "axes": workload.axes(), "contender": contender, "label": label, "status": "ok",
        "device": DEVICE, "method": "graph", "samples_ns": [round(1e3 * median_us)], "flags": [],
        "work": {"useful_flops": work.useful_flops, "minimal_bytes": work.bytes},
        "plan": {"kernel": kernel} if kernel else {},
    }  # fmt: skip


def _lines(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _workload(line: dict[str, Any], group_size: int = 32, symmetric: bool = False) -> LinearWorkload:
    out_features, in_features, rows = (int(line[name]) for name in ("out_features", "in_features", "rows"))
    return LinearWorkload(out_features, in_features, rows, 4, group_size, symmetric)


def _plain(path: Path) -> Iterator[dict[str, Any]]:
    labels = {"blockskip": "blockskip, rows", "bf16": "float weight"}
    for line in _lines(path):
        name = line["contender"]
        yield _row(name, labels[name], _workload(line), float(line["median_us"]), line["kernel"])


def _humming(path: Path) -> Iterator[dict[str, Any]]:
    for line in _lines(path):
        form, _, group_size = line["variant"].rpartition("g")
        yield _row(*HUMMING[form], _workload(line, int(group_size), True), float(line["median_us"]))


def _tiles(path: Path) -> Iterator[dict[str, Any]]:
    fastest: dict[str, dict[str, Any]] = {}
    for line in json.loads(path.read_text(encoding="utf-8"))["rows"]:
        if line["form"].startswith(SHIPPED):
            row = _row(
                "blockskip-tiles", "blockskip, tiles", _workload(line, symmetric=line["symmetric"]), line["median_us"]
            )
            kept = fastest.setdefault(row["point"], row)
            if row["samples_ns"] < kept["samples_ns"]:
                fastest[row["point"]] = row
    yield from fastest.values()


def _packed(path: Path) -> Iterator[dict[str, Any]]:
    for line in _lines(path):
        lengths, contender = lengths_of(line["lengths"]), line["contender"]
        band = bs.sliding_window(int(line["window"])) if line["window"] else bs.causal()
        q_heads, kv_heads, head_dim = (int(line[name]) for name in ("q_heads", "kv_heads", "head_dim"))
        workload = Workload(sum(lengths), None, packed_mask(lengths, band), 1, q_heads, kv_heads, head_dim)
        yield _row(contender, PACKED[contender], workload, float(line["median_us"]))
