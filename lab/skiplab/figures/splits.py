"""Split-K decode as coloured cells: which program reads which keys, and what every SM does until the last one ends.

The picture is a value of cells and labels, as in `nibbles`, drawn by the same functions. A cell's `lanes` are the
programs that it stands for.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from skiplab.figures import theme
from skiplab.figures.nibbles import FETCHED, LEFT_ALONE, Cell, Label, Picture
from skiplab.occupancy import SPLIT_POLICIES, Placement, Schedule, Share

LEFT, ACROSS = 132, 560
"""Pixels left of a strip, for its name; of a strip."""
WIDTH = LEFT + ACROSS
SHADES = (theme.BLUE, theme.SKY)
DROPPED = (theme.ORANGE, "#F7DC9C")
FEW_BEFORE = 3
"""Of the keys that are seen, how many may be read for them to be drawn whole: a window in more would be a hairline."""
MOST_CELLS = 1200
"""More programs with keys than these are drawn as one bar an SM, more tiles as whole shares."""
NAMES = {policy: name for policy, (name, _) in SPLIT_POLICIES.items()}

Drawn = list[Cell | Label]


def decode(plans: Mapping[str, Schedule], policy: str, program: int) -> Picture:
    """Every policy's shares of a KV head's keys, and the SMs' timeline under one; its `program` is outlined."""
    plan, parts = plans[policy], []
    y = _buffer(parts, plan, program // plan.splits, 0)
    y = _magnified(parts, plans, policy, program // plan.splits, y + 18)
    y = _timeline(parts, plan, program // plan.splits, y + 18)
    cells = tuple(part for part in parts if isinstance(part, Cell))
    labels = tuple(part for part in parts if isinstance(part, Label))
    return Picture(WIDTH + 4, y + 4, cells, labels, program, LEFT, _legend(parts))


def title(plan: Schedule) -> str:
    """The title of the picture, for use outside of the explorer."""
    return f"Split-K decode, {NAMES[plan.policy]}: predicted for {plan.machine.name} ({plan.machine.source})"


def tiles(share: Share) -> str:
    """`1 tile`, `4 tiles`."""
    return f"{share.tiles:,} tile{'s' * (share.tiles != 1)}"


def told(plan: Schedule, run: Placement) -> str:
    """A program in words: its head and split, the keys that it reads, its SM and its time."""
    share = plan.shares[run.program % plan.splits]
    return (
        f"Program {run.program:,}, {plan.whose(run.program)}: keys {share.first:,}–{share.end - 1:,}, {tiles(share)}, "
        f"on SM {run.sm} from {theme.seconds(run.start)} to {theme.seconds(run.end)}"
    )


def _legend(parts: Drawn) -> tuple[str, ...]:
    lines = [
        "Dark and light are neighbouring splits, and a number is a split.",
        "Green: programs of the chosen one's KV head. Grey: an SM with nothing to read.",
    ]
    if any(isinstance(part, Cell) and part.fill in DROPPED for part in parts):
        lines.append("Orange: keys before the window, read and then masked.")
    return tuple(lines)


def _buffer(parts: Drawn, plan: Schedule, head: int, y: float) -> float:
    """The whole cache of a KV head, to scale, with the keys that the policy reads."""
    scale = ACROSS / plan.buffer
    title = f"A KV head's cache, to scale: {plan.buffer:,} slots, {plan.live.stop:,} keys"
    parts.append(Label(0, y + 11, title, size=12, bold=True))
    top, tall = y + 20, 18
    if plan.policy == "executorch":
        piece = -(-plan.buffer // plan.splits)
        for split in range(plan.splits):
            first, end = split * piece, min((split + 1) * piece, plan.buffer)
            alive = plan.shares[split].keys > 0
            hint = f"Split {split:,} has slots {first:,}–{end - 1:,}: {'has keys' if alive else 'no key, idle'}"
            parts.append(Cell(LEFT + first * scale, top, max((end - first) * scale - 0.6, 0.6), tall,
                              FETCHED if split % 2 else LEFT_ALONE, hint=hint))  # fmt: skip
    else:
        parts.append(Cell(LEFT, top, ACROSS, tall, LEFT_ALONE, hint=f"{plan.buffer:,} slots"))
    for split, share in enumerate(plan.shares):
        parts.extend(_share_cells(plan, split, share, head, top, tall, 0, scale, by_tile=False))
    parts.append(Label(LEFT - 8, top + 13, NAMES[plan.policy], "end", 11))
    parts.append(Label(LEFT, top + tall + 13, "slot 0", size=10))
    parts.append(Label(WIDTH, top + tall + 13, f"{plan.buffer - 1:,}", "end", 10))
    return top + tall + 16


def _magnified(parts: Drawn, plans: Mapping[str, Schedule], policy: str, head: int, y: float) -> float:
    """The keys that some query sees, a strip for each policy; with those before them that a policy reads, if few."""
    live, block_n = plans[policy].live, plans[policy].block_n
    first = min(share.first for plan in plans.values() for share in plan.shares if share.keys)
    read = range(first, live.stop)
    if len(read) > FEW_BEFORE * len(live):
        read = live
    drawn = "a cell is a tile" if -(-len(read) // block_n) <= ACROSS / 6 else "a cell is a share"
    before = f", and {len(read) - len(live):,} before them" if len(read) > len(live) else ""
    title = f"The {len(live):,} keys that a query sees{before}, by rule: {drawn}"
    parts.append(Label(0, y + 11, title, size=12, bold=True))
    scale, top, tall = ACROSS / len(read), y + 20, 20
    for number, (name, plan) in enumerate(plans.items()):
        at = top + number * (tall + 4)
        words = f"{NAMES[name]}: {plan.splits:,}"
        parts.append(Label(LEFT - 8, at + 14, words, "end", 11, bold=name == policy))
        for split, share in enumerate(plan.shares):
            first, end = max(share.first, read.start), min(share.end, read.stop)
            if first < end:
                seen = Share(first, end, share.tiles)
                parts.extend(_share_cells(plan, split, seen, head if name == policy else None, at, tall,
                                          read.start, scale, by_tile=drawn.endswith("tile")))  # fmt: skip
    end = top + len(plans) * (tall + 4)
    parts.append(Label(LEFT, end + 9, f"key {read.start:,}", size=10))
    parts.append(Label(WIDTH, end + 9, f"key {read.stop - 1:,}", "end", 10))
    return end + 12


def _share_cells(
    plan: Schedule, split: int, share: Share, head: int | None, top: float, tall: float, origin: int, scale: float,
    by_tile: bool,
) -> list[Cell]:  # fmt: skip
    """A share as one cell, or tile by tile; keys before the window, which are read and masked, in another colour."""
    if not share.keys:
        return []
    programs = () if head is None else (head * plan.splits + split,)
    hint = (
        f"{NAMES[plan.policy]}: split {split:,} of {plan.splits:,} reads keys {share.first:,}–{share.end - 1:,}, "
        f"{tiles(share)}"
    )
    borders = [share.first, share.end]
    if by_tile:
        start = share.first if plan.policy == "executorch" else share.first // plan.block_n * plan.block_n
        inside = range(start + plan.block_n, share.end, plan.block_n)
        borders = [share.first, *inside, share.end]
    if share.first < plan.live.start < share.end:
        borders = sorted({*borders, plan.live.start})
    cells = []
    for first, end in itertools.pairwise(borders):
        dropped = end <= plan.live.start
        width = (end - first) * scale
        gap = 1 if width > 4 else 0.4 if width > 2 else 0
        fill = (DROPPED if dropped else SHADES)[split % 2]
        more = ", seen by no query: masked after they are read" if dropped else ""
        cells.append(Cell(LEFT + (first - origin) * scale, top, max(width - gap, 1.2), tall, fill,
                          _fitting(f"{split}", width), hint + more, programs))  # fmt: skip
    return cells


def _timeline(parts: Drawn, plan: Schedule, head: int, y: float) -> float:
    """A row an SM, a bar a program, from left to right in time."""
    used = plan.sms - plan.idle_sms
    title = f"{NAMES[plan.policy]} on the {plan.sms} SMs of {plan.machine.name}: {used} busy, {plan.idle_sms} idle"
    parts.append(Label(0, y + 11, title, size=12, bold=True))
    top, tall = y + 20, max(round(300 / plan.sms), 1)
    height, scale = plan.sms * tall, ACROSS / plan.reading_seconds
    parts.append(Cell(LEFT, top, ACROSS, height, LEFT_ALONE, hint="Idle: no program has keys for this SM now"))
    if plan.live_programs <= MOST_CELLS:
        parts.extend(_bar(plan, run, head, top, tall, scale) for run in plan.runs)
    else:
        parts.extend(_bars(plan, top, tall, scale))
    parts.append(Label(LEFT - 8, top + 9, "SM 0", "end", 10))
    parts.append(Label(LEFT - 8, top + height, f"SM {plan.sms - 1}", "end", 10))
    even = plan.busy * plan.reading_seconds
    if even < 0.97 * plan.reading_seconds:
        x = LEFT + even * scale
        hint = f"Were all SMs busy to the end, it would come here: {theme.seconds(even)}"
        parts.append(Cell(x - 1, top - 4, 2, height + 8, theme.VERMILLION, hint=hint))
        right = x + 140 > WIDTH
        parts.append(Label(x + (-5 if right else 5), top + height + 14, f"all SMs busy: {theme.seconds(even)}",
                           "end" if right else "start", 10))  # fmt: skip
    parts.append(Label(LEFT - 8, top + height + 14, "time 0", "end", 10))
    ends = f"all keys are read: {theme.seconds(plan.reading_seconds)}"
    parts.append(Label(WIDTH, top + height + 28, ends, "end", 10))
    return top + height + 30


def _bar(plan: Schedule, run: Placement, head: int, top: float, tall: float, scale: float) -> Cell:
    own = run.program // plan.splits
    x, width = LEFT + run.start * scale, (run.end - run.start) * scale
    fill = theme.GREEN if own == head else SHADES[run.program % 2]
    return Cell(x, top + run.sm * tall, max(width - 0.8, 0.5), tall, fill, hint=told(plan, run), lanes=(run.program,))


def _bars(plan: Schedule, top: float, tall: float, scale: float) -> list[Cell]:
    """One bar an SM, if there are too many programs to draw each."""
    return [
        Cell(LEFT, top + sm * tall, end * scale, tall, SHADES[sm % 2],
             hint=f"SM {sm}: {count:,} programs one after the other, to {theme.seconds(end)}")
        for sm, (end, count) in enumerate(plan.sm_use())
    ]  # fmt: skip


def _fitting(text: str, width: float) -> str:
    return text if width >= 6.5 * len(text) + 3 else ""
