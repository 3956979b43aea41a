"""Charts of decode: what stands in a line, what a floor is, and which pairs give a speed-up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from skiplab import figures
from skiplab.figures import attention, decode, frames, interactive, static, theme
from skiplab.machine import known_gpus
from skiplab.store import COLUMNS, Run, published
from skiplab.workload import DecodeWorkload

H200, A100 = known_gpus()["NVIDIA H200"], known_gpus()["NVIDIA A100 80GB SXM"]
ROOF_GBPS = 1000.0


def row(contender: str, median_ms: float, kv_len: int = 4096, window: float | None = None, **fields) -> dict:
    """A point of 32/16 heads of 256 in bfloat16, on a device of 1,000 GB/s that sets the floor by its bytes."""
    moved = 2 * 2 * 16 * min(kv_len, window or kv_len) * 256
    return {
        "run_id": "r", "source": "measured", "device": "a GPU", "contender": contender, "label": contender,
        "operation": "decode", "q_len": 1, "kv_len": kv_len, "window": window, "mask": f"window {window}", "batch": 1,
        "q_heads": 32, "kv_heads": 16, "head_dim": 256, "dtype": "bfloat16", "buffer": kv_len, "status": "ok",
        "method": "graph", "median_ms": median_ms, "low_ms": median_ms * 0.9, "high_ms": median_ms * 1.1,
        "error": 1e-3, "tolerance": 1e-2, "bytes": moved, "gbps": moved / median_ms / 1e6,
        "bound_ms": moved / ROOF_GBPS / 1e6, "tokens_per_s": 1e3 / median_ms, "flags": "", "error_text": "", **fields,
    }  # fmt: skip


def table(*rows: dict) -> pd.DataFrame:
    made = pd.DataFrame.from_records(rows).reindex(columns=list(COLUMNS))
    return made.astype({"window": "float64", "buffer": "float64", "gbps": "float64"})


@pytest.fixture
def measured() -> pd.DataFrame:
    """Split-K twice as fast at 4,096 keys and four times at 16,384; with a window no faster."""
    return table(
        row("blockskip-one", 0.4), row("blockskip", 0.2),
        row("blockskip-one", 1.6, 16384), row("blockskip", 0.4, 16384),
        row("blockskip-one", 0.1, window=1024), row("blockskip", 0.1, window=1024),
    )  # fmt: skip


def test_time_is_in_seconds_over_keys_with_the_floor_of_the_roofs(measured):
    chart = decode.decode_time(measured)
    lines = {line.name: line for line in chart.lines}
    assert lines["blockskip, all keys"].x == (4096, 16384)
    assert lines["blockskip, all keys"].y == pytest.approx((2e-4, 4e-4))
    floor = lines["least time that the roofs allow, all keys"]
    assert floor.y == pytest.approx([2 * 2 * 16 * n * 256 / (ROOF_GBPS * 1e9) for n in (4096, 16384)])
    assert "least time that the roofs allow, window 1k" in lines
    assert chart.y_is_time and chart.sources == "measured on a GPU"


def test_multiples_of_the_least_time_tell_lines_apart_that_run_together_as_times(measured):
    chart = decode.decode_ratio(measured)
    times, lines = ({line.name: line for line in one.lines} for one in (decode.decode_time(measured), chart))
    least = times["least time that the roofs allow, all keys"]
    assert chart.level == 1 and set(lines) == {name for name in times if not name.startswith("least")}
    ratios = np.array(times["blockskip, all keys"].y) / least.y
    assert lines["blockskip, all keys"].y == pytest.approx(ratios) and lines["blockskip, all keys"].x == least.x
    assert "no checked point has a roof" in decode.decode_ratio(measured.assign(bound_ms=np.nan)).note


def test_bandwidth_reaches_the_roof_where_the_time_is_the_floor():
    at_roof = row("blockskip", 1.0)
    at_roof = row("blockskip", at_roof["bound_ms"])
    line, roof = decode.decode_bandwidth(table(at_roof)).lines
    assert line.y == pytest.approx((ROOF_GBPS,)) and roof.y == pytest.approx((ROOF_GBPS,))
    slow = decode.decode_bandwidth(table(row("blockskip", 3 * at_roof["bound_ms"]))).lines
    assert slow[0].y == pytest.approx((ROOF_GBPS / 3,)) and slow[1].y == pytest.approx((ROOF_GBPS,))
    assert slow[0].low[0] < slow[0].y[0] < slow[0].high[0]


def test_crossover_takes_each_way_of_timing_by_itself(measured):
    eager = measured.assign(method="eager", median_ms=1.0, low_ms=1.0, high_ms=1.0)  # launches hide the gain
    lines = {line.name: line for line in decode.crossover(pd.concat([measured, eager])).lines}
    assert lines["blockskip, against blockskip-one, in a CUDA graph, all keys"].y == pytest.approx((2.0, 4.0))
    assert lines["blockskip, against blockskip-one, launched one by one, all keys"].y == pytest.approx((1.0, 1.0))


def test_no_crossover_across_buffers_windows_or_devices(measured):
    split = measured[measured["contender"] == "blockskip"]
    one = measured[measured["contender"] == "blockskip-one"]
    for change in ({"buffer": 131072.0}, {"window": 512.0}, {"device": "another"}, {"method": "eager"}):
        chart = decode.crossover(pd.concat([split, one.assign(**change)]))
        assert not chart.lines and "no checked point" in chart.note, change


def test_published_crossover_is_the_authors():
    chart = decode.crossover(published("decode"))
    (line,) = chart.lines
    assert line.y == pytest.approx((102.4 / 24.6, 785.5 / 179.8))
    assert chart.sources.startswith("published by ExecuTorch") and line.dash == theme.SOURCE_DASH["published"]


def test_measured_predicted_and_published_stand_in_one_figure_each_labelled(measured):
    predicted = [frames.predictions(map(DecodeWorkload, (4096, 16384)), gpu) for gpu in (A100, H200)]
    everything = pd.concat([measured, *predicted, published("decode")])
    chart = decode.decode_time(everything)
    for words in ("measured on a GPU", "A100 80GB SXM and NVIDIA H200", "published by ExecuTorch"):
        assert words in chart.sources
    predictions = [line for line in chart.lines if "predicted: " in line.name]
    assert len(predictions) == 2 and len({line.style.colour for line in predictions}) == 2
    assert all(line.dash == theme.SOURCE_DASH["predicted"] for line in predictions)
    names = [line.name for line in chart.lines]
    assert len(set(names)) == len(names)


def test_prediction_is_compulsory_bytes_over_bandwidth():
    kept = frames.predictions([DecodeWorkload(16384), DecodeWorkload(16384, 1024)], H200)
    for keys, seconds in zip((16384, 1024), kept["median_ms"] / 1e3, strict=True):
        read = 2 * 2 * 16 * keys * 256
        assert seconds == pytest.approx(read / (H200.bandwidth_gbps * 1e9), rel=0.02)  # q and out are the rest
    assert set(kept["source"]) == {"predicted"} and set(kept["device"]) == {"NVIDIA H200"}
    assert kept["gbps"].tolist() == pytest.approx([H200.bandwidth_gbps] * 2)


def test_grid_holds_times_or_rates_and_prefers_what_was_measured(measured):
    predicted = frames.predictions([DecodeWorkload(4096)], H200)
    chart = decode.decode_grid(pd.concat([predicted, measured]))
    assert (chart.x, chart.y) == (("4k", "16k"), ("1k", "all keys"))
    np.testing.assert_allclose(chart.z, [[1e-4, np.nan], [2e-4, 4e-4]])
    assert chart.sources == "measured on a GPU" and chart.text(2e-4) == "200 µs"
    np.testing.assert_allclose(decode.decode_grid(measured, "rate").z, [[1e4, np.nan], [5e3, 2.5e3]])
    with pytest.raises(ValueError, match="y: got 'latency'; allowed are time, rate"):
        decode.decode_grid(measured, "latency")


def test_rows_of_other_ways_of_timing_come_from_the_run():
    point = {
        "key": "k", "point": "k", "contender": "blockskip", "status": "ok", "device": "a GPU", "method": "graph",
        "axes": {"operation": "decode", "q_len": 1, "kv_len": 64, "batch": 1, "window": None},
        "samples_ns": [1000, 1000], "other_samples_ns": {"eager": [5000, 5000, 5000]},
    }  # fmt: skip
    run = Run({"run_id": "r", "device": {"name": "a GPU"}}, (point,))
    both = frames.by_method(run)
    assert dict(zip(both["method"], both["median_ms"], strict=True)) == {"graph": 1e-3, "eager": 5e-3}
    assert not len(frames.by_method(replace(run, rows=())))


def test_a_point_timed_in_several_ways_stands_once_by_its_graph(measured):
    eager, warm = (measured.assign(method=method, median_ms=9.0) for method in ("eager", "warm"))
    for several in ([measured, eager, warm], [warm, eager, measured]):
        assert decode.decode_time(pd.concat(several)).lines == decode.decode_time(measured).lines
    alone = decode.decode_time(eager)
    assert {y for line in alone.lines for y in line.y if "least" not in line.name} == {9e-3}


def test_published_rates_of_a_whole_model_stand_before_and_after():
    chart = decode.generation(published("generate"))
    before, after = chart.bars
    rates = dict(zip(chart.groups, zip(before.values, after.values, strict=True), strict=True))
    assert rates["split-K decode"] == (37.91, 43.98)
    assert chart.sources.startswith("published by ExecuTorch") and not chart.y_is_log
    assert not decode.decode_time(published("generate")).lines


def test_failures_and_flags_are_said(measured):
    doubtful = pd.concat([measured.assign(flags="throttled"), table(row("flex", np.nan, status="crashed"))])
    note = decode.decode_time(doubtful).note
    assert "not shown: 1 crashed" in note and "flags: throttled" in note


def test_attention_rows_never_stand_among_decode_steps(measured):
    both = pd.concat([measured, measured.assign(operation="attention", median_ms=9e9)])
    assert decode.decode_time(both) == decode.decode_time(measured)


CHARTS = (decode.decode_time, decode.decode_rate, decode.decode_bandwidth, decode.crossover, decode.decode_grid)


@pytest.mark.parametrize("draw", CHARTS, ids=lambda draw: draw.__name__)
def test_every_chart_is_drawn_by_both_and_says_when_it_is_empty(measured, draw):
    for chart in (draw(measured), draw(measured.iloc[:0])):
        assert interactive.draw(chart).layout.annotations
        assert static.png(chart).startswith(b"\x89PNG")
        assert chart.note or chart.sources == "measured on a GPU"
    assert attention.throughput(measured.iloc[:0]).note == draw(measured.iloc[:0]).note or draw(measured.iloc[:0]).note


def test_overview_is_the_chart_of_the_operation(measured):
    assert figures.overview(measured).layout.title.text == decode.decode_time(measured).title


def test_contenders_of_one_colour_stay_apart_where_markers_tell_settings():
    names = ("sdpa-cudnn", "flashinfer", "flashinfer-tensor", "blockskip")
    rows = [row(name, 1.0, kv_len, window) for name in names for kv_len in (4096, 16384) for window in (None, 1024)]
    lines = [line for line in decode.decode_time(table(*rows)).lines if line.style.colour != theme.GREY]
    looks = {(line.style.colour, line.style.marker) for line in lines}
    assert len(looks) == len(lines) == 8
    marks = [mark for mark in static.draw(decode.decode_time(table(*rows))).axes[0].lines if mark.get_label()[0] != "_"]
    drawn = {(m.get_color(), m.get_marker(), m.get_fillstyle(), m.get_markerfacecolor()) for m in marks}
    assert len(drawn) == len(marks)


def test_a_slow_rate_is_no_zero_in_the_hover_text():
    """A laptop's step of 8 MB may take seconds."""
    hovers = [decode._hover(row("blockskip", ms, kv_len=512)).lines for ms in (20_000.0, 8.0)]
    rates = [next(line for line in lines if "GB/s" in line) for lines in hovers]
    assert rates[0].startswith("0.000419 GB/s") and rates[1].startswith("1.05 GB/s")
