"""The command `skiplab roofs`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from skiplab.cli import options
from skiplab.cli.run import shown
from skiplab.machine import default_device
from skiplab.machine.roofs import Roofs, roofs_path, write_roofs
from skiplab.measure.roofs import measure_roofs
from skiplab.text import digits


def roofs(
    device: options.DeviceOption = None,
    budget: Annotated[float, typer.Option(help="Seconds that each is timed at most, in each way.")] = 1.0,
    out: Annotated[
        Path | None, options.output("--out", help=f"The file. Default: {options.MACHINES}/<device>.json.")
    ] = None,
) -> None:
    """Measure what this device can do at best. Copy, read, product, reads of few megabytes, written to a file."""
    device = device or default_device()
    options.need(device)
    if budget <= 0:
        raise ValueError(f"--budget: got {budget}; allowed is more than 0 seconds")
    measured = measure_roofs(device, budget_s=budget, say=lambda what: typer.echo(f"measuring {what}", err=True))
    path = out or roofs_path(measured.name)
    write_roofs(measured, path)
    typer.echo(table(measured))
    typer.echo(f"roofs: {shown(path)}")


def table(measured: Roofs) -> str:
    """The rates in words, a line each, with where they are from."""
    lines = [f"measured on {measured.name}, {measured.date}"]
    for rate in (measured.copy, measured.read):
        if rate is not None:
            lines.append(f"  {rate.what}: {digits(rate.best / 1e9)} GB/s at best, median {digits(rate.median / 1e9)}")
    for rate in measured.products.values():
        lines.append(f"  {rate.what}: {digits(rate.best / 1e12)} TFLOP/s at best, median {digits(rate.median / 1e12)}")
    for rate in measured.reads:
        lines.append(f"  {rate.what}: {digits(rate.median_us)} µs, {digits(rate.median / 1e9)} GB/s")
    every = [rate for rate in (measured.copy, measured.read, *measured.products.values(), *measured.reads) if rate]
    flags = sorted({flag for rate in every for flag in rate.flags})
    return "\n".join([*lines, f"  flags seen: {', '.join(flags) or 'none'}"])
