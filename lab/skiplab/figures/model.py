"""Charts of whole models: tokens a second of prompts and of steps, and where a call's time goes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd

from skiplab.figures import series, theme
from skiplab.figures.charts import BarChart, Bars, Hover, LineChart, PanelChart
from skiplab.figures.series import RowDict
from skiplab.text import percent

PARTS = ("attention sliding", "attention full", "qkv", "o", "gate+up", "down", "head", "pointwise", "gaps")
"""The names of a profile, in the order in which a layer has them; what runs outside of all; when nothing runs."""
PHASES = {"prefill": "prompt", "decode": "step"}
STEPS_X = "tokens read before (0 stands at 1)"
BY_KIND = "one layer of each kind was timed, times its count"
ROOFS = "rate at the roofs, packed weights"
ROOF_SETTINGS = ("bits", "group_size", "dtype")
SETTINGS = (*ROOF_SETTINGS, "by_kind")
CALL = ["source", "device", "contender", "model", "q_len", "depth", *ROOF_SETTINGS]


def prefill(table: pd.DataFrame) -> LineChart:
    """Prompt tokens a second over the prompt's length, a line for each contender and source; at the roofs in grey."""
    return _rates(
        _good(table, "prefill"), table, "A whole model: prompt tokens/s by prompt length", "q_len",
        "prompt length (tokens)", "prompt tokens/s",
    )  # fmt: skip


def decode(table: pd.DataFrame) -> LineChart | PanelChart:
    """Tokens a second of steps over the tokens before them, a line for each contender and source.

    A step of several tokens verifies drafts: its rate is reached where all are accepted. Where there are steps of
    different numbers of tokens, each number has a panel. A depth of 0 stands at 1.
    """
    good = _good(table, "decode")
    good = good.assign(place=good["depth"].clip(lower=1))
    axes = ("place", STEPS_X, "tokens/s of steps")
    title = "A whole model: tokens/s of steps by depth"
    counts = sorted(good["q_len"].unique())
    if len(counts) < 2:
        return _rates(good, table, title, *axes)
    panels = tuple(
        _rates(good[good["q_len"] == n], table, f"{theme.tokens(n)} token{'s' * int(n != 1)} a step", *axes, whole=good)
        for n in counts
    )
    return PanelChart(title, panels, series.sources(good), _note(table, good))


def prompts_and_steps(table: pd.DataFrame) -> PanelChart:
    """Tokens a second of prompts by length, and of steps of one token by depth, beside each other."""
    prompts, steps = _good(table, "prefill"), _good(table, "decode")
    steps = steps[steps["q_len"] == 1]
    steps = steps.assign(place=steps["depth"].clip(lower=1))
    whole = pd.concat([prompts, steps], ignore_index=True)
    panels = (
        _rates(prompts, table, "a prompt", "q_len", "prompt length (tokens)", "prompt tokens/s", whole=whole),
        _rates(steps, table, "a step of one token", "place", STEPS_X, "tokens/s of steps", whole=whole),
    )
    return PanelChart(
        "A whole model: tokens/s of prompts and of steps", panels, series.sources(whole), _note(table, whole)
    )


def parts(table: pd.DataFrame) -> BarChart:
    """Where the time of one call goes: a group of bars for each part, a bar for each contender and source.

    table: of one call, as `settings` has them; of a point that was measured twice the later row counts. What is
    predicted is hatched.
    """
    good = _taken_apart(table)
    rows = series.rows_of(good)
    groups = tuple(name for name in PARTS if any(name in row["parts"] for row in rows))
    name, colours = _namer(good), _bar_colours(rows)
    places = theme.source_labels((row["source"], row["device"]) for row in rows)
    bars: list[Bars] = []
    for row, colour in zip(rows, colours, strict=True):
        filling = theme.hatch(row["source"], colour, ((one.colour, one.hatch) for one in bars))
        bars.append(_bars(row, groups, (name(row), places[row["source"], row["device"]]), (colour, filling)))
    what = settings_words(rows[0]) if rows else "a call"
    note = series.note(table, good, "no call has been taken apart by name")
    return BarChart(
        f"Where the time of {what} goes", "part of the model", "time a call", groups, tuple(bars), series.sources(good),
        "; ".join(filter(None, [note, by_kind_note(good)])), "s", False,
    )  # fmt: skip


def settings(table: pd.DataFrame) -> dict[str, Any]:
    """The rows that were taken apart, of each model and call, by the call in words."""
    groups = _taken_apart(table).groupby(["model", "phase", "q_len", "depth"], sort=False)
    firsts = (series.rows_of(rows.iloc[:1])[0] for _, rows in groups)
    return {f"{first['model']}, {settings_words(first)}": rows for first, (_, rows) in zip(firsts, groups, strict=True)}


def fullest(table: pd.DataFrame) -> BarChart:
    """`parts` of the call that most rows are of, the first of several."""
    return parts(max(settings(table).values(), key=len, default=table.iloc[:0]))


def settings_words(row: RowDict) -> str:
    """`a prompt of 512 tokens`, `a step of 4 tokens behind 2k`."""
    count = f"{theme.tokens(row['q_len'])} token{'s' * (row['q_len'] != 1)}"
    words = f"a {PHASES[row['phase']]} of {count}"
    return words if row["phase"] == "prefill" else f"{words} behind {theme.tokens(row['depth'])}"


def _taken_apart(table: pd.DataFrame) -> Any:
    good: Any = table[(table["operation"] == "model") & (table["status"] == "ok")]
    return good.loc[[isinstance(parts, dict) for parts in good["parts"]]]


def _bar_colours(rows: list[RowDict]) -> list[str]:
    """Each contender's own, or colours that differ where it has several bars; predicted ones have their own."""
    names = [row["contender"] for row in rows if row["source"] != "predicted"]
    own = len(set(names)) == len(names)
    seen = iter([theme.style(name).colour for name in names] if own else cycle(theme.VARIANTS))
    predicted = cycle(theme.PREDICTED)
    return [next(predicted if row["source"] == "predicted" else seen) for row in rows]


def _bars(row: RowDict, groups: tuple[str, ...], words: tuple[str, str], look: tuple[str, str]) -> Bars:
    values = tuple(row["parts"].get(name, np.nan) / 1e9 for name in groups)
    whole = sum(row["parts"].values()) / 1e9 or np.nan
    hover = tuple(
        Hover(row["label"], f", {name}",
              (f"{theme.seconds(took)}, {percent(took / whole, 1)} of {theme.seconds(whole)}", *series.doubts(row)))
        for name, took in zip(groups, values, strict=True)
    )  # fmt: skip
    label = ", ".join(filter(None, [row["label"], *words]))
    return Bars(label, values, *look, hover=hover)


def _good(table: pd.DataFrame, phase: str) -> Any:
    """Checked points of that phase that have a rate, with its quartiles and what it would be at the roofs."""
    good: Any = table[(table["operation"] == "model") & (table["status"] == "ok") & table["tokens_per_s"].notna()]
    good = good[good["phase"] == phase]
    # a whole model's rate counts before one that was put together from its kinds of layers
    good = good[
        (good["by_kind"] != 1)
        | ~good.assign(kind=good["by_kind"] != 1).groupby(CALL, dropna=False)["kind"].transform("any")
    ]
    rate, median = good["tokens_per_s"], good["median_ms"]
    return good.assign(
        low=rate * median / good["high_ms"], high=rate * median / good["low_ms"], roof=rate * median / good["bound_ms"]
    )


def _rates(
    good: Any, table: pd.DataFrame, title: str, x: str, x_title: str, y_title: str, whole: Any = None
) -> LineChart:
    """Lines of the good rows, which are all that a figure shows, or those of a panel of the `whole`."""
    whole = good if whole is None else whole
    name = _namer(whole)
    shown = series.lines(good, x, "tokens_per_s", "low", "high", name, _hover, whole=whole)
    # a machine whose roofs are a line of predictions has no grey one beside it
    predicted = whole.loc[whole["source"] == "predicted", "device"]
    roofs = series.limits(good[~good["device"].isin(predicted)], x, "roof", ROOFS, _namer(whole, ROOF_SETTINGS))
    return LineChart(title, x_title, y_title, (*shown, *roofs), series.sources(good), _note(table, good))


def _note(table: pd.DataFrame, good: Any) -> str:
    return "; ".join(filter(None, [series.note(table, good), by_kind_note(good)]))


def by_kind_note(good: Any) -> str:
    """That one layer of each kind was timed, where that is so."""
    return BY_KIND if len(good) and bool((good["by_kind"] == 1).any()) else ""


def _namer(good: Any, settings: tuple[str, ...] = SETTINGS) -> Callable[[RowDict], str]:
    """What tells the settings of these rows apart; what a source does not tell is no setting of its own."""
    rows = [row for row in series.rows_of(good) if row["source"] in ("measured", "recorded")]
    differing = series.several(rows, *settings)
    differing += series.several(series.rows_of(good), "model")
    return lambda row: ", ".join(_words(row, differing))


def _words(row: RowDict, names: Iterable[str]) -> list[str]:
    say: dict[str, Callable[[Any], str]] = {
        "model": str, "bits": lambda n: f"int{int(n)}", "group_size": lambda n: f"groups of {int(n)}", "dtype": str,
        "by_kind": lambda n: "one layer of each kind" if n else "",
    }  # fmt: skip
    known = ((name, row[name]) for name in say if name in names)
    return list(filter(None, (say[name](value) for name, value in known if value is not None and value == value)))


def _hover(row: RowDict) -> Hover:
    """Everything that a point is: model, call, rate, time, the least time, memory and what makes it doubtful."""
    lines = [f"{row['tokens_per_s']:,.1f} tokens/s", f"{series.time_text(row)} a call"]
    if row["bound_ms"] == row["bound_ms"]:
        least = theme.seconds(row["bound_ms"] / 1e3)
        lines.append(f"the roofs allow {least}: it reaches {percent(row['bound_ms'] / row['median_ms'])}")
    if row["peak_gb"] == row["peak_gb"]:
        lines.append(f"at most {row['peak_gb']:.3g} GB of memory")
    if row["by_kind"] == 1:
        lines.append(BY_KIND)
    return Hover(row["label"], f", {problem(row)}", (*lines, *series.doubts(row)))


def problem(row: RowDict) -> str:
    """A point's problem in words."""
    return ", ".join([settings_words(row), *_words(row, ("model", "bits", "dtype"))])


def overview(table: Any) -> LineChart | PanelChart:
    """The first chart to look at: prompts, or steps where there are no prompts."""
    return prefill(table) if (table["phase"] == "prefill").any() else decode(table)
