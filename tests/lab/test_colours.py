"""Colours stand out on light and dark pages, and no two contenders look alike to anybody."""

from __future__ import annotations

from itertools import combinations

import pytest
from skiplab.contenders import contenders
from skiplab.figures import charts, linear, model, series, theme, vision
from skiplab.operations import OPERATIONS
from skiplab.store import noted_runs, published, read_runs

LINES = {
    **{name: look.colour for name, look in theme.STYLES.items()},
    **{f"other {number}": look.colour for number, look in enumerate(theme.OTHERS)},
    **{f"of {kind} {number}": colour
       for kind, colours in (("ours", theme.OURS), ("predictions", theme.PREDICTED), ("variants", theme.VARIANTS))
       for number, colour in enumerate(colours)},
    "roofs": theme.GREY,
}  # fmt: skip
"""The colour of everything that is drawn as a line, a marker or a bar."""


def drawn(operation: str) -> list[str]:
    """The contenders of an operation that figures have a look for: the lab's, and those of what is shipped."""
    rows = [run.frame() for run in (*read_runs(), *noted_runs())] + [published()]
    shipped = {name for table in rows for name in table.loc[table["operation"] == operation, "contender"]}
    return sorted({*contenders(operation), *shipped} & set(theme.STYLES))


@pytest.mark.parametrize("page", vision.PAGES)
def test_every_line_and_marker_stands_out_on_every_page(page):
    low = {name: vision.contrast(colour, page) for name, colour in LINES.items()}
    assert {name: ratio for name, ratio in low.items() if ratio < vision.MARK_CONTRAST} == {}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_contenders_of_one_marker_have_colours_that_everybody_tells_apart(operation):
    looks = {name: theme.STYLES[name] for name in drawn(operation)}
    alike = [
        (first, second)
        for first, second in combinations(looks, 2)
        if looks[first].marker == looks[second].marker and vision.alike(looks[first].colour, looks[second].colour)
    ]
    assert alike == []


@pytest.mark.parametrize(("first", "second", "ratio"), [
    ("#FFFFFF", "#000000", 21), ("#777777", "#777777", 1), ("#767676", "#FFFFFF", 4.54),
])  # fmt: skip
def test_contrast_is_that_of_the_published_examples(first, second, ratio):
    assert vision.contrast(first, second) == vision.contrast(second, first) == pytest.approx(ratio, abs=0.005)


def test_red_and_green_of_one_lightness_are_alike_to_some_and_black_and_white_to_nobody():
    assert vision.alike("#B05A00", "#7A7300") and not vision.alike("#000000", "#FFFFFF")
    assert vision.apart("#000000", "#FFFFFF", vision.SEEN["all cones"]) == pytest.approx(1, abs=1e-3)
    grey = [vision.apart("#808080", "#FFFFFF", seen) for seen in vision.SEEN.values()]
    assert grey == pytest.approx([grey[0]] * len(grey), abs=1e-3)  # who lacks cones sees greys as others do


def test_bars_and_markers_of_like_colours_are_filled_differently():
    assert theme.hatch("measured", theme.AMBER, [(theme.BLUE, "")]) == ""
    before = [(theme.VERMILLION, ""), (theme.OLIVE, "x"), (theme.BLUE, "-")]
    assert theme.hatch("measured", theme.AMBER, before) == "-"
    assert theme.hatch("predicted", theme.AMBER, before) == theme.HATCHES["predicted"]
    assert series._fills(["sdpa", "blockskip", "flex"]) == {"sdpa": "", "blockskip": "", "flex": "-open"}


def test_no_two_bars_of_a_group_that_is_shipped_look_alike():
    tables = [run.frame() for run in read_runs() if run.header["operation"] in ("linear", "model")]
    tables = [rows for rows in tables if set(rows["contender"]) <= set(theme.STYLES)]  # not a tuning's hundreds
    made = [linear.linear_bandwidth(rows) for rows in tables if rows["operation"].iloc[0] == "linear"]
    made += [model.parts(rows) for table in tables for rows in model.settings(table).values()]
    assert len(made) > 10
    assert [alike_bars(chart) for chart in made] == [[]] * len(made)


def alike_bars(chart: charts.BarChart) -> list[tuple[str, str]]:
    """Names of the bars that are told apart by nothing."""
    return [
        (first.name, second.name)
        for first, second in combinations(chart.bars, 2)
        if first.hatch == second.hatch and vision.alike(first.colour, second.colour)
    ]
