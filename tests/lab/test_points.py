"""The points of a frame as a table for a notebook."""

from __future__ import annotations

import blockskip as bs
import pandas as pd
import pytest
from skiplab import results
from skiplab.measure import Measurement, Point
from skiplab.store import Run, frame
from skiplab.workload import DecodeWorkload, ModelWorkload, Workload

HEADER = {"run_id": "r", "device": {"name": "CPU X"}, "roof": {"tflops": 0.1, "bandwidth_gbps": 20.0}}


def table_of(*measurements: Measurement):
    rows = [{**one.row(), "device": "CPU X", "source_hash": "", "key": one.point.key} for one in measurements]
    return frame(Run(HEADER, tuple(rows), source="measured"))


def test_numbers_have_three_digits_and_none_becomes_nothing():
    point = Point(Workload(512, mask=bs.sliding_window(64)), "blockskip")
    slow = Measurement(point, "ok", samples_ns=(1_234_567_890,), error=0.00123, tolerance=0.02, label="blockskip")
    quick = Measurement(Point(DecodeWorkload(64), "sdpa"), "ok", samples_ns=(2_345,), flags=("busy",), label="SDPA")
    shown = results.points(table_of(slow, quick), "q_len", "window", "median_ms", "error", "tolerance")
    assert list(shown.cells.columns) == [
        "contender",
        "prompt length",
        "window",
        "median ms",
        "error",
        "allowed",
        "flags",
    ]
    assert shown.cells.to_numpy().tolist() == [
        ["blockskip", "512", "64", "1,235", "1.2e-03", "2.0e-02", ""],
        ["SDPA", "1", "none", "0.00234", "", "", "busy"],
    ]
    assert shown.caption == "2 points, measured on CPU X."


def test_a_slow_rate_is_not_rounded_to_zero_and_a_refusal_says_why():
    table = table_of(Measurement(Point(DecodeWorkload(4096), "reference"), "ok", samples_ns=(10_000_000,), label="r"))
    assert float(results.points(table.assign(gbps=0.0123), "gbps").cells["GB/s"][0]) == 0.0123
    step = Point(ModelWorkload("decode", 4, 512, model="laptop"), "ladder-5-splits")
    refused = Measurement(step, "unsupported", "needs CUDA", label="5: split-K")
    shown = results.points(table_of(refused), "problem", "median_ms")
    assert shown.cells.iloc[0].tolist() == [
        "5: split-K", "a step of 4 tokens behind 512, laptop, int4, bfloat16", "", "", "unsupported", "needs CUDA"
    ]  # fmt: skip


def test_nothing_measured_is_said_and_an_unknown_column_refused():
    assert results.points(frame([]), "q_len").caption == "Nothing is measured."
    with pytest.raises(ValueError, match="columns: got 'speed'; allowed are problem, run_id"):
        results.points(frame([]), "speed")


def test_any_table_is_written_in_three_digits_with_its_index():
    table = pd.DataFrame({"ms": [0.07, 4678.4, float("nan")], "keys": [512, 131072, 1], "why": ["a", "b", "c"]})
    shown = results.captioned(table, "made up")
    assert shown.cells.to_numpy().tolist() == [["0.0700", "512", "a"], ["4,678", "131,072", "b"], ["", "1", "c"]]
    assert (shown.caption, shown.words) == ("made up", ("why",))
    by_name = results.captioned(table.set_index("why")[["ms"]].head(1), "")
    assert by_name.cells.to_dict("list") == {"why": ["a"], "ms": ["0.0700"]}
    assert list(results.captioned(table.T[[0]].head(1), "").cells) == ["", "0"]
