"""One name and one colour for each contender: in the lab's tables, in run files old and new, in figures."""

from __future__ import annotations

from itertools import combinations

import pandas as pd
import pytest
from skiplab.contenders import contenders
from skiplab.figures import ladder, theme
from skiplab.ladder import CALLS
from skiplab.ladder import ladder as ladder_of
from skiplab.operations import OPERATIONS
from skiplab.rated import rated
from skiplab.results import LADDER_RUNS, pages
from skiplab.store import frame, frames, noted_runs, published, read_runs, recorded_llama_bench


def is_ours(name: str) -> bool:
    return name.startswith(("blockskip", "ladder-"))


@pytest.fixture(scope="module")
def everything() -> pd.DataFrame:
    """The rows of all that is shipped."""
    parts = [*(run.frame() for run in read_runs()), *(run.frame() for run in noted_runs()), published(),
             frame(recorded_llama_bench())]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_contender_has_a_look_of_its_own_and_ours_its_name(operation):
    entries = contenders(operation)
    looks = {name: theme.STYLES[name] for name, entry in entries.items() if entry.is_own}
    alike = [pair for pair in combinations(looks, 2) if looks[pair[0]] == looks[pair[1]]]
    assert not alike
    for name, look in looks.items():
        assert is_ours(name) or look.colour not in theme.OURS, name
        assert not name.startswith("blockskip") or entries[name].label.startswith("blockskip"), name
    assert theme.STYLES["blockskip"].colour == theme.BLUE


def test_rows_of_every_file_call_a_contender_by_its_name(everything):
    for row in everything[["operation", "contender", "label"]].drop_duplicates().itertuples(index=False):
        known = contenders(row.operation).get(row.contender) if row.operation in OPERATIONS else None
        if known is not None:
            assert row.label.startswith(known.label), row
        assert "executorch" not in row.label and not row.label.startswith("sdpa"), row


def test_a_label_says_what_a_contender_is_called_today_and_what_it_says_more():
    assert frames.label_of("decode", "blockskip-prefill", "standard kernel") == "blockskip, no splits"
    assert frames.label_of("linear", "blockskip", "blockskip, rows") == "blockskip, rows"
    assert frames.label_of("linear", "mine", "my own") == "my own"
    assert frames.label_of("linear", "mine", None) == "mine"


def test_pictures_have_a_colour_for_each_contender_that_is_blue_for_ours_alone():
    drawn = pages.charts(read_runs())
    for name in ("speedup", "decode", "model", "linear"):
        colours: dict[str, set[str]] = {}
        for line in drawn[name].lines:
            family = line.name.partition(",")[0].partition(" W")[0]  # a peer's variants share its colour
            if line.style.colour != theme.GREY:
                colours.setdefault(family, set()).add(line.style.colour)
        assert colours["blockskip"] == {theme.BLUE}, name
        assert all(len(own) == 1 for own in colours.values())
        assert len(set.union(*colours.values())) == len(colours), (name, colours)


def test_what_we_timed_is_blue_on_the_ladder():
    recorded = rated(read_runs(), LADDER_RUNS)
    chart = ladder.rungs(ladder_of(recorded), CALLS[0])
    colours = {bars.name.partition(":")[0]: bars.colour for bars in chart.bars}
    assert colours["recorded"] == theme.BLUE and colours["published"] == theme.style("executorch").colour
    assert not {colours["published"], colours["predicted"]} & set(theme.OURS)
