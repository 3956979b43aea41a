"""What stands beside the picture of an int4 weight's memory, as HTML: what is asked for, formats, floors."""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import replace

from skiplab.figures import theme
from skiplab.machine import Machine
from skiplab.memory import Access, Packed, Quality, accesses, float_floor, floor, row_accesses, step_loads, total
from skiplab.widgets.int4_settings import Int4Settings
from skiplab.widgets.words import STYLE

CELL = "padding:1px 7px 1px 0;text-align:right;white-space:nowrap"
RULE = "border-top:1px solid rgba(128,128,128,.5)"
CHOSEN = "background:rgba(128,128,128,.22)"


def plain(s: Int4Settings) -> str:
    """The state in a line of plain text: format, sizes, and what one step of a warp asks for."""
    asked = accesses(step_loads(s.packed, s.kernel, s.row, s.step, s.scalar))
    whole = total(asked)
    tables = {table.name for table in s.packed.tables}
    metadata = total(tuple(one for one in asked if one.what in tables))
    return (
        f"{s.packed.words}, metadata {s.layout}: {s.packed.bits_per_weight:g} bits a weight. A step of a warp needs "
        f"{whole.bytes:,} bytes and asks for {whole.sectors} sectors ({32 * whole.sectors:,} bytes) in {whole.lines} "
        f"lines; metadata: {metadata.sectors} sectors in {metadata.lines} lines"
    )


def counts(s: Int4Settings) -> str:
    """`plain` as the status line of the explorer."""
    format_, _, rest = plain(s).partition(" A step")
    return (
        f'<div class="skiplab-int4-counts" role="status" style="{STYLE};max-width:668px"><b>{html.escape(format_)}</b> '
        f"A step{html.escape(rest)}.</div>"
    )


def asked(s: Int4Settings) -> str:
    """A table of what a step asks for: as the kernel is, beside strided metadata and 4-byte loads of activations."""
    ours, theirs = replace(s.packed, strided=False), replace(s.packed, strided=True)
    left = accesses(step_loads(ours, s.kernel, s.row, s.step, False))
    right = accesses(step_loads(theirs, s.kernel, s.row, s.step, True))
    rows = [_asked_row(a, b) for a, b in zip(left, right, strict=True)]
    rows.append(_asked_row(total(left, "the step"), total(right, "the step"), f"{RULE};font-weight:600"))
    whole = [total(row_accesses(*way), "a whole row") for way in
             ((ours, s.kernel, s.row, False), (theirs, s.kernel, s.row, True))]  # fmt: skip
    rows.append(_asked_row(whole[0], whole[1], "font-weight:600"))
    names = ("bytes needed", "loads", "sectors", "lines", "loads", "sectors", "lines")
    head = "".join(f'<td style="{CELL};opacity:.8">{name}</td>' for name in names)
    return (
        f'<div style="{STYLE};max-width:640px"><b>What one step of a warp asks for</b>, as the kernel is '
        "and as it would be. Each instruction's sectors and lines count, whether a cache holds them or not.</div>"
        f'<table class="skiplab-asked" style="{STYLE};line-height:1.35;margin-top:4px">'
        f'<tr><td></td><td></td><th colspan="3" style="{CELL}">coalesced, 16-byte loads</th>'
        f'<th colspan="3" style="{CELL};padding-left:18px">strided, 4-byte loads</th></tr>'
        f"<tr><td></td>{head}</tr>{''.join(rows)}</table>"
    )


def _asked_row(a: Access, b: Access, style: str = "") -> str:
    ours, theirs = _numbers(a), _numbers(b)
    marked = [f"<b>{other}</b>" if other != own else other for own, other in zip(ours, theirs, strict=True)]
    cells = "".join(f'<td style="{CELL}">{number}</td>' for number in (f"{a.bytes:,}", *ours, *marked))
    return f'<tr style="{style}"><td style="{CELL};text-align:left">{a.what}</td>{cells}</tr>'


def _numbers(access: Access) -> list[str]:
    return [f"{n:,}" for n in (access.loads, access.sectors, access.lines)]


def formats(found: Iterable[Quality], s: Int4Settings, machine: Machine) -> str:
    """A table of formats: bits a weight, error on a random weight, the layer's floor; the chosen one marked."""
    rows = []
    for one in found:
        packed = replace(
            s.packed, bits=one.packed.bits, group_size=one.packed.group_size, symmetric=one.packed.symmetric,
            metadata=one.packed.metadata,
        ) if fits(one.packed, s.in_features) else None  # fmt: skip
        rows.append(_format_row(one, packed, machine, packed == s.packed))
    names = ("format", "bits a weight", "floor", "signal to noise", "")
    head = "".join(f'<th style="{CELL};text-align:{"right" if i else "left"}">{n}</th>' for i, n in enumerate(names))
    style = f"{STYLE};font-size:12px;line-height:1.35"
    said = f"<b>What a format costs in error</b>: {html.escape(s.weights)} random weights, quantised here in each."
    return (
        f'<div style="{STYLE}">{said}</div><table class="skiplab-formats" style="{style}">{head}{"".join(rows)}</table>'
    )


def fits(packed: Packed, in_features: int) -> bool:
    """Whether that format can hold rows of this length."""
    return in_features % (256 if packed.metadata == "uint8" else packed.group_size) == 0


def _format_row(one: Quality, packed: Packed | None, machine: Machine, chosen: bool) -> str:
    bar = f'<div style="background:{theme.BLUE};height:9px;width:{max(one.snr_db, 0) * 3:.0f}px"></div>'
    time = theme.seconds(floor(packed, machine).seconds) if packed else "does not fit K"
    cells = (
        (f"{'▸ ' if chosen else ''}{one.packed.words}", "left"), (f"{one.packed.bits_per_weight:g}", "right"),
        (time, "right"), (f"{one.snr_db:.1f} dB", "right"), (bar, "left"),
    )  # fmt: skip
    style = f' style="{CHOSEN};font-weight:600" aria-current="true"' if chosen else ""
    inside = "".join(f'<td style="{CELL};text-align:{side}">{text}</td>' for text, side in cells)
    return f"<tr{style}>{inside}</tr>"


def prediction(s: Int4Settings, machine: Machine) -> str:
    """The layer's floor on a machine beside that of its bfloat16 weight."""
    ours, floats = floor(s.packed, machine), float_floor(s.packed, machine)
    roof = f"its {machine.source} bandwidth ({machine.bandwidth_gbps:,.0f} GB/s)"
    layer = f"{s.out_features:,} × {s.in_features:,}: {theme.quantity(s.packed.nbytes, 'B')} of weights"
    gain = theme.ratio(floats.seconds / ours.seconds)
    return (
        f'<div class="skiplab-int4-prediction" style="{STYLE};max-width:none;margin:6px 0"><b>Predicted for '
        f"{html.escape(machine.name)}</b> from {roof}, one token, {layer} take at least "
        f"<b>{theme.seconds(ours.seconds)}</b>; in bfloat16 {theme.seconds(floats.seconds)}, <b>{gain}</b> as long. A "
        "floor, not a measurement: launches, rounding the activations and what is asked for twice come on top.</div>"
    )
