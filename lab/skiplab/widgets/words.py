"""What stands beside an explorer's picture, as HTML: counts, FLOPs, predictions, measured points."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Any

import blockskip as bs
import pandas as pd

from skiplab.figures import theme, tiles
from skiplab.machine import Machine
from skiplab.roofline import predict
from skiplab.workload import Workload

STYLE = "line-height:1.5;font-variant-numeric:tabular-nums;max-width:560px"


def counts(tilemap: bs.TileMap) -> str:
    """Tiles visited and skipped, full and partial, and the waste."""
    parts = [
        f"<b>{tiles.words(tilemap)}</b> ({tilemap.full:,} full, {tilemap.partial:,} partial).",
        f"The mask keeps {tilemap.kept_pairs:,} of {tilemap.q_len * tilemap.kv_len:,} pairs.",
    ]
    if tilemap.kept_pairs:
        parts.append(f"Waste: {tilemap.waste:.2f} pairs are computed for each kept one.")
    else:
        parts.append("No query sees any key.")
    return f'<div class="skiplab-counts" role="status" style="{STYLE}">{" ".join(parts)}</div>'


def work(workload: Workload, tilemap: bs.TileMap) -> str:
    """Useful, executed and dense FLOPs, with bars whose lengths are their share of dense."""
    done = workload.work("map", tilemap.block_m, tilemap.block_n)
    rows = (
        ("useful", done.useful_flops, theme.GREEN, "pairs that the mask keeps"),
        ("executed", done.executed_flops, theme.BLUE, "pairs of visited tiles"),
        ("dense", done.dense_flops, theme.GREY, "all pairs: dense + mask"),
    )
    lines = "".join(
        f'<tr><td style="padding-right:10px">{name}</td>'
        f'<td style="text-align:right;padding-right:10px;white-space:nowrap">{theme.quantity(flops, "FLOP")}</td>'
        f'<td style="width:170px">{_bar(share, colour)}</td>'
        f'<td style="padding-left:10px;opacity:.8;white-space:nowrap">{share:.3g} %, {why}</td></tr>'
        for name, flops, colour, why in rows
        for share in [100 * flops / done.dense_flops]
    )
    return f'<table class="skiplab-work" style="{STYLE}">{lines}</table>'


def prediction(workload: Workload, tilemap: bs.TileMap, machine: Machine) -> str:
    """The roofs' times of dense + mask and block-skip, and what the prediction leaves out."""
    dense, skip = (predict(workload, mode, machine, tilemap.block_m, tilemap.block_n) for mode in ("none", "map"))
    gain = f", <b>{theme.ratio(dense.seconds / skip.seconds)}</b>" if skip.seconds else ""
    return (
        f'<div class="skiplab-prediction" style="{STYLE}"><b>Predicted for {html.escape(machine.name)}</b> from its '
        f"{machine.source} roofs ({machine.tflops:.3g} TFLOP/s, {machine.bandwidth_gbps:,.0f} GB/s): "
        f"dense + mask {theme.seconds(dense.seconds)} ({dense.limited_by}), block-skip {theme.seconds(skip.seconds)} "
        f"({skip.limited_by}){gain}. "
        "One layer, one call; launches, grid tails and softmax are left out, so it is optimistic.</div>"
    )


def measured(ratios: pd.DataFrame, table: pd.DataFrame) -> str:
    """A table of this session's measured points: times, speed-up, error beside what is allowed, flags."""
    gain = {_key(row): row["speedup"] for row in _records(ratios)}
    names = ("setting", "contender", "time", "speed-up", "error (allowed)", "flags")
    lines = "".join(_row("td", _cells(row, gain)) for row in _records(table))
    return f'<table class="skiplab-measured" style="{STYLE};max-width:none">{_row("th", names)}{lines}</table>'


def _bar(percent: float, colour: str) -> str:
    return f'<div style="background:{colour};height:10px;min-width:1px;width:{percent:.2f}%"></div>'


def _records(table: Any) -> list[dict[str, Any]]:
    return table.to_dict("records")


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    names = ("contender", "mask", "q_len", "kv_len", "batch", "q_heads", "kv_heads", "head_dim", "dtype")
    return tuple(row[name] for name in names)


def _cells(row: dict[str, Any], gain: dict[tuple[Any, ...], float]) -> tuple[str, ...]:
    """The cells of one measured point; a failed one says why instead of a time."""
    heads = f"{row['q_heads']}/{row['kv_heads']} heads of {row['head_dim']}"
    time = theme.seconds(row["median_ms"] / 1e3)
    failure = f"<b>{row['status']}</b>: {html.escape(row['error_text'])}"
    error = row["error"]
    return (
        f"{html.escape(row['mask'])}, {row['q_len']:,} × {row['kv_len']:,}, {heads}, {row['dtype']}",
        html.escape(row["label"]),
        time if row["status"] == "ok" else failure,
        theme.ratio(gain[_key(row)]) if _key(row) in gain else "",
        f"{error:.1e} ({row['tolerance']:.1e})" if error is not None and error == error else "",
        html.escape(row["flags"]),
    )


def _row(tag: str, cells: Iterable[str]) -> str:
    style = "padding:1px 12px 1px 0;text-align:left;vertical-align:top"
    return "<tr>" + "".join(f'<{tag} style="{style}">{cell}</{tag}>' for cell in cells) + "</tr>"
