"""A recorded launch as coloured cells: the tile map as far as it was visited, and the rows' maximum and sum so far.

The picture is a value of cells and labels, as in `nibbles`, drawn by the same functions. A cell's `lanes` are the steps
that visit it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from skiplab.figures import theme
from skiplab.figures.nibbles import FETCHED, LEFT_ALONE, Cell, Label, Picture
from skiplab.replay.steps import MASKED, UNMASKED, Replay
from skiplab.text import digits

LEFT, ACROSS = 98, 480
"""Pixels left of the map, for its rows' names; of the map."""
MOST_TALL = 420
BARS = 44
MOST_ROWS = 64
"""Rows of a program that have a bar each; of more, every so many."""
PLANNED = {0: LEFT_ALONE, 1: "rgba(230,159,0,0.28)", 2: "rgba(0,114,178,0.28)"}
NOTHING = "empty"
"""A tile of which the mask keeps nothing, and which was visited all the same."""
VISITED = {MASKED: theme.PARTIAL, UNMASKED: theme.FULL, NOTHING: theme.WRONG}
BY_MAP = {0: NOTHING, 1: MASKED, 2: UNMASKED}
SAID = {MASKED: "with the mask", UNMASKED: "without the mask"}
NOT_SAID = {
    MASKED: "the mask keeps some of it",
    UNMASKED: "the mask keeps all of it",
    NOTHING: "the mask keeps none of it",
}
LATER = "pale: to be visited by the plan, and not yet; grey: empty."
BARS_TOLD = (
    "Bars: a row's largest score so far, between the program's smallest and largest, and the sum of its weights."
)
LEGEND = (f"Orange: the mask was applied; blue: it was not; {LATER}", BARS_TOLD)
LEGEND_NOT_SAID = (
    f"Visited tiles, orange: the mask keeps some of it; blue: all; red: nothing, a visit in vain; {LATER}",
    BARS_TOLD,
)
"""Of a kernel that does not say where it applies the mask: what the map says."""

Drawn = list[Cell | Label]


def steps(replay: Replay, at: int) -> Picture:
    """The launch after step `at` of `replay.places`; -1 is before the first."""
    parts: Drawn = []
    y = _map(parts, replay, at)
    if at >= 0:
        program, step = replay.places[at]
        now, every = replay.programs[program].steps[step], replay.programs[program].steps
        y = _bars(parts, "row maximum", now.row_max, [one.row_max for one in every], y + 16, from_zero=False)
        y = _bars(parts, "row sum", now.row_sum, [one.row_sum for one in every], y + 14, from_zero=True)
    else:
        y += 2 * BARS + 30
    cells = tuple(part for part in parts if isinstance(part, Cell))
    labels = tuple(part for part in parts if isinstance(part, Label))
    legend = LEGEND if replay.says_mask else LEGEND_NOT_SAID
    return Picture(LEFT + ACROSS + 4, y + 4, cells, labels, at, LEFT, legend)


def _map(parts: Drawn, replay: Replay, at: int) -> float:
    tilemap = replay.tilemap
    wide, tall = ACROSS / tilemap.cols, min(22.0, MOST_TALL / tilemap.rows)
    top, gap = 18, 1 if ACROSS / tilemap.cols > 6 else 0
    parts.append(
        Label(
            0,
            11,
            f"{tilemap.rows:,} × {tilemap.cols:,} tiles of {tilemap.block_m} × {tilemap.block_n}",
            size=12,
            bold=True,
        )
    )
    done: dict[tuple[int, int], tuple[int, str]] = {}
    later: dict[tuple[int, int], int] = {}
    for number, (p, s) in enumerate(replay.places):
        program = replay.programs[p]
        for tile in replay.tiles(program, program.steps[s]):
            later.setdefault(tile, number)
            if number <= at:
                done[tile] = number, program.steps[s].kind or BY_MAP[int(tilemap.state[tile])]
    state = tilemap.state
    for row in range(tilemap.rows):
        for col in range(tilemap.cols):
            tile = row, col
            fill = VISITED[done[tile][1]] if tile in done else PLANNED[int(state[row, col])]
            lanes = (done[tile][0],) if tile in done else (later[tile],) if tile in later else ()
            parts.append(Cell(LEFT + col * wide, top + row * tall, wide - gap, tall - gap, fill,
                              hint=_hint(replay, tile, done.get(tile), later.get(tile)), lanes=lanes))  # fmt: skip
    every = max(1, math.ceil(14 / tall))
    for row in range(0, tilemap.rows, every):
        parts.append(Label(LEFT - 6, top + (row + 0.5) * tall + 4, f"query {row * tilemap.block_m:,}", "end", 10))
    end = top + tilemap.rows * tall
    parts.append(Label(LEFT, end + 12, "key 0", size=10))
    parts.append(Label(LEFT + ACROSS, end + 12, f"{tilemap.kv_len - 1:,}", "end", 10))
    return end + 16


def _hint(replay: Replay, tile: tuple[int, int], done: tuple[int, str] | None, later: int | None) -> str:
    words = f"Tile {tile[0]}, {tile[1]}: "
    if done is not None:
        program, step = replay.places[done[0]]
        kind = (SAID if replay.says_mask else NOT_SAID)[done[1]]
        return f"{words}step {step + 1} of program {program + 1}, {kind}"
    if later is not None:
        program, step = replay.places[later]
        return f"{words}comes as step {step + 1} of program {program + 1}"
    kept = "NO PROGRAM VISITED IT, and the mask keeps some of it"
    return words + (kept if replay.tilemap.state[tile] else "no program visits it")


def _bars(
    parts: Drawn, name: str, now: Sequence[float], every: Sequence[Sequence[float]], y: float, from_zero: bool
) -> float:
    """A bar for each row of the program: as tall as its value, of the range that the program comes to."""
    finite = [value for values in every for value in values if math.isfinite(value)]
    parts.append(Label(LEFT - 6, y + BARS / 2 + 4, name, "end", 11, bold=True))
    if not now or not finite:
        parts.append(
            Label(LEFT, y + BARS / 2 + 4, "no variable of the kernel is watched: name them with watch=(...)", size=11)
        )
        return y + BARS
    low, high = (0.0 if from_zero else min(finite)), max(finite)
    stride = math.ceil(len(now) / MOST_ROWS)
    shown = now[::stride]
    wide = ACROSS / len(shown)
    parts.append(
        Cell(LEFT, y + BARS, ACROSS, 1, FETCHED, hint=f"{name}: {digits(low)} at the bottom, {digits(high)} on top")
    )
    for number, value in enumerate(shown):
        if math.isfinite(value):
            tall = max(1.0, (BARS - 2) * ((value - low) / (high - low) if high > low else 1.0))
            hint = f"Row {number * stride} of the program: {name} {value:.4g}"
            parts.append(Cell(LEFT + number * wide, y + BARS - tall, wide - 1, tall, theme.GREEN, hint=hint))
    return y + BARS
