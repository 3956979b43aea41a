"""A launch's timeline as coloured cells: a row for each multiprocessor, a cell for each block that it ran."""

from __future__ import annotations

from collections import Counter
from typing import Any

from skiplab.figures import nibbles, theme
from skiplab.figures.nibbles import LEFT_ALONE, Cell, Label, Picture
from skiplab.replay.timeline import Block, Timeline

LEFT, ACROSS = 64, 620
MOST_TALL = 460
LEAST_TALL = 1.6
"""Pixels of a lane: of one of the blocks that a multiprocessor has at once."""
MOST_LANES = 6
SHADES = (theme.BLUE, theme.SKY)
LEGEND = (
    "A row is a multiprocessor, with a line for each block that it has at once; dark and light are blocks one after "
    "the other; grey: none is there.",
)


def timeline(made: Timeline) -> Picture:
    """Which block was on which multiprocessor, and when."""
    first = min(one.start for one in made.spans)
    placed = _lanes(made)
    lanes = min(max(lane for _, lane in placed) + 1, MOST_LANES)
    scale, top = ACROSS / made.seconds, 20
    tall = max(min(14.0, MOST_TALL / len(made.sms)), LEAST_TALL * lanes)
    rows = {sm: top + number * tall for number, sm in enumerate(made.sms)}
    gap = 1 if tall > 3 else 0
    each = (tall - gap) / lanes
    cells = [Cell(LEFT, y, ACROSS, tall - gap, LEFT_ALONE, hint=f"SM {sm}") for sm, y in rows.items()]
    seen: Counter[tuple[int, int]] = Counter()
    for one, lane in placed:
        place = one.sm, lane % lanes
        seen[place] += 1
        took = theme.seconds(one.end - one.start).strip()
        hint = f"Block {one.block:,} on SM {one.sm}: {took}, from {theme.seconds(one.start - first).strip()}"
        cells.append(Cell(LEFT + (one.start - first) * scale, rows[one.sm] + place[1] * each,
                          max((one.end - one.start) * scale, 0.6), each, SHADES[(seen[place] - 1) % 2], hint=hint,
                          lanes=(one.block,)))  # fmt: skip
    end = top + len(rows) * tall
    every = max(1, round(16 / tall))
    labels = [Label(0, 11, str(made), size=12, bold=True)]
    labels += [Label(LEFT - 6, y + tall / 2 + 4, f"SM {sm}", "end", 10) for sm, y in list(rows.items())[::every]]
    labels += [Label(LEFT, end + 13, "0", size=10),
               Label(LEFT + ACROSS, end + 13, theme.seconds(made.seconds).strip(), "end", 10)]  # fmt: skip
    return Picture(LEFT + ACROSS + 4, end + 18, tuple(cells), tuple(labels), -1, LEFT, LEGEND)


def _lanes(made: Timeline) -> list[tuple[Block, int]]:
    """The blocks, each with a lane of its multiprocessor that no other has at the time; they come by their start."""
    ends: dict[int, list[float]] = {}
    placed = []
    for one in made.blocks:
        own = ends.setdefault(one.sm, [])
        lane = next((number for number, end in enumerate(own) if end <= one.start), len(own))
        own[lane:] = [one.end, *own[lane + 1 :]]
        placed.append((one, lane))
    return placed


def picture(made: Timeline) -> Any:
    """The timeline as an image that a notebook shows."""
    from IPython.display import Image

    return Image(nibbles.png(timeline(made), made.clock))
