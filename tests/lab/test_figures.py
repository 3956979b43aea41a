"""Figures: pictures true to the tile map, ratios claimed only where they may be, sources everywhere."""

from __future__ import annotations

import io
import json

import blockskip as bs
import numpy as np
import pandas as pd
import pytest
from IPython.core.formatters import DisplayFormatter
from PIL import Image
from skiplab import figures
from skiplab.figures import attention, charts, interactive, legends, menu, predicted, static, theme, tiles
from skiplab.machine import known_gpus
from skiplab.store import COLUMNS
from skiplab.workload import Workload

MASKS = [
    bs.causal(),
    bs.sliding_window(100),
    bs.sliding_window(64) | (bs.sink(4) & bs.causal()),
    bs.document([100, 300, 112]) & bs.causal(),
    bs.dilated(7),
    bs.band(None, None),
]


def row(contender: str, median_ms: float, q_len: int = 512, window: float = 256, **fields) -> dict:
    return {
        "run_id": "r", "source": "measured", "device": "a CPU", "contender": contender, "label": contender,
        "operation": "attention", "q_len": q_len, "kv_len": q_len, "window": window,
        "mask": f"sliding_window({window})",
        "batch": 1, "q_heads": 8, "kv_heads": 8, "head_dim": 128, "dtype": "bfloat16", "status": "ok",
        "median_ms": median_ms, "low_ms": median_ms * 0.9, "high_ms": median_ms * 1.1, "error": 1e-3, "tolerance": 1e-2,
        "useful_tflops": 1 / median_ms, "executed_tflops": 1 / median_ms, "dense_flops": 4e9, "useful_flops": 1e9,
        "executed_flops": 2e9, "bytes": 1e6, "bound_ms": median_ms / 3, "tokens_per_s": q_len / median_ms * 1e3,
        "flags": "", "error_text": "", **fields,
    }  # fmt: skip


def table(*rows: dict) -> pd.DataFrame:
    return pd.DataFrame.from_records(rows).reindex(columns=list(COLUMNS))


@pytest.fixture
def measured() -> pd.DataFrame:
    """Two contenders at two prompt lengths; block-skip is 2 and 4 times as fast."""
    return table(row("sdpa", 8.0), row("blockskip", 4.0), row("sdpa", 32.0, 1024), row("blockskip", 8.0, 1024))


@pytest.mark.parametrize("mask", MASKS, ids=repr)
@pytest.mark.parametrize("size", [(7, 5), (32, 32), (1000, 1000)])
def test_coverage_is_the_area_of_the_tiles(mask, size):
    tilemap = bs.TileMap.build(mask, 500, 512, 16, 8)
    shares = tiles.coverage(tilemap, *size)
    area = tilemap.rows * tilemap.cols / (shares.shape[1] * shares.shape[2])
    assert shares[0].sum() * area == pytest.approx(tilemap.partial)
    assert shares[1].sum() * area == pytest.approx(tilemap.full)
    if size == (1000, 1000):  # no smaller than the map: a pixel is a tile
        state = np.asarray(tilemap.state)
        np.testing.assert_allclose(shares, [state == 1, state == 2], atol=1e-9)


def test_coverage_equals_the_mean_of_the_tiles_under_each_pixel():
    tilemap = bs.TileMap.build(bs.sliding_window(300) | bs.sink(20), 1024, 2048, 16, 16)  # 64 x 128 tiles
    state = np.asarray(tilemap.state)
    expected = [(state == index).reshape(16, 4, 32, 4).mean(axis=(1, 3)) for index in (1, 2)]
    np.testing.assert_allclose(tiles.coverage(tilemap, 32, 16), expected, atol=1e-9)


def test_a_thin_band_stays_visible():
    tilemap = bs.TileMap.build(bs.sliding_window(16), 1 << 17, 1 << 17, 16, 16)
    assert tiles.pixels(tilemap, 256)[..., 3].diagonal().min() >= 255 * tiles.FAINTEST - 1


def test_colours_stay_apart_in_grey():
    light = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in (tiles._rgb(theme.FULL), tiles._rgb(theme.PARTIAL))]
    assert light[1] - light[0] > 60
    assert 238 - light[1] > 60  # empty tiles on a light page


def test_words_say_the_counts():
    tilemap = bs.TileMap.build(bs.sliding_window(500), 4096, 4096, 64, 64)
    text = tiles.summary(tilemap)
    assert text.startswith(f"{tilemap.visited:,} of 4,096 tiles visited, ")
    assert f"{100 * (1 - tilemap.visited / 4096):.0f} % skipped" in text


@pytest.mark.parametrize("mask", MASKS, ids=repr)
def test_describe_agrees_with_the_state_and_the_elements(mask):
    tilemap = bs.TileMap.build(mask, 500, 512, 64, 48)
    state = np.asarray(tilemap.state)
    for r in range(tilemap.rows):
        for c in range(tilemap.cols):
            assert tiles.state_at(tilemap, r, c) == state[r, c]
            kept = tilemap.tile(r, c)
            assert f"{int(kept.sum()):,} of {kept.size:,} pairs kept" in tiles.describe(tilemap, r, c)
    block = state[1:5, 2:9]
    assert tiles.counts(tilemap, 1, 2, 5, 9) == ((block == 1).sum(), (block == 2).sum())
    r, c = tiles.first_of_interest(tilemap, 1, 2, 5, 9)
    assert state[r, c] == (1 if (block == 1).any() else block.max())


def test_tile_map_pictures_are_pngs_and_quick():
    tilemap = bs.TileMap.build(bs.sliding_window(1024), 1 << 17, 1 << 17, 64, 64)
    assert Image.open(io.BytesIO(tiles.png(tilemap))).size == (512, 512)
    figure = figures.tilemap(tilemap)
    assert "tiles visited" in figure.layout.title.text
    assert len(figure.to_json()) < 100_000
    bundle = figure._repr_mimebundle_()
    assert bundle["image/jpeg"].startswith(b"\xff\xd8") and "tiles visited" in bundle["text/plain"]


def test_speedup_is_base_over_contender_with_its_range(measured):
    ratios = figures.speedups(measured)
    assert ratios["speedup"].tolist() == [2.0, 4.0]
    assert ratios["speedup_low"].iloc[0] == pytest.approx(8 * 0.9 / (4 * 1.1))


@pytest.mark.parametrize(
    "change", [{"status": "wrong", "median_ms": np.nan}, {"device": "another"}, {"kv_len": 600}, {"dtype": "float32"}]
)
def test_no_speedup_without_a_checked_partner_at_the_same_point(change):
    assert not len(figures.speedups(table(row("sdpa", 8.0), row("blockskip", 4.0) | change)))


def test_failures_are_counted_in_the_figure_not_dropped(measured):
    failed = pd.concat([measured, table(row("flex", np.nan, status="crashed"))])
    assert "not shown: 1 crashed" in attention.throughput(failed).note


@pytest.mark.parametrize(
    "draw", [figures.throughput, figures.speedup, figures.heatmap, figures.flops, figures.measured_vs_predicted]
)
def test_every_figure_says_where_its_numbers_are_from(measured, draw):
    figure = draw(measured)
    words = " ".join(note.text for note in figure.layout.annotations)
    assert "measured on a CPU" in words or "counted" in words
    assert figure.layout.xaxis.title.text and figure.layout.yaxis.title.text
    bundle = figure._repr_mimebundle_()
    assert bundle["image/jpeg"].startswith(b"\xff\xd8")
    assert "\n" not in bundle["text/plain"]


@pytest.mark.parametrize(
    "draw",
    [attention.throughput, attention.speedup, attention.heatmap, attention.flops, predicted.measured_vs_predicted],
)
def test_an_empty_table_gives_a_figure_that_says_so(measured, draw):
    chart = draw(measured.iloc[:0])
    assert chart.note
    assert interactive.draw(chart).layout.annotations
    assert static.png(chart).startswith(b"\x89PNG")


def test_time_is_in_seconds_with_the_roofs_floor_under_it(measured):
    chart = attention.attention_time(measured)
    lines = {line.name: line for line in chart.lines}
    assert lines["blockskip"].x == (512, 1024) and lines["blockskip"].y == pytest.approx((4e-3, 8e-3))
    assert lines["sdpa"].low == pytest.approx((7.2e-3, 28.8e-3))
    assert lines["least time that the roofs allow"].y == pytest.approx((8e-3 / 3, 32e-3 / 3))
    assert chart.y_is_time and chart.sources == "measured on a CPU"


def test_floors_are_multiples_of_the_least_time(measured):
    ours = measured[measured["contender"] == "blockskip"]
    floors = ours.assign(tiles_ms=ours["bound_ms"] * 1.5, busiest_ms=ours["bound_ms"] * 2, programs=64)
    chart = attention.floors(floors)
    np.testing.assert_allclose([line.y for line in chart.lines], [(1, 1), (1.5, 1.5), (2, 2), (3, 3)])
    assert [line.name for line in chart.lines][-1] == "the time itself"
    assert "measured on a CPU" in chart.sources and "computed" in chart.sources
    assert attention.floors(floors.iloc[:0]).note


def test_settings_are_a_device_heads_and_mask_each_in_the_tables_order(measured):
    causal = measured.assign(window=np.nan, mask="causal()")
    small = measured.assign(head_dim=64)
    other = measured.assign(device="a GPU", source="recorded")
    once = measured[measured["q_len"] == 512].assign(window=1024.0)
    found = attention.settings(pd.concat([other, causal, measured, small, once]))
    assert list(found) == [
        "8/8 heads of 128, bfloat16, window 256 (recorded: a GPU)",
        "8/8 heads of 64, bfloat16, window 256 (measured: a CPU)",
        "8/8 heads of 128, bfloat16, window 256 (measured: a CPU)",
        "8/8 heads of 128, bfloat16, causal (measured: a CPU)",
    ]
    assert all(len(rows) == 4 for rows in found.values())


def test_prompts_that_come_together_are_a_setting_and_a_line_of_their_own(measured):
    """Batches of 4 and 16 once fell into one line, which went up and down at each length."""
    together = pd.concat([measured.assign(batch=count) for count in (1, 4, 16)], ignore_index=True)
    words = ("", ", batch 4", ", batch 16")
    assert list(attention.settings(together)) == [
        f"8/8 heads of 128, bfloat16{batch}, window 256 (measured: a CPU)" for batch in words
    ]
    lines = attention.speedup(together).lines
    assert [line.name for line in lines] == [f"blockskip, window 256, 8/8 heads of 128, bfloat16{b}" for b in words]
    assert all(line.x == (512, 1024) for line in lines)
    assert "batch 16" in lines[-1].hover[0].rest


def test_a_recorded_point_has_a_dot_that_is_seen_beside_a_measured_one(measured):
    """Without a line's width plotly draws no dot in a full marker, and both looked alike where no dash tells them."""
    both = pd.concat([measured, measured.assign(device="a GPU", source="recorded")])
    here, there = (
        trace for trace in interactive.draw(predicted.measured_vs_predicted(both)).data if "blockskip" in trace.name
    )
    assert (here.marker.symbol, there.marker.symbol) == ("circle", "circle-dot")
    assert there.marker.line.width == 1 and there.marker.line.color == "white" and here.marker.line.width is None


def test_a_menu_shows_one_chart_at_a_time_with_its_own_title_and_sources(measured):
    other = measured.assign(device="a GPU", source="recorded")
    figure = menu.choose({"here": attention.attention_time(measured), "there": attention.attention_time(other)})
    assert [trace.visible for trace in figure.data] == [True] * 3 + [False] * 3
    here, there = figure.layout.updatemenus[0].buttons
    assert (here.label, there.label) == ("here", "there")
    visible, layout = there.args
    assert visible["visible"] == [False] * 3 + [True] * 3
    assert layout["annotations"][0]["text"] == "recorded on a GPU"
    bundle = figure._repr_mimebundle_()
    assert bundle["image/jpeg"].startswith(b"\xff\xd8") and "one of 2 settings" in bundle["text/plain"]
    json.dumps(bundle["application/vnd.plotly.v1+json"], allow_nan=False, default=list)
    with pytest.raises(ValueError, match="charts: got none"):
        menu.choose({})


def test_a_menu_shows_the_chart_with_most_points_first(measured):
    few, many = (attention.attention_time(rows) for rows in (measured[measured["q_len"] == 512], measured))
    figure = menu.choose({"few": few, "many": many})
    assert [trace.visible for trace in figure.data] == [False] * 3 + [True] * 3
    assert figure.layout.updatemenus[0].active == 1
    assert "many, one of 2 settings" in figure._repr_mimebundle_()["text/plain"]
    assert menu.choose({"few": few, "many": many}, first="ew").layout.updatemenus[0].active == 0
    assert menu.choose({"few": few, "many": many}, first="none such").layout.updatemenus[0].active == 1


def test_a_saved_figure_holds_neither_html_nor_png(measured):
    """Exports would show HTML, which is blank offline; JupyterLab a PNG until the pointer touches it."""
    data, _ = DisplayFormatter().format(figures.speedup(measured))
    assert set(data) == {"application/vnd.plotly.v1+json", "image/jpeg", "text/plain"}


def test_small_print_makes_room_for_itself(measured):
    short, long = (figures.throughput(measured.assign(device=device)) for device in ("a CPU", "a CPU " * 40))
    lines = long.layout.annotations[0].text.count("<br>")
    assert lines >= 2
    assert long.layout.margin.b - short.layout.margin.b == long.layout.height - short.layout.height
    assert long.layout.margin.b - short.layout.margin.b >= 14 * lines  # 11 px letters


def test_menus_of_an_empty_table_say_so(measured):
    for draw in (figures.attention_times, figures.floors):
        empty = measured.iloc[:0].assign(sms=[], tiles=[], product_tflops=[])
        assert len(draw(empty).layout.updatemenus[0].buttons) == 1


def test_a_base_is_called_by_its_label(measured):
    flex = measured.replace({"contender": "sdpa"}, "flex").replace({"label": "sdpa"}, "FlexAttention")
    assert attention.speedup(flex, "flex").title == "Speed-up over FlexAttention by prompt length"
    assert attention.heatmap(measured).title == "Speed-up of blockskip over dense + mask"


def test_lines_of_several_shapes_say_which(measured):
    other = measured.assign(head_dim=64)
    names = {line.name for line in attention.throughput(pd.concat([measured, other])).lines}
    assert "blockskip, window 256, 8/8 heads of 64, bfloat16" in names and len(names) == 4
    lines = attention.speedup(pd.concat([measured, other])).lines
    assert len({line.style.colour for line in lines}) == len(lines) == 2


def test_heatmap_holds_the_ratios(measured):
    chart = attention.heatmap(measured)
    assert (chart.x, chart.y, chart.z) == (("512", "1k"), ("256",), ((2.0, 4.0),))
    assert "blank" not in charts.foot(chart)
    more = table(row("sdpa", 9.0, window=512), row("blockskip", 3.0, window=512))
    assert "blank: not measured" in charts.foot(attention.heatmap(pd.concat([measured, more])))


def test_figures_are_valid_json_where_points_are_missing(measured):
    more = table(row("sdpa", 9.0, window=512), row("blockskip", 3.0, window=512))
    holes = pd.concat([measured, more, figures.published_prefill()])
    for draw in (figures.heatmap, figures.speedup, figures.throughput):
        live = draw(holes)._repr_mimebundle_()["application/vnd.plotly.v1+json"]
        json.dumps(live, allow_nan=False, default=list)


def test_wrong_axis_is_refused(measured):
    with pytest.raises(ValueError, match="x: got 'head_dim'; allowed are q_len, window"):
        figures.speedup(measured, x="head_dim")
    with pytest.raises(ValueError, match="y: got"):
        figures.throughput(measured, y="latency")


def test_predictions_are_labelled_and_follow_the_work():
    machine = known_gpus()["NVIDIA H200"]
    workload = Workload(4096, mask=bs.sliding_window(512))
    predicted = figures.predictions([workload], machine)
    assert set(predicted["source"]) == {"predicted"} and set(predicted["device"]) == {"NVIDIA H200"}
    ratio = figures.speedups(predicted)["speedup"].item()
    tilemap = workload.tilemap()
    assert ratio == pytest.approx(tilemap.rows * tilemap.cols / tilemap.visited, rel=0.1)  # both are compute-bound
    assert attention.speedup(predicted).sources == "predicted for NVIDIA H200"
    assert all(line.dash == theme.SOURCE_DASH["predicted"] for line in attention.speedup(predicted).lines)


def test_a_legend_shows_the_dashes_that_tell_its_lines_apart(measured):
    workloads = [Workload(4096, mask=bs.sliding_window(window)) for window in (256, 512)]
    dashed = figures.speedup(figures.predictions(workloads, known_gpus()["NVIDIA H200"]))
    assert dashed.layout.legend.itemwidth >= 48 and figures.speedup(measured).layout.legend.itemwidth < 40


@pytest.mark.parametrize(
    ("names", "rows", "looks"),
    [
        (["a", "b"], 1, {"orientation": "h", "entrywidth": None}),
        (["twenty letters of it"] * 4, 2, {"orientation": "h", "entrywidth": pytest.approx(0.495)}),
        (["blockskip, window 1k, predicted: NVIDIA A100 80GB SXM"] * 3, 3, {"orientation": "v", "entrywidth": None}),
        (["short"] * 9, 0, {"orientation": "v", "x": 1.01}),
    ],
)
def test_a_legend_has_the_rows_that_a_figure_keeps_free_for_it(names, rows, looks):
    figure = interactive.Figure(layout=interactive.layout("a title", ""))
    before = figure.layout.margin.t, figure.layout.height
    legends.place(figure, names)
    more = legends.ROW * rows + legends.UNDER * bool(rows)
    assert figure.layout.margin.t - before[0] == more <= figure.layout.height - before[1]
    assert {name: figure.layout.legend[name] for name in looks} == looks
    legends.beside(figure, 240)
    assert (figure.layout.margin.t, figure.layout.margin.r) == (legends.TITLE, 240)
    assert figure.layout.legend.orientation == "v" and figure.layout.legend.entrywidth is None


def test_published_table_is_the_authors_and_never_mixes_with_one_layer(measured):
    published = figures.published_prefill()
    after = published[(published["contender"] == "blockskip") & (published["q_len"] == 2048)]
    assert after["tokens_per_s"].item() == 2325.5
    assert attention.throughput(published).sources.startswith("published by ExecuTorch PR 20198")
    both = pd.concat([published, measured])
    assert len(figures.speedups(both)) == len(figures.speedups(published)) + len(figures.speedups(measured))


def test_waste_is_the_tile_maps_own():
    maps = [bs.TileMap.build(bs.sliding_window(64), 512, 512, size, size) for size in (16, 64)]
    (line,) = attention.waste(maps).lines
    assert line.y == tuple(tilemap.waste for tilemap in maps)


@pytest.mark.parametrize(("count", "text"), [
    (1, "1"), (512, "512"), (1000, "1,000"), (1024, "1k"), (1536, "1.5k"), (3000, "3,000"), (130048, "127k"),
    (131072, "128k"), (131072 + 1024, "129k"), (131072 + 128, "131,200"), (1 << 20, "1M"), ((1 << 20) + 1024, "1025k"),
    ((1 << 20) + 128, "1,048,704"), (3 << 19, "1.5M"),
])  # fmt: skip
def test_a_number_of_tokens_is_shortened_only_where_that_says_it_exactly(count, text):
    assert theme.tokens(count) == text


def test_of_lengths_too_close_for_two_labels_the_rounder_one_has_it():
    assert static.count_marks([512, 2048, 130048, 131072]) == [512, 2048, 131072]
    assert static.count_marks([512, 2048, 130048]) == [512, 2048, 130048]
    assert static.count_marks([1000, 1024, 1100, 1536, 2048]) == [1024, 1536, 2048]
    assert static.count_marks([0.5, 1, 4.5]) == [0.5, 1, 4.5] and static.count_marks([]) == []


def test_units():
    assert theme.seconds(8.5e-4) == "850 µs"
    assert theme.quantity(1.23e12, "FLOP") == "1.23 TFLOP"
    assert theme.provenance("predicted", "X") == "predicted for X"


def test_a_legend_names_a_device_only_where_its_source_does_not_tell_it():
    here, there, told = ("recorded", "A (in a room)"), ("recorded", "B(R) Processor"), ("published", "P")
    assert theme.source_labels([here, here]) == {here: ""}
    assert theme.source_labels([here, told]) == {here: "recorded", told: "published"}
    assert theme.source_labels([here, there, told]) == {here: "recorded: A", there: "recorded: B", told: "published"}
