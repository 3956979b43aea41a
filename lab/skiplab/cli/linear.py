"""The command `skiplab linear`."""

from __future__ import annotations

from typing import Annotated

import typer

from skiplab.cli import options
from skiplab.cli.sweep import measure
from skiplab.sweep import LinearSweep
from skiplab.workload import LINEARS


def linear(
    contender: options.Contenders = None,
    shape: Annotated[
        list[str] | None, typer.Option(help=f"outputs x inputs as 8192x2048, or: {', '.join(LINEARS)}. Once for each.")
    ] = None,
    rows: Annotated[list[int] | None, typer.Option(help="Rows of activations, once for each. Default: 1.")] = None,
    bits: Annotated[list[int] | None, typer.Option(help="4 or 8, once for each. Default: 4.")] = None,
    group_size: Annotated[list[int] | None, typer.Option(help="32, 64 or 128, once for each. Default: 32.")] = None,
    symmetric: Annotated[bool, typer.Option("--symmetric", help="Without zero points.")] = False,
    dtype: options.Dtype = "bfloat16",
    device: options.Device = None,
    devices: options.Devices = None,
    seed: options.Seed = 0,
    budget: options.Budget = 5.0,
    run: options.NewRun = None,
    report: options.Html = None,
    again: options.Again = None,
    fresh: options.Fresh = False,
) -> None:
    """Measure quantised linear layers over shapes and rows. Prints the table, writes the run and one HTML.

    As `skiplab sweep`. Each contender is compared with the float64 product of its own operands. Example:
    skiplab linear --shape 4096x4096 --rows 1 --rows 8
    """
    measured_on = options.devices_of(device, devices)
    defaults = LinearSweep()
    wanted = LinearSweep(
        tuple(contender or defaults.contenders), tuple(map(layer_of, shape)) if shape else defaults.shape,
        tuple(rows or defaults.rows), tuple(bits or defaults.bits), tuple(group_size or defaults.group_size), symmetric,
        dtype, measured_on[0], seed, budget,
    )  # fmt: skip
    measure(wanted, run, report, again, fresh, measured_on)


def layer_of(text: str) -> tuple[int, int]:
    """(outputs, inputs) of a layer as the command line has it: a name, or as 8192x2048."""
    if text in LINEARS:
        return LINEARS[text]
    outputs, _, inputs = text.partition("x")
    if not (outputs.isdecimal() and inputs.isdecimal()):
        raise ValueError(f"--shape: got {text!r}; allowed are outputs x inputs as 8192x2048, and {', '.join(LINEARS)}")
    return int(outputs), int(inputs)


COMMAND = linear
