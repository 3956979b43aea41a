"""The command `skiplab linear`."""

from __future__ import annotations

from typing import Annotated

import typer

from skiplab.cli import options
from skiplab.cli.sweep import measure
from skiplab.sweep import LinearSweep
from skiplab.workload import LINEARS, model_files, model_of
from skiplab.workload.models import Shape

MODEL_NAMES = ", ".join(model_files())


def linear(
    contender: options.Contenders = None,
    shape: Annotated[
        list[str] | None, typer.Option(help=f"outputs x inputs as 8192x2048, or: {', '.join(LINEARS)}. Once for each.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help=f"All linear layers of a model, in the shapes' place: {MODEL_NAMES}, or a config.json."),
    ] = None,
    layer: Annotated[
        list[str] | None, typer.Option(help="Of the model this layer, as qkv, o, gate+up, down; once for each.")
    ] = None,
    fused: Annotated[
        bool | None,
        typer.Option(
            "--fused/--no-fused",
            help="Of the model qkv and gate+up as one, or each alone. Default: both.",
            show_default=False,
        ),
    ] = None,
    rows: Annotated[list[int] | None, typer.Option(help="Rows of activations, once for each. Default: 1.")] = None,
    bits: Annotated[list[int] | None, typer.Option(help="4 or 8, once for each. Default: 4.")] = None,
    group_size: Annotated[list[int] | None, typer.Option(help="32, 64 or 128, once for each. Default: 32.")] = None,
    symmetric: Annotated[bool, typer.Option("--symmetric", help="Without zero points.")] = False,
    dtype: options.Dtype = "bfloat16",
    device: options.DeviceOption = None,
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
    skiplab linear --model gemma4-31b --fused --rows 1 --rows 64
    """
    measured_on = options.devices_of(device, devices)
    defaults = LinearSweep()
    shapes = _shapes(shape, model, layer, fused) or defaults.shape
    wanted = LinearSweep(
        tuple(contender or defaults.contenders), shapes,
        tuple(rows or defaults.rows), tuple(bits or defaults.bits), tuple(group_size or defaults.group_size), symmetric,
        dtype, measured_on[0], seed, budget,
    )  # fmt: skip
    measure(wanted, run, report, again, fresh, measured_on)


def _shapes(
    shape: list[str] | None, model: str | None, layer: list[str] | None, fused: bool | None
) -> tuple[Shape, ...]:
    """The shapes given, or the model's; none without either. ValueError where options contradict each other."""
    if model is None:
        for option, given in (("--layer", layer), ("--fused/--no-fused", fused)):
            if given not in (None, []):
                raise ValueError(f"{option}: chooses among a model's layers; name one, as --model gemma4-31b")
        return tuple(map(layer_of, shape or ()))
    if shape:
        raise ValueError(f"--shape: got {shape[0]} beside --model {model}, which has its own; give one of them")
    return model_of(model).chosen(tuple(layer or ()), fused)


def layer_of(text: str) -> Shape:
    """(outputs, inputs) of a layer as the command line has it: a name, or as 8192x2048."""
    if text in LINEARS:
        return LINEARS[text]
    outputs, _, inputs = text.partition("x")
    if not (outputs.isdecimal() and inputs.isdecimal()):
        raise ValueError(f"--shape: got {text!r}; allowed are outputs x inputs as 8192x2048, and {', '.join(LINEARS)}")
    return int(outputs), int(inputs)


COMMAND = linear
