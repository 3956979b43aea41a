"""How long a tile map takes, and how much memory, beside FlexAttention's create_block_mask.

    skiplab bench tilemap [--repeats 9] [--full]

`--full` adds create_block_mask at 32,768 (some 20 s).
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from pathlib import Path

import blockskip as bs
import torch
from blockskip.mask import SHARED
from torch.nn.attention.flex_attention import create_block_mask

from skiplab.bench.record import FOLDER, interleaved, least_and_median, machine, options, table, write
from skiplab.text import digits

TILE = 64
MASKS = {
    "window 1024": bs.sliding_window(1024),
    "causal": bs.causal(),
    "window 1024 or (sink 4 and causal)": bs.sliding_window(1024) | (bs.sink(4) & bs.causal()),
}
LIMITS_MS = {  # what the project asks for
    "window 1024": (5, 30),
    "causal": (5, 30),
    "window 1024 or (sink 4 and causal)": (40, 300),
}
LENGTHS = (131_072, 1_048_576)
LIMIT_MB = 100


def build(mask, length: int) -> bs.TileMap:
    SHARED.clear()
    return bs.TileMap.build(mask, length, length, TILE, TILE)


def resident_kb(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def peak_mb(name: str, length: int) -> float:
    """Most resident memory during one build, beyond what the imports and a tiny map left; in a fresh process."""
    build(MASKS[name], 1024)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = resident_kb("VmRSS")
    tilemap = build(MASKS[name], length)
    assert tilemap.visited
    return (resident_kb("VmHWM") - before) / 1024


def points(repeats: int) -> list[dict]:
    measured = []
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as children:
        for name, mask in MASKS.items():
            for length, limit in zip(LENGTHS, LIMITS_MS[name], strict=True):
                wall, cpu = (
                    interleaved({"build": lambda m=mask, n=length: build(m, n)}, repeats, clock)["build"]
                    for clock in (time.perf_counter_ns, time.thread_time_ns)
                )
                peak = children.apply(peak_mb, (name, length))
                measured.append(
                    {
                        "mask": name,
                        "length": length,
                        "limit_ms": limit,
                        "samples_ns": wall,
                        "cpu_samples_ns": cpu,
                        "peak_mb": peak,
                    }
                )
    return measured


def flex_points(lengths: list[int]) -> list[dict]:
    measured = []
    for n in lengths:

        def make(n=n):
            create_block_mask(
                lambda b, h, q, k: (q >= k) & (q - k < 1024), None, None, n, n, device="cpu", BLOCK_SIZE=TILE
            )

        repeats = 3 if n <= 8192 else 1
        samples = interleaved({"flex": make, "ours": lambda n=n: build(MASKS["window 1024"], n)}, repeats)
        measured.append({"length": n, "samples_ns": samples})
    return measured


def main(arguments: Sequence[str]) -> None:
    parser = options("tilemap", __doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--out", type=Path, default=FOLDER)
    chosen = parser.parse_args(arguments)
    torch.set_grad_enabled(False)
    where = machine()
    ours, flex = points(chosen.repeats), flex_points([4096, 8192, *([32_768] if chosen.full else [])])
    rows = [
        [
            p["mask"],
            f"{p['length']:,}",
            *(least_and_median(p[c]) for c in ("samples_ns", "cpu_samples_ns")),
            p["limit_ms"],
            f"{p['peak_mb']:.1f}",
        ]
        for p in ours
    ]
    beside = [
        [f"{p['length']:,}", *(digits(min(p["samples_ns"][who]) / 1e6) for who in ("flex", "ours"))] for p in flex
    ]
    notes = [
        f"Tiles {TILE} x {TILE}, exact counts of kept pairs included; the cache is emptied before each build. Least / "
        "median; the thread's own processor time beside the wall clock shows what the machine's other work added.",
        f"peak: resident memory beyond the imports, in a process of its own; {LIMIT_MB} MB is the limit.",
        "create_block_mask as called by default (not compiled), the same window and tiles; it makes an L x L tensor.",
    ]
    parts = [
        table(["mask", "L", "wall ms", "CPU ms", "limit ms", "peak MB"], rows),
        table(["L", "create_block_mask, least ms", "TileMap.build, least ms"], beside),
    ]
    write(
        "tilemap",
        "Building a tile map",
        notes,
        parts,
        {"machine": where, "builds": ours, "block_mask": flex},
        chosen.out,
    )
