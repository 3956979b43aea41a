"""A launch's timeline as coloured cells: a row for each multiprocessor, a cell for each block that it ran."""

from __future__ import annotations

from typing import Any

from skiplab.figures import nibbles, theme
from skiplab.figures.nibbles import LEFT_ALONE, Cell, Label, Picture
from skiplab.replay.timeline import Timeline

LEFT, ACROSS = 64, 620
MOST_TALL = 460
SHADES = (theme.BLUE, theme.SKY)
LEGEND = ("A row is a multiprocessor; dark and light are blocks one after the other; grey: none is there.",)


def timeline(made: Timeline) -> Picture:
    """Which block was on which multiprocessor, and when."""
    first = min(one.start for one in made.spans)
    scale, tall, top = ACROSS / made.seconds, min(14.0, MOST_TALL / len(made.sms)), 20
    rows = {sm: top + number * tall for number, sm in enumerate(made.sms)}
    gap = 1 if tall > 3 else 0
    cells = [Cell(LEFT, y, ACROSS, tall - gap, LEFT_ALONE, hint=f"SM {sm}") for sm, y in rows.items()]
    seen: dict[int, int] = {}
    for one in made.blocks:
        number = seen[one.sm] = seen.get(one.sm, -1) + 1
        took = theme.seconds(one.end - one.start).strip()
        hint = f"Block {one.block:,} on SM {one.sm}: {took}, from {theme.seconds(one.start - first).strip()}"
        cells.append(Cell(LEFT + (one.start - first) * scale, rows[one.sm], max((one.end - one.start) * scale, 0.6),
                          tall - gap, SHADES[number % 2], hint=hint, lanes=(one.block,)))  # fmt: skip
    end = top + len(rows) * tall
    every = max(1, round(16 / tall))
    labels = [Label(0, 11, str(made), size=12, bold=True)]
    labels += [Label(LEFT - 6, y + tall / 2 + 4, f"SM {sm}", "end", 10) for sm, y in list(rows.items())[::every]]
    labels += [Label(LEFT, end + 13, "0", size=10),
               Label(LEFT + ACROSS, end + 13, theme.seconds(made.seconds).strip(), "end", 10)]  # fmt: skip
    return Picture(LEFT + ACROSS + 4, end + 18, tuple(cells), tuple(labels), -1, LEFT, LEGEND)


def picture(made: Timeline) -> Any:
    """The timeline as an image that a notebook shows."""
    from IPython.display import Image

    return Image(nibbles.png(timeline(made), made.clock))
