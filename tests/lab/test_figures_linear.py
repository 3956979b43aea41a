"""Charts of quantised linear layers: bars where they belong, floors from the roofs, error by bits."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from skiplab import figures
from skiplab.figures import frames, interactive, linear, static, theme
from skiplab.figures.charts import Beginning, PanelChart
from skiplab.machine import known_gpus
from skiplab.packed_weight import Packed, Quality, random_qualities
from skiplab.rated import rated
from skiplab.store import COLUMNS, noted_runs, query, read_runs
from skiplab.workload import LinearWorkload

H200 = known_gpus()["NVIDIA H200"]
GATE, HEAD = (21504, 5376), (262144, 5376)


def row(contender: str, median_ms: float, shape: tuple[int, int] = GATE, rows: int = 1, **fields) -> dict:
    """A product with an int4 weight in groups of 32, on a device of 1,000 GB/s that sets the floor by its bytes."""
    moved = shape[0] * shape[1] * 5 / 8
    return {
        "run_id": "r", "source": "measured", "device": "a GPU", "contender": contender, "label": contender,
        "operation": "linear", "rows": rows, "out_features": shape[0], "in_features": shape[1], "bits": 4,
        "group_size": 32, "bits_per_weight": 5.0, "dtype": "bfloat16", "status": "ok", "method": "graph",
        "median_ms": median_ms, "low_ms": median_ms * 0.9, "high_ms": median_ms * 1.2, "error": 1e-3,
        "tolerance": 1e-2, "bytes": moved, "gbps": moved / median_ms / 1e6, "bound_ms": moved / 1e9,
        "flags": "", "error_text": "", **fields,
    }  # fmt: skip


def table(*rows: dict) -> pd.DataFrame:
    return pd.DataFrame.from_records(rows).reindex(columns=list(COLUMNS))


@pytest.fixture
def measured() -> pd.DataFrame:
    """bf16 was not measured for the head."""
    return table(row("blockskip", 0.1), row("bf16", 0.3), row("blockskip", 1.2, HEAD))


def test_a_group_for_each_layer_a_bar_for_each_contender(measured):
    chart = linear.linear_time(measured)
    assert [group.split()[-1] for group in chart.groups] == ["21504×5376", "262144×5376"]
    ours, bf16 = chart.bars
    np.testing.assert_allclose(ours.values, [1e-4, 1.2e-3])
    np.testing.assert_allclose(bf16.values, [3e-4, np.nan])
    np.testing.assert_allclose(ours.low, np.multiply(ours.values, 0.9))
    np.testing.assert_allclose(ours.limit, [n * k * 5 / 8 / 1e12 for n, k in (GATE, HEAD)])
    assert np.isnan(bf16.limit[1])
    assert "1 row, int4, groups of 32, bfloat16" in chart.x_title and chart.sources == "measured on a GPU"


def test_bars_of_a_group_stand_side_by_side(measured):
    chart = linear.linear_time(measured)
    assert chart.position(0, 0) + chart.width == pytest.approx(chart.position(1, 0))
    assert chart.position(1, 0) + chart.width < chart.position(0, 1)
    figure = interactive.draw(chart)
    assert [trace.x for trace in figure.data[:2]] == [tuple(chart.position(n, g) for g in range(2)) for n in range(2)]


def test_bandwidth_is_the_roof_where_the_time_is_the_floor():
    floor = row("blockskip", 1.0)["bound_ms"]
    (bars,) = linear.linear_bandwidth(table(row("blockskip", 2 * floor))).bars
    assert bars.values == pytest.approx((0.5e12,)) and bars.limit == pytest.approx((1e12,))
    assert bars.low[0] == pytest.approx(0.5e12 / 1.2) and bars.high[0] == pytest.approx(0.5e12 / 0.9)


def test_bars_of_one_colour_differ_in_what_fills_them():
    names = ("humming", "humming-int8", "blockskip", "blockskip-tiles")
    chart = linear.linear_bandwidth(table(*(row(name, 0.1) for name in names)))
    assert [bars.hatch for bars in chart.bars] == ["", "x", "", "x"]
    assert len({(bars.colour, bars.hatch) for bars in chart.bars}) == len(names)


def test_a_weight_without_zero_points_is_a_setting_and_its_layers_names_do_not_overlap():
    layers = [(5376 + 64 * n, 21504) for n in range(8)]
    both = table(*(row("blockskip", 0.1, layer, symmetric=on) for layer in layers for on in (0, 1)))
    settings = linear.one_row(both)
    assert [name.split(" (")[0] for name in settings] == [
        "int4, groups of 32, bfloat16",
        "int4, groups of 32, symmetric, bfloat16",
    ]
    names = [
        name
        for one in settings.values()
        for name in interactive.draw(linear.linear_bandwidth(one)).layout.xaxis.ticktext
    ]
    assert max(len(line) for name in names for line in name.split("<br>")) <= 8
    assert names[0] == "down<br>5376×<br>21504"


def test_settings_that_differ_name_the_groups():
    chart = linear.linear_time(table(row("blockskip", 0.1), row("blockskip", 0.2, rows=8)))
    assert [group.split(", ")[-1] for group in chart.groups] == ["1 row", "8 rows"]
    assert "row" not in chart.x_title


def test_rows_are_lines():
    chart = linear.linear_rows(table(row("blockskip", 0.1), row("blockskip", 0.2, rows=8), row("bf16", 0.3, rows=8)))
    lines = {line.name: line for line in chart.lines}
    assert lines["blockskip"].x == (1, 8) and lines["blockskip"].y == pytest.approx((1e-4, 2e-4))
    assert "least time with the packed weight" in lines


def test_predicted_bars_are_hatched_labelled_and_have_no_floor_of_their_own(measured):
    predicted = frames.predictions([LinearWorkload(*GATE)], H200)
    assert predicted["median_ms"].item() == pytest.approx(predicted["bytes"].item() / (H200.bandwidth_gbps * 1e9) * 1e3)
    chart = linear.linear_time(pd.concat([measured, predicted]))
    bars = next(bars for bars in chart.bars if bars.name.endswith(", predicted"))
    assert bars.hatch == theme.HATCHES["predicted"] and np.isnan(bars.limit).all()
    assert "predicted for NVIDIA H200" in chart.sources and len({bars.name for bars in chart.bars}) == 3


def test_a_published_time_of_an_untold_layer_stands_in_a_group_of_its_own(measured):
    untold = dict.fromkeys(("out_features", "in_features", "rows", "bits", "group_size", "bound_ms", "gbps"), np.nan)
    published = table(row("theirs", 0.035, source="published", device="somebody", **untold))
    chart = linear.linear_time(pd.concat([measured, published]))
    assert chart.groups[-1] == "layer not told" and chart.bars[-1].hatch == theme.HATCHES["published"]
    assert chart.bars[-1].values[-1] == pytest.approx(3.5e-5) and "1 row, int4" in chart.x_title


def test_error_climbs_with_bits_and_the_guide_by_six_decibels():
    chart = linear.bits_error(random_qualities(), "normal random weights")
    for line in chart.lines:
        assert list(line.x) == sorted(line.x)
    guide = chart.lines[-1]
    assert (guide.y[1] - guide.y[0]) / (guide.x[1] - guide.x[0]) == pytest.approx(6.0206, abs=1e-3)
    assert chart.sources == "calculated from normal random weights, quantised here"
    one = linear.bits_error([Quality(Packed(8, 256, 4, 32, False, "bfloat16"), 20.0)])
    assert one.lines[0].x == (5.0,) and one.lines[0].y == (20.0,)
    assert linear.bits_error([]).note == "no format"


@pytest.mark.parametrize(
    "draw", [linear.linear_time, linear.linear_bandwidth, linear.linear_rows], ids=lambda draw: draw.__name__
)
def test_every_chart_is_drawn_by_both_and_says_when_it_is_empty(measured, draw):
    for chart in (draw(measured), draw(measured.iloc[:0])):
        assert interactive.draw(chart).layout.annotations
        assert static.png(chart).startswith(b"\x89PNG")
    assert draw(measured.iloc[:0]).note


LAYERS = {"one": (64, 32), "two": (128, 32)}


def layer(contender: str, median_ms: float, rows: int, shape: tuple[int, int] = (64, 32), **fields) -> dict:
    """A row with the kernel that the plan names, as `rated` adds it."""
    kernel = {1: "matvec", 8: "matvec", 16: "fused", 64: "fused"}.get(rows) if contender == "blockskip" else None
    return {**row(contender, median_ms, shape, rows, symmetric=0.0), "kernel": kernel, **fields}


def by_layers(*rows: dict) -> PanelChart:
    made = pd.DataFrame.from_records(list(rows)).reindex(columns=[*COLUMNS, "kernel"])
    return linear.linear_layers(made, LAYERS)


def test_a_panel_for_each_layer_with_its_routes():
    chart = by_layers(*(layer("blockskip", 0.1 * n, n, shape) for n in (1, 8, 16, 64) for shape in LAYERS.values()),
                      *(layer("bf16", 0.3, n) for n in (64, 1)), layer("blockskip", 1.0, 1, (99, 32)))  # fmt: skip
    assert [panel.title for panel in chart.panels] == ["one, 64×32", "two, 128×32"]
    first, second = chart.panels
    assert [line.name for line in first.lines] == ["blockskip", "bf16"]
    assert [line.name for line in second.lines] == ["blockskip"]
    assert first.lines[0].x == (1, 8, 16, 64) and first.lines[1].x == (1, 64)
    np.testing.assert_allclose(first.lines[0].y, np.array([1e-4, 8e-4, 1.6e-3, 6.4e-3]) / (64 * 32 * 5 / 8 / 1e12))
    assert first.level == 1 and "1×: the least time" in chart.note
    assert first.beginnings == (Beginning(1.0, "matvec"), Beginning(16.0, "fused"))
    assert "our own choice" in chart.note and chart.sources == "measured on a GPU"


def test_a_point_counts_once_and_names_tell_the_bits_apart():
    without = {"symmetric": 1.0, "bits_per_weight": 4.5}
    chart = by_layers(layer("blockskip", 0.1, 1), layer("blockskip", 0.5, 1, **without),
                      layer("humming", 0.2, 1, **without), layer("bf16", 0.3, 1))  # fmt: skip
    (panel,) = chart.panels
    times = {"blockskip, 5 bits": 1e-4, "humming, 4.5 bits": 2e-4, "bf16": 3e-4}
    least = 64 * 32 * 5 / 8 / 1e12  # of our weight, which all are held against
    assert {line.name: line.y[0] * least for line in panel.lines} == pytest.approx(times)


def test_one_device_and_whole_products_alone():
    chart = by_layers(layer("blockskip", 0.1, 1), layer("blockskip", 0.2, 8), layer("blockskip-strided", 0.1, 1),
                      layer("blockskip-tiles", 0.1, 1), layer("blockskip", 0.1, 1, device="another"),
                      layer("bf16", 0.1, 1, group_size=128), layer("bf16", 0.1, 1, bits=8))  # fmt: skip
    assert [line.name for line in chart.lines][:2] == ["blockskip", "blockskip-tiles"]
    assert chart.sources == "measured on a GPU"


def test_panels_are_drawn_by_both_with_one_legend():
    chart = by_layers(*(layer("blockskip", 0.1 * n, n, shape) for n in (1, 16) for shape in LAYERS.values()),
                      layer("bf16", 0.3, 1, LAYERS["two"]))  # fmt: skip
    assert [line.name for line in chart.lines] == ["blockskip", "bf16"]
    figure = interactive.draw(chart)
    assert [trace.name for trace in figure.data if trace.showlegend] == ["blockskip", "bf16"]
    assert {(trace.xaxis, trace.yaxis) for trace in figure.data} == {("x", "y"), ("x2", "y2")}
    begin = [shape.x0 for shape in figure.layout.shapes if shape.x0 == shape.x1]
    levels = [(shape.xref, shape.yref, shape.y0) for shape in figure.layout.shapes if shape.x0 != shape.x1]
    assert sorted(begin) == [1.0, 1.0, 16.0, 16.0] and levels == [("x domain", "y", 1.0), ("x2 domain", "y2", 1.0)]
    assert figure.layout.xaxis2.type == "log" == figure.layout.yaxis2.type
    drawn = static.draw(chart)
    titles = [axes.get_title(loc="left") for axes in drawn.axes]
    assert titles == ["one, 64×32", "two, 128×32"] and len(drawn.legends) == 1
    assert [text.get_text() for text in drawn.axes[0].texts] == ["matvec", "fused"]
    assert static.text(chart).startswith(
        "int4 linear layers: time over the least by rows, groups of 32: 2 lines in 2 panels, 5 points"
    )
    assert linear.linear_layers(table(), LAYERS).note == "no point to show yet"
    assert interactive.draw(linear.linear_layers(table(), LAYERS)).layout.annotations
    assert static.png(linear.linear_layers(table(), LAYERS)).startswith(b"\x89PNG")


def test_the_recorded_figure_has_gemmas_layers_with_peers_beside():
    recorded = rated(read_runs(), ("*-nvidia-h200-*",))
    chart = linear.linear_layers(query(recorded, operation="linear", symmetric=0))
    panels = {panel.title.split(",")[0]: panel for panel in chart.panels}
    assert set(panels) >= {"qkv", "o", "gate+up", "down"}
    for panel in (panels[name] for name in ("qkv", "o", "gate+up", "down")):
        names = " ".join(line.name for line in panel.lines)
        assert "Humming W4A16" in names and "Humming W4A8" in names and "float weight" in names
        for line in panel.lines:  # Humming's int8 form was recorded up to 16 rows
            assert set(line.x) >= ({1, 8, 16} if "W4A8" in line.name else {1, 8, 16, 128})
        assert {one.name for one in panel.beginnings} >= {"fused"}
        for line in panel.lines:  # nobody beats the floor, but a weight of fewer bits where only bytes count
            assert all(y > 4.5 / 5 for y in line.y)


def test_noted_medians_are_those_of_their_files():
    points = rated(noted_runs())
    humming = query(points, contender="humming", group_size=32, out_features=43008, rows=16)
    assert humming["median_ms"].item() == pytest.approx(0.04542) and humming["symmetric"].item() == 1
    rows = query(points, contender="blockskip", out_features=5376, in_features=21504).set_index("rows")
    assert rows.loc[2048, "median_ms"] == pytest.approx(2.135)
    assert rows["kernel"].tolist() == 4 * ["matvec"] + 5 * ["fused"] + 2 * ["dequantize"]
    tiles = query(points, contender="blockskip-tiles", out_features=16384, rows=8, symmetric=1)
    assert tiles["median_ms"].item() == pytest.approx(0.01649)


def test_overview_is_the_chart_of_the_operation(measured):
    assert figures.overview(measured).layout.title.text == linear.linear_time(measured).title


def test_a_slow_rate_is_no_zero_in_the_hover_text():
    lines = linear._hover(row("blockskip", 500.0)).lines
    assert "0.145 GB/s of compulsory bytes" in lines
