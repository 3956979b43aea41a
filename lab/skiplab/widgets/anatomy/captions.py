"""What an anatomy explorer shows of a kernel, as HTML: resources, occupancy, instructions, the inner loop's lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from skiplab.anatomy import Anatomy
from skiplab.anatomy.sass import KINDS, OTHER
from skiplab.templates import render

MOST_LINES = 60


def resources(one: Anatomy) -> str:
    """Registers, spills, shared memory, and how many blocks a multiprocessor holds."""
    first = f"{one.name}: {one.registers} registers a thread, {one.spill_bytes:,} bytes spilled, "
    rest = f"{one.shared_bytes:,} bytes of shared memory a block. {str(one.occupancy).capitalize()}."
    return render(
        "explorers.counts", name="skiplab-anatomy-counts", width="760px", first=f"{first.rstrip(', ')};", rest=rest
    )


def occupancy(one: Anatomy) -> str:
    """The blocks that each resource would allow alone; the least of them counts."""
    rows = [
        {"cells": (name, f"{count:,}"), "chosen": name in one.occupancy.limits}
        for name, count in one.occupancy.by_resource
    ]
    return render(
        "explorers.rates",
        name="skiplab-anatomy-occupancy",
        title="Blocks of a multiprocessor",
        note="by each resource alone; what is marked limits",
        heads=("resource", "blocks"),
        rows=rows,
    )


def mix(one: Anatomy) -> str:
    """Instructions by kind, in all of the code and in the inner loop."""
    loop = one.inner_loop.mix if one.inner_loop else Counter()
    kinds = [kind for kind in (*KINDS, OTHER) if one.mix[kind]]
    rows = [
        {"cells": (kind, f"{one.mix[kind]:,}", f"{loop[kind]:,}" if loop[kind] else ""), "chosen": False}
        for kind in kinds
    ]
    total = {"cells": ("all", f"{sum(one.mix.values()):,}", f"{sum(loop.values()):,}"), "chosen": True}
    return render("explorers.rates", name="skiplab-anatomy-mix", title="Instructions", note="as they stand in the code",
                  heads=("kind", "in all", "inner loop"), rows=[*rows, total])  # fmt: skip


def lines(one: Anatomy) -> str:
    """The inner loop beside the lines that it came from, those with the most instructions marked."""
    loop = one.inner_loop
    if loop is None:
        return render("widgets.hint_line", text="The kernel has no loop: it is straight code, or unrolled whole.")
    counts = sorted((len(line.instructions) for line in loop.lines), reverse=True)[:3]
    rows = [
        {"cells": (line.source or "(put in by the compiler)", line.where, f"{len(line.instructions)}", _opcodes(line)),
         "chosen": len(line.instructions) in counts}
        for line in loop.lines[:MOST_LINES]
    ]  # fmt: skip
    left = len(loop.lines) - MOST_LINES
    note = f"{len(loop.instructions)} instructions" + (f"; {left} more lines are left out" if left > 0 else "")
    heads, words = ("line", "where", "instructions", "of which"), ("where", "of which")
    title = "The inner loop, line by line"
    return render(
        "explorers.rates", name="skiplab-anatomy-lines", title=title, note=note, heads=heads, rows=rows, words=words
    )


def _opcodes(line) -> str:
    counts = Counter(one.opcode.split(".")[0] for one in line.instructions)
    return ", ".join(f"{count} {opcode}" for opcode, count in counts.most_common(4))


def table(compiled: Mapping[str, Anatomy], chosen: str) -> str:
    """All that was compiled in this explorer, the one that is shown marked."""
    heads = ("config", "registers", "spilled", "shared", "blocks", "limited by", "products", "loop")
    rows = [{"cells": _row(name, one), "chosen": name == chosen} for name, one in compiled.items()]
    return render(
        "explorers.rates",
        name="skiplab-anatomy-table",
        title="Compiled here",
        note="spilled: bytes a thread; shared: bytes a block",
        heads=heads,
        rows=rows,
        words=("limited by",),
    )


def _row(name: str, one: Anatomy) -> tuple[str, ...]:
    products = sum(one.mix[kind] for kind in ("wgmma", "tcgen05", "mma", "dp4a"))
    loop = f"{len(one.inner_loop.instructions)}" if one.inner_loop else ""
    sizes = f"{one.registers}", f"{one.spill_bytes:,}", f"{one.shared_bytes:,}", f"{one.occupancy.blocks}"
    return name, *sizes, ", ".join(one.occupancy.limits), f"{products}", loop


def plain(one: Anatomy, label: str) -> str:
    """The kernel in a line of plain text."""
    return f"AnatomyExplorer: {one.name} {label}: {one.told(False).splitlines()[0].partition(': ')[2]}; {one.occupancy}"
