"""A quantised weight's memory as coloured cells: what a warp loads in a step, and one lane's nibbles.

The picture is a value of cells and labels, drawn as SVG for the explorer and by matplotlib for a PNG. A cell's colour
shows what it holds, light and dark distinguish neighbouring groups, and its number is the lane that loads it.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from skiplab.figures import theme
from skiplab.figures.vision import contrast
from skiplab.packed_weight import (
    BLOCK,
    LANES,
    LINE,
    SECTOR,
    Codes,
    LaneBlocks,
    Load,
    Packed,
    Program,
    lane_blocks,
    step_loads,
)
from skiplab.templates import render

LEFT, BYTE = 92, 4.5
"""Pixels left of a line, for its address; of a byte in a line of full width."""
WIDTH = LEFT + LINE * BYTE
FETCHED, LEFT_ALONE = "rgba(128,128,128,0.38)", "rgba(128,128,128,0.10)"
BLUES, GREENS, ORANGES = (theme.BLUE, theme.SKY), (theme.GREEN, "#8FD9BF"), (theme.ORANGE, "#F7DC9C")
PURPLES = ("#8A4A6E", "#E3B5CC")
COLOURS = {"weights": BLUES, "scale": GREENS, "zero": ORANGES, "minimum": ORANGES, "activation": PURPLES}

LEGEND = (
    "A number is the lane (one of a warp's 32 threads) that loads the cell; light and dark are neighbouring groups.",
    "A row is a line of 128 bytes in four sectors of 32, from the byte written before it. Grey: fetched, not needed.",
)


@dataclass(frozen=True)
class Cell:
    """A rectangle in pixels; `lanes`: the lanes that load it; `hint`: the same as text."""

    x: float
    y: float
    width: float
    height: float
    fill: str
    text: str = ""
    hint: str = ""
    lanes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Label:
    """Text at its base line; `anchor` as in SVG."""

    x: float
    y: float
    text: str
    anchor: str = "start"
    size: int = 11
    bold: bool = False


@dataclass(frozen=True)
class Picture:
    """Cells and labels on `width` x `height` pixels; `lane` is the one whose cells have an outline.

    left: where the cells begin, right of what names their rows. legend: lines of text that stand below it.
    """

    width: float
    height: float
    cells: tuple[Cell, ...]
    labels: tuple[Label, ...]
    lane: int
    left: float
    legend: tuple[str, ...] = ()


def memory(
    packed: Packed, program: Program, row: int, step: int, lane: int, scalar: bool, codes: Codes | None
) -> Picture:
    """The memory that the row's warp reads in that step; `codes`: those of the lane, None if it is idle."""
    loads = step_loads(packed, program, row, step, scalar)
    lanes = lane_blocks(packed, program, row, step)
    parts: list[Cell | Label] = []
    y = _weights(parts, packed, loads, lanes, 0)
    y = _nibbles(parts, packed, lanes[lane], lane, codes, y + 16)
    tables = [[load for load in loads if load.what == table.name] for table in packed.tables]
    y = _pairs(parts, packed, tables, lanes, y + 16)
    planes = [[load for load in loads if load.what == f"activations, plane {plane}"] for plane in range(2)]
    y = _pairs(parts, packed, planes, lanes, y + 12)
    others = [[load] for load in loads if load.what in ("activation steps", "activation sums")]
    y = _pairs(parts, packed, others, lanes, y + 12)
    loads_of_four = "Dark activations: the first of the four loads, which touches every sector."
    legend = (*LEGEND, loads_of_four) if scalar else LEGEND
    cells = tuple(part for part in parts if isinstance(part, Cell))
    labels = tuple(part for part in parts if isinstance(part, Label))
    return Picture(WIDTH + 2, y + 4, cells, labels, lane, LEFT, legend)


def _weights(parts: list[Cell | Label], packed: Packed, loads: tuple[Load, ...], lanes: LaneBlocks, y: float) -> float:
    for plane, load in enumerate(load for load in loads if load.what == "weights"):
        half = "" if packed.bits == 4 else f", {('first', 'second')[plane]} halves of the blocks (plane {plane})"
        title = f"Weights{half}: 16 bytes a lane, {_asked([load])}"
        y = _array(parts, title, packed, [load], lanes, 0, y + (12 if plane else 0), BYTE)
    return y


def _pairs(parts: list[Cell | Label], packed: Packed, arrays: list[list[Load]], lanes: LaneBlocks, y: float) -> float:
    """Arrays side by side, two in a row, each at half the width."""
    for first in range(0, len(arrays), 2):
        ends = []
        for column, loads in enumerate(arrays[first : first + 2]):
            title = f"{loads[0].what[0].upper()}{loads[0].what[1:]}: {_asked(loads)}"
            ends.append(_array(parts, title, packed, loads, lanes, column * WIDTH / 2, y, 2))
        y = max(ends) + (12 if first + 2 < len(arrays) else 0)
    return y


def _asked(loads: list[Load]) -> str:
    sectors, lines = (sum(len(load.touched(unit)) for load in loads) for unit in (SECTOR, LINE))
    many = f"{len(loads)} loads, " if len(loads) > 1 else ""
    return f"{many}{sectors} sector{'s' * (sectors != 1)}, {lines} line{'s' * (lines != 1)}"


def _array(
    parts: list[Cell | Label], title: str, packed: Packed, loads: list[Load], lanes: LaneBlocks, x: float, y: float,
    byte: float,
) -> float:  # fmt: skip
    """The cache lines that some loads of one array touch, one below the other, with sectors and loaded bytes."""
    lines = sorted({line for load in loads for line in load.touched(LINE)})
    tall = 20 if byte > 2 else 15 if len(lines) <= 8 else 7
    left = x + (LEFT if byte > 2 or x == 0 else LEFT - 24)
    fetched = {sector for load in loads for sector in load.touched(SECTOR)}
    parts.append(Label(x, y + 11, title, size=12 if byte > 2 else 11, bold=True))
    top = y + 18
    for number, line in enumerate(lines):
        at = top + number * tall
        if tall > 7 or number in (0, len(lines) - 1):
            parts.append(Label(left - 6, at + tall / 2 + 4, f"+{line * LINE:,}", "end", 10))
        for sector in range(line * LINE // SECTOR, (line + 1) * LINE // SECTOR):
            inside = left + (sector * SECTOR - line * LINE) * byte
            fill, what = (FETCHED, "fetched") if sector in fetched else (LEFT_ALONE, "not fetched")
            hint = f"Sector of 32 bytes from {sector * SECTOR:,}: {what}"
            parts.append(Cell(inside, at, SECTOR * byte - 1, tall - 1, fill, hint=hint))
    rows = {line: top + number * tall for number, line in enumerate(lines)}
    for number in range(len(loads)):
        for cell in _loaded(packed, loads, number, lanes):
            line = int(cell.x) // LINE
            x = left + (cell.x - line * LINE) * byte
            width = max(cell.width * byte - 0.75, 2.5)
            parts.append(Cell(x, rows[line], width, tall - 1.5, cell.fill,
                              cell.text if width >= 14 and tall > 7 else "", cell.hint, cell.lanes))  # fmt: skip
    return top + len(lines) * tall


def _loaded(packed: Packed, loads: list[Load], number: int, lanes: LaneBlocks) -> Iterator[Cell]:
    """A cell for each different address of a load; x and width still in bytes."""
    load = loads[number]
    kind = next(kind for kind in COLOURS if load.what.startswith(kind))
    span = next((table.span for table in packed.tables if table.name == load.what), packed.group_size)
    for start in load.distinct:
        who = tuple(lane for lane in range(LANES) if load.starts[lane] == start)
        row, block = lanes[who[0]] or (0, 0)
        colour = COLOURS[kind][min(number, 1) if len(loads) > 1 else (block * BLOCK // span + row) % 2]
        where = f"bytes {start:,}–{start + load.width - 1:,} of the {load.what.split(',')[0]}"
        whose = f"Lane{'s' * (len(who) > 1)} {_ranges(who)}"
        first = block * BLOCK
        held = f"weights {first:,}–{first + BLOCK - 1:,} of row {row:,}"
        if kind == "weights":
            half = "" if packed.bits == 4 else ", half of them"
            hint = f"{whose}: {where}: {held}{half}, in group {first // packed.group_size}"
        elif kind == "activation":
            part = f", load {number + 1} of 4" if len(loads) == 4 else ""
            hint = f"{whose}: {where}, for {held.split(' of ')[0]}{part}"
        else:
            group = first // span
            hint = (
                f"{whose}: {where}: group {group}, weights {group * span:,}–{(group + 1) * span - 1:,} of row {row:,}"
            )
        yield Cell(start, 0, load.width, 0, colour, _ranges(who) if len(who) == 1 else "", hint, who)


def _ranges(lanes: tuple[int, ...]) -> str:
    if lanes == tuple(range(lanes[0], lanes[-1] + 1)) and len(lanes) > 2:
        return f"{lanes[0]}–{lanes[-1]}"
    return ", ".join(map(str, lanes))


def _nibbles(
    parts: list[Cell | Label],
    packed: Packed,
    lane_block: tuple[int, int] | None,
    lane: int,
    codes: Codes | None,
    y: float,
) -> float:
    """One lane's weights byte by byte: two nibbles a byte, or two planes of bytes."""
    if codes is None or lane_block is None:
        parts.append(
            Label(0, y + 11, f"Lane {lane} has nothing to do in this step: the row has ended", size=12, bold=True)
        )
        return y + 18
    title = f"Lane {lane}'s 16 bytes" if packed.bits == 4 else f"Lane {lane}'s 2 × 16 bytes"
    parts.append(
        Label(0, y + 11, f"{title}: weights {codes.first:,}–{codes.first + BLOCK - 1:,} of row {lane_block[0]:,}, "
              f"each {value_text(codes)}", size=12, bold=True)
    )  # fmt: skip
    names = ("low nibble, even", "high nibble, odd") if packed.bits == 4 else ("plane 0", "plane 1")
    wide, tall, top = LINE * BYTE / 16, 20, y + 34
    for j in range(16):
        for half in range(2):
            index = 2 * j + half if packed.bits == 4 else half * 16 + j
            hint = (
                f"Weight {codes.first + index:,}: {codes.weights[index]:.4f} was kept as code {codes.codes[index]}, "
                f"which stands for {codes.values[index]:.4f}"
            )
            fill = BLUES[half] if packed.bits == 4 else BLUES[0]
            parts.append(
                Cell(LEFT + j * wide, top + half * tall, wide - 1, tall - 1, fill, str(codes.codes[index]), hint)
            )
        if j % 4 == 0:
            parts.append(Label(LEFT + j * wide, top - 4, f"byte {j}", size=10))
    for half, name in enumerate(names):
        parts.append(Label(LEFT - 6, top + half * tall + 14, name, "end", 10))
    return top + 2 * tall


def value_text(codes: Codes) -> str:
    """`(code − 7) × 0.00549`: how a code becomes a value."""
    minimum = f" {'−' if codes.minimum < 0 else '+'} {abs(codes.minimum):.3g}" if codes.minimum else ""
    if not codes.zero:
        code = "code"
    else:
        code = f"(code {'−' if codes.zero > 0 else '+'} {abs(codes.zero):g})"
    return f"{code} × {codes.scale:.3g}{minimum}"


def svg(picture: Picture, label: str) -> str:
    """The picture without its legend, as an SVG element; labels take the page's colour.

    Cells carry data-lanes and data-hint.
    """
    return render(
        "picture.svg", width=f"{picture.width:g}", height=f"{picture.height:g}", label=label, left=f"{picture.left:g}",
        cells=[(cell, ink(cell.fill) if cell.text else "") for cell in picture.cells],
        outlines=[cell for cell in picture.cells if picture.lane in cell.lanes], labels=picture.labels,
    )  # fmt: skip


def ink(fill: str) -> str:
    """Black or white, whichever stands out more on a colour."""
    return max("#000000", "#FFFFFF", key=lambda text: contrast(text, fill))


def png(picture: Picture, title: str) -> bytes:
    """The picture on a clear ground, with grey text that reads on a light and on a dark page."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    lines = textwrap.wrap(title, int(picture.width / 5.4))  # a letter of 10 points is about so wide
    above, dpi = 12 + 14 * len(lines), 110
    height = picture.height + 15 * len(picture.legend)
    figure = Figure(figsize=(picture.width / 72, (height + above) / 72))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, picture.width), ylim=(height, -above))
    axes.axis("off")
    axes.text(0, -8, "\n".join(lines), fontsize=10, color=theme.TEXT)
    for cell in picture.cells:
        colour, alpha = (cell.fill, 1.0) if cell.fill.startswith("#") else ("#808080", _alpha(cell.fill))
        axes.add_patch(Rectangle((cell.x, cell.y), cell.width, cell.height, facecolor=colour, alpha=alpha, linewidth=0))
        if cell.text:
            x, y = cell.x + cell.width / 2, cell.y + cell.height / 2
            axes.text(x, y, cell.text, fontsize=8, color=ink(colour), ha="center", va="center_baseline")
    _outline(axes, (cell for cell in picture.cells if picture.lane in cell.lanes))
    sides = {"start": "left", "end": "right"}
    below = (Label(0, picture.height + 11 + 15 * number, line) for number, line in enumerate(picture.legend))
    for label in (*picture.labels, *below):
        axes.text(label.x, label.y, label.text, fontsize=label.size * 0.75, color=theme.TEXT, ha=sides[label.anchor],
                  weight="bold" if label.bold else "normal")  # fmt: skip
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi, transparent=True)
    return file.getvalue()


def _alpha(fill: str) -> float:
    return float(fill.rsplit(",", 1)[1].rstrip(")"))


def _outline(axes, cells: Iterable[Cell]) -> None:
    from matplotlib.patches import Rectangle

    for cell in cells:
        for colour, width in (("white", 3.0), ("black", 1.2)):
            box = Rectangle((cell.x, cell.y), cell.width, cell.height, fill=False, edgecolor=colour, linewidth=width)
            axes.add_patch(box)
