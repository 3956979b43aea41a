"""The text beside a mask explorer's picture, as HTML: counts, FLOPs, predictions, measured points."""

from __future__ import annotations

from typing import Any

import blockskip as bs
import pandas as pd

from skiplab.figures import theme, tiles
from skiplab.machine import Machine
from skiplab.machine.roofline import predict
from skiplab.templates import render
from skiplab.workload import Workload

WIDTH = "560px"


def counts(tilemap: bs.TileMap) -> str:
    """Tiles visited and skipped, full and partial, and the waste."""
    waste = f"Waste: {tilemap.waste:.2f} pairs are computed for each kept one." if tilemap.kept_pairs else ""
    rest = (
        f"({tilemap.full:,} full, {tilemap.partial:,} partial). "
        f"The mask keeps {tilemap.kept_pairs:,} of {tilemap.q_len * tilemap.kv_len:,} pairs. "
        f"{waste or 'No query sees any key.'}"
    )
    return render("explorers.counts", name="skiplab-counts", width=WIDTH, first=tiles.summary(tilemap), rest=rest)


def work(workload: Workload, tilemap: bs.TileMap) -> str:
    """Useful, executed and dense FLOPs, with bars whose lengths are their share of dense."""
    done = workload.work("map", tilemap.block_m, tilemap.block_n)
    amounts = (
        ("useful", done.useful_flops, theme.GREEN, "pairs that the mask keeps"),
        ("executed", done.executed_flops, theme.BLUE, "pairs of visited tiles"),
        ("dense", done.dense_flops, theme.GREY, "all pairs: dense + mask"),
    )
    rows = [
        (name, theme.quantity(flops, "FLOP"), colour, 100 * flops / done.dense_flops, why)
        for name, flops, colour, why in amounts
    ]
    return render("explorers.work", rows=rows)


def prediction(workload: Workload, tilemap: bs.TileMap, machine: Machine) -> str:
    """The roofs' times of dense + mask and blockskip, and what the prediction leaves out."""
    dense, skip = (
        predict(workload, machine, skip=mode, block_m=tilemap.block_m, block_n=tilemap.block_n)
        for mode in ("none", "map")
    )
    return render(
        "explorers.prediction", machine=machine.name,
        roofs=f"from its {machine.source} roofs ({machine.tflops:.3g} TFLOP/s, {machine.bandwidth_gbps:,.0f} GB/s)",
        times=f"dense + mask {theme.seconds(dense.seconds)} ({dense.limited_by}), blockskip "
        f"{theme.seconds(skip.seconds)} ({skip.limited_by})",
        gain=theme.ratio(dense.seconds / skip.seconds) if skip.seconds else "",
        rest="One layer, one call; launches, grid tails and softmax are left out, so it is optimistic.",
    )  # fmt: skip


def measured(ratios: pd.DataFrame, table: pd.DataFrame) -> str:
    """A table of this session's measured points: times, speed-up, error beside what is allowed, flags."""
    gain = {_key(row): row["speedup"] for row in _records(ratios)}
    heads = ("setting", "contender", "time", "speed-up", "error (allowed)", "flags")
    return render("explorers.measured", heads=heads, rows=[_cells(row, gain) for row in _records(table)])


def _records(table: Any) -> list[dict[str, Any]]:
    return table.to_dict("records")


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    names = ("contender", "mask", "q_len", "kv_len", "batch", "q_heads", "kv_heads", "head_dim", "dtype")
    return tuple(row[name] for name in names)


def _cells(row: dict[str, Any], gain: dict[tuple[Any, ...], float]) -> dict[str, str | None]:
    """The table's row for one measured point; for a failed one the reason instead of a time."""
    heads = f"{row['q_heads']}/{row['kv_heads']} heads of {row['head_dim']}"
    error = row["error"]
    return {
        "setting": f"{row['mask']}, {row['q_len']:,} × {row['kv_len']:,}, {heads}, {row['dtype']}",
        "contender": row["label"], "time": theme.seconds(row["median_ms"] / 1e3), "status": row["status"],
        "why": None if row["status"] == "ok" else row["error_text"],
        "gain": theme.ratio(gain[_key(row)]) if _key(row) in gain else "",
        "error": f"{error:.1e} ({row['tolerance']:.1e})" if error is not None and error == error else "",
        "flags": row["flags"],
    }  # fmt: skip
