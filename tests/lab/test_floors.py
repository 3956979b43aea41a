"""Floors under a recorded time: counted from the tile map, each upon the one before."""

from __future__ import annotations

from itertools import product

import blockskip as bs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skiplab.floors import FLOORS, floors_of, least_busiest
from skiplab.rated import rated
from skiplab.store import Run, read_runs

SMS, TFLOPS, HEADS, DIM = 4, 2.0, 3, 64


def run(tmp_path, q_len: int = 512, window: int = 100, plan: dict | None = None, **header) -> Run:
    """One point of ours, tiles of 64 x 32, on a device of four multiprocessors without a limit of bandwidth."""
    axes = {"operation": "attention", "q_len": q_len, "kv_len": q_len, "mask": f"sliding_window({window})",
            "window": window, "batch": 1, "q_heads": HEADS, "kv_heads": HEADS, "head_dim": DIM, "dtype": "bfloat16",
            "q_start": None}  # fmt: skip
    useful = 4 * DIM * HEADS * bs.TileMap.build(bs.sliding_window(window), q_len, q_len, 64, 32).kept_pairs
    plan = {"config": [64, 32, 4, 2], "packed": False, **(plan or {})}
    row = {"key": "k", "point": "p", "axes": axes, "contender": "blockskip", "status": "ok", "device": "a GPU",
           "samples_ns": [10**9], "method": "graph", "plan": plan,
           "work": {"useful_flops": useful, "minimal_bytes": 1}}  # fmt: skip
    head = {"run_id": "r", "device": {"name": "a GPU", "sms": SMS}, "roof": {"tflops": TFLOPS, "bandwidth_gbps": 1e9}}
    return Run({**head, **header}, (row,), path=tmp_path / "r.jsonl")


def test_floors_are_counted_from_the_tiles(tmp_path):
    row = floors_of(rated([run(tmp_path)])).iloc[0]
    tilemap = bs.TileMap.build(bs.sliding_window(100), 512, 512, 64, 32)
    tile_ms = 4 * DIM * 64 * 32 / (TFLOPS * 1e12) * 1e3
    assert row["bound_ms"] == pytest.approx(4 * DIM * HEADS * tilemap.kept_pairs / (TFLOPS * 1e9))
    assert row["tiles_ms"] == pytest.approx(HEADS * tilemap.visited * tile_ms)
    loads = [int((tilemap.state[r] > 0).sum()) for r in range(tilemap.rows)] * HEADS
    assert row["busiest_ms"] == pytest.approx(least_busiest(loads, SMS) * SMS * tile_ms)
    assert row["programs"] == len(loads) == 8 * HEADS
    assert list(row[list(FLOORS)]) == sorted(row[list(FLOORS)])


def test_idle_multiprocessors_show_where_programs_are_few(tmp_path):
    row = floors_of(rated([run(tmp_path, q_len=64, window=64)])).iloc[0]  # 3 equal programs on 4 multiprocessors
    assert row["busiest_ms"] == pytest.approx(row["tiles_ms"] * 4 / 3)


@pytest.mark.parametrize("change", [{"plan": {"packed": True}}, {"plan": {"config": None}}, {"roof": None},
                                    {"device": {"name": "a GPU"}}])  # fmt: skip
def test_what_is_not_known_is_left_out(tmp_path, change):
    assert not len(floors_of(rated([run(tmp_path, **change)])))


@pytest.mark.parametrize(("loads", "workers", "most"), [([3, 3, 2, 2, 2], 2, 6), ([5], 3, 5), ([1] * 7, 3, 3)])
def test_the_busiest_worker_has_at_least(loads, workers, most):
    assert least_busiest(loads, workers) == most


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 3))
def test_no_way_to_share_the_loads_out_gives_less(loads, workers):
    ways = product(range(workers), repeat=len(loads))
    best = min(max(np.bincount(way, loads, workers)) for way in ways)
    assert least_busiest(loads, workers) <= best


def test_recorded_times_stand_above_their_floors():
    found = floors_of(rated(read_runs()))
    ours = found[found["contender"] == "blockskip"]
    assert len(ours) and (ours["median_ms"] > ours["busiest_ms"]).all()
