"""The text beside the picture of an int4 weight's memory, as HTML: loads, formats, floors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from skiplab.figures import theme
from skiplab.machine import Machine
from skiplab.packed_weight import Access, Packed, Quality, accesses, float_floor, floor, row_accesses, step_loads, total
from skiplab.templates import render
from skiplab.widgets.int4.settings import Int4Settings


def plain(s: Int4Settings) -> str:
    """The state in a line of plain text: format, sizes, and what one step of a warp asks for."""
    asked = accesses(step_loads(s.packed, s.kernel, s.row, s.step, s.scalar))
    whole = total(asked)
    tables = {table.name for table in s.packed.tables}
    metadata = total(tuple(one for one in asked if one.what in tables))
    return (
        f"{s.packed.description}, metadata {s.layout}: {s.packed.bits_per_weight:g} bits a weight. A step of a warp "
        f"needs {whole.bytes:,} bytes and asks for {whole.sectors} sectors ({32 * whole.sectors:,} bytes) in "
        f"{whole.lines} lines; metadata: {metadata.sectors} sectors in {metadata.lines} lines"
    )


def counts(s: Int4Settings) -> str:
    """`plain` as the status line of the explorer."""
    format_, _, rest = plain(s).partition(" A step")
    first, rest = format_, f"A step{rest}."
    return render("explorers.counts", name="skiplab-int4-counts", width="668px", first=first, rest=rest)


def asked(s: Int4Settings) -> str:
    """A table of what a step loads: in the shipped kernel, with strided metadata, with 4-byte loads of activations."""
    ours, theirs = replace(s.packed, strided=False), replace(s.packed, strided=True)
    left = accesses(step_loads(ours, s.kernel, s.row, s.step, False))
    right = accesses(step_loads(theirs, s.kernel, s.row, s.step, True))
    rows = [_asked_row(a, b) for a, b in zip(left, right, strict=True)]
    rows.append(_asked_row(total(left, "the step"), total(right, "the step"), ruled=True, bold=True))
    whole = [total(row_accesses(*way), "a whole row") for way in
             ((ours, s.kernel, s.row, False), (theirs, s.kernel, s.row, True))]  # fmt: skip
    rows.append(_asked_row(whole[0], whole[1], bold=True))
    heads = ("bytes needed", "loads", "sectors", "lines", "loads", "sectors", "lines")
    return render("explorers.int4_asked", heads=heads, rows=rows)


def _asked_row(a: Access, b: Access, ruled: bool = False, bold: bool = False) -> dict[str, Any]:
    """The table's row for one kind of load; what strided metadata changes is highlighted."""
    ours = _numbers(a)
    pairs = list(zip(ours, _numbers(b), strict=True))
    return {"name": a.what, "bytes": f"{a.bytes:,}", "ours": ours, "pairs": pairs, "ruled": ruled, "bold": bold}


def _numbers(access: Access) -> list[str]:
    return [f"{n:,}" for n in (access.loads, access.sectors, access.lines)]


def formats(measured: Iterable[Quality], s: Int4Settings, machine: Machine) -> str:
    """A table of formats: bits a weight, error on a random weight, the layer's floor; the chosen one marked."""
    rows = []
    for one in measured:
        packed = replace(
            s.packed, bits=one.packed.bits, group_size=one.packed.group_size, symmetric=one.packed.symmetric,
            metadata=one.packed.metadata,
        ) if fits(one.packed, s.in_features) else None  # fmt: skip
        rows.append(_format_row(one, packed, machine, packed == s.packed))
    heads = ("format", "bits a weight", "floor", "signal to noise", "")
    return render("explorers.int4_formats", weights=s.weights, heads=heads, rows=rows)


def fits(packed: Packed, in_features: int) -> bool:
    """Whether the format can hold rows of this length."""
    return in_features % (256 if packed.metadata == "uint8" else packed.group_size) == 0


def _format_row(one: Quality, packed: Packed | None, machine: Machine, chosen: bool) -> dict[str, Any]:
    """The table's row for one format."""
    return {
        "name": one.packed.description, "bits": f"{one.packed.bits_per_weight:g}",
        "floor": theme.seconds(floor(packed, machine).seconds) if packed else "does not fit K",
        "noise": f"{one.snr_db:.1f} dB", "colour": theme.BLUE, "width": f"{max(one.snr_db, 0) * 3:.0f}px",
        "chosen": chosen,
    }  # fmt: skip


def prediction(s: Int4Settings, machine: Machine) -> str:
    """The layer's floor on a machine beside that of its bfloat16 weight."""
    ours, floats = floor(s.packed, machine), float_floor(s.packed, machine)
    roof = f"its {machine.source} bandwidth ({machine.bandwidth_gbps:,.0f} GB/s)"
    layer = f"{s.out_features:,} × {s.in_features:,}: {theme.quantity(s.packed.nbytes, 'B')} of weights"
    return render(
        "explorers.int4_prediction", machine=machine.name, layer=f"from {roof}, one token, {layer}",
        ours=theme.seconds(ours.seconds), floats=theme.seconds(floats.seconds),
        gain=theme.ratio(floats.seconds / ours.seconds),
    )  # fmt: skip
