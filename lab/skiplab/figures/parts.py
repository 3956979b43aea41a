"""Where the time of a model's calls goes, as bars: a prompt and a step, predicted part by part, recorded beside it.

The picture is a value of cells and labels, as in `nibbles`, drawn by the same functions. A cell's only lane is its
number, in the order in which the arrow keys go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from skiplab.figures import theme
from skiplab.figures.model import PARTS
from skiplab.figures.nibbles import Cell, Label, Picture
from skiplab.rated import RowDict
from skiplab.text import percent
from skiplab.throughput import CallTime

LEFT, ACROSS, WIDTH = 110, 390, 600
"""Pixels left of the bars, for names; of the longest bar; of the picture. To the right of a bar stands its time."""
COLOURS = {"compute": theme.BLUE, "memory": theme.ORANGE}
LIMITS = {"compute": "products", "memory": "memory"}
"""What a roof is the rate of."""
BESIDE = "#777777"
TALL, THIN, GAP = 13, 9, 5
"""Pixels of a predicted bar, of one beside it, and between two parts."""

Drawn = list[Cell | Label]


@dataclass(frozen=True)
class PartTime:
    """A part's predicted time (nan: nothing is predicted), the roof that limits it, and `beside`, its recorded time."""

    name: str
    seconds: float
    limited_by: str
    beside: float | None = None


@dataclass(frozen=True)
class CallBars:
    """One call: its title, its parts, and the row of a run that took such a call apart, if there is one."""

    title: str
    call: CallTime
    row: RowDict | None = None

    @property
    def parts(self) -> list[PartTime]:
        """In the order in which a layer has them; what only the run has, such as gaps, comes last."""
        taken = self.row["parts"] if self.row else {}
        names = [name for name in PARTS if name in self.call.parts or name in taken]
        return [self._part(name, taken) for name in names]

    def _part(self, name: str, taken: dict[str, int]) -> PartTime:
        beside = taken[name] / 1e9 if name in taken else None
        if name not in self.call.parts:
            return PartTime(name, float("nan"), "", beside)
        least = self.call.parts[name]
        return PartTime(name, least.seconds, least.limited_by, beside)


def bars(calls: Sequence[CallBars]) -> Picture:
    """The calls one below the other, each on a scale of its own."""
    parts: Drawn = []
    machine = calls[0].call.machine
    parts.append(Label(0, 12, f"Predicted for {machine.name} from its {machine.source} roofs", size=12, bold=True))
    y = 14.0
    for call in calls:
        y = _call(parts, call, y + 10)
    cells = tuple(part for part in parts if isinstance(part, Cell))
    labels = tuple(part for part in parts if isinstance(part, Label))
    return Picture(WIDTH, y + 4, cells, labels, -1, LEFT, _legend(calls))


def _legend(calls: Sequence[CallBars]) -> tuple[str, ...]:
    sources = dict.fromkeys(theme.provenance(one.row["source"], one.row["device"]) for one in calls if one.row)
    beside = f" Grey: {', '.join(sources)}." if sources else ""
    return (f"Predicted: blue where products limit it, orange where memory does.{beside}",)


def told_of(row: RowDict, tokens: float) -> str:
    """A recorded call in words: its time, the rate of so many tokens that it brings, and what makes it doubtful."""
    seconds = row["median_ms"] / 1e3
    doubts = f", flags: {row['flags']}" if row["flags"] else ""
    told = f"{theme.seconds(seconds)}, {tokens / seconds:,.0f} tokens/s"
    return f"{theme.provenance(row['source'], row['device'])}, {row['label']}: {told}{doubts}"


def _call(parts: Drawn, one: CallBars, y: float) -> float:
    parts.append(Label(0, y + 12, one.title, size=12, bold=True))
    y += 20
    if one.row is not None:
        parts.append(Label(0, y + 10, told_of(one.row, one.call.tokens)))
        y += 18
    shown, call = one.parts, one.call
    longest = max(max(part.seconds if part.seconds == part.seconds else 0, part.beside or 0) for part in shown)
    for part in shown:
        y = _part(parts, part, call, one.row, ACROSS / longest, y)
    return y


def _part(parts: Drawn, part: PartTime, call: CallTime, row: RowDict | None, scale: float, y: float) -> float:
    tall = (TALL if part.limited_by else 0) + (THIN + 1 if part.beside is not None else 0)
    parts.append(Label(LEFT - 8, y + tall / 2 + 4, part.name, "end"))
    if part.limited_by:
        share = part.seconds / call.seconds
        words = f"{theme.seconds(part.seconds)}, {percent(share, 1)}"
        _bar(parts, part.seconds, scale, y, TALL, COLOURS[part.limited_by], words, _told(part, share))
        y += TALL
    if part.beside is not None and row is not None:
        hint = f"{part.name}: {theme.seconds(part.beside)}, {theme.provenance(row['source'], row['device'])}"
        _bar(parts, part.beside, scale, y + 1, THIN, BESIDE, theme.seconds(part.beside), hint)
        y += THIN + 1
    return y + GAP


def _bar(parts: Drawn, seconds: float, scale: float, y: float, tall: float, colour: str, words: str, hint: str) -> None:
    wide, number = max(seconds * scale, 1), sum(isinstance(part, Cell) for part in parts)
    parts.append(Cell(LEFT, y, wide, tall, colour, hint=hint, lanes=(number,)))
    size = 11 if tall == TALL else 10
    parts.append(Label(LEFT + wide + 6, y + tall / 2 + size / 2 - 1.5, words, size=size))


def _told(part: PartTime, share: float) -> str:
    return (
        f"{part.name}: {theme.seconds(part.seconds)} predicted, {percent(share, 1)} of the call, limited by the rate "
        f"of {LIMITS[part.limited_by]}"
    )
