"""The command `skiplab linear`."""

from __future__ import annotations

from typing import Annotated

import typer

from skiplab.cli import options
from skiplab.cli.sweep import measure
from skiplab.sweep import LinearSweep, interleaved
from skiplab.workload import LINEARS, model_files, model_of
from skiplab.workload.models import Shape

MODEL_NAMES = ", ".join(model_files())


def linear(
    contender: options.Contenders = None,
    kernels: options.From = None,
    shape: Annotated[
        options.Texts, options.several(help=f"outputs x inputs as 8192x2048,4096x4096, or: {', '.join(LINEARS)}")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help=f"All linear layers of a model, in the shapes' place: {MODEL_NAMES}, or a config.json."),
    ] = None,
    layer: Annotated[options.Texts, options.several(help="Of the model these layers, as qkv,o,gate+up,down")] = None,
    fused: Annotated[
        bool | None,
        typer.Option(
            "--fused/--no-fused",
            help="Of the model qkv and gate+up as one, or each alone. Default: both.",
            show_default=False,
        ),
    ] = None,
    rows: Annotated[options.Texts, options.several(help="Rows of activations, as 1,2,4", default="1")] = None,
    bits: Annotated[options.Texts, options.several(help="4 or 8", default="4")] = None,
    group_size: Annotated[options.Texts, options.several(help="32, 64 or 128", default="32")] = None,
    symmetric: Annotated[bool, typer.Option("--symmetric", help="Without zero points.")] = False,
    dtype: options.Dtype = "bfloat16",
    device: options.DeviceOption = None,
    devices: options.Devices = None,
    cluster: options.Cluster = None,
    gpu: options.Gpu = None,
    seed: options.Seed = 0,
    budget: options.Budget = 5.0,
    interleave: options.Interleave = None,
    run: options.NewRun = None,
    report: options.Html = None,
    table: options.Tables = None,
    again: options.Again = None,
    fresh: options.Fresh = False,
) -> None:
    """Measure quantised linear layers over shapes and rows. Prints the table, writes the run and one HTML.

    As `skiplab sweep`. Each contender is compared with the float64 product of its own operands.

    \b
    Example:
      skiplab linear --model gemma4-31b --fused --rows 1,64
    """
    where = options.where(device, devices, cluster, gpu)
    defaults = LinearSweep()
    shapes = _shapes(options.words("--shape", shape), model, options.words("--layer", layer), fused)
    wanted = LinearSweep(
        options.words("--contender", contender) or defaults.contenders, shapes or defaults.shape,
        options.numbers("--rows", rows) or defaults.rows, options.numbers("--bits", bits) or defaults.bits,
        options.numbers("--group-size", group_size) or defaults.group_size, symmetric, dtype, where.device, seed,
        budget, interleaved(interleave, where.device),
    )  # fmt: skip
    measure(wanted, where, run, report, table, again, fresh)


def _shapes(shape: tuple[str, ...], model: str | None, layer: tuple[str, ...], fused: bool | None) -> tuple[Shape, ...]:
    """The shapes given, or the model's; none without either. ValueError where options contradict each other."""
    if model is None:
        for option, given in (("--layer", layer), ("--fused/--no-fused", fused)):
            if given not in (None, ()):
                raise ValueError(f"{option}: chooses among a model's layers; name one, as --model gemma4-31b")
        return tuple(map(layer_of, shape))
    if shape:
        raise ValueError(f"--shape: got {shape[0]} beside --model {model}, which has its own; give one of them")
    return model_of(model).chosen(layer, fused)


def layer_of(text: str) -> Shape:
    """(outputs, inputs) of a layer as the command line has it: a name, or as 8192x2048."""
    if text in LINEARS:
        return LINEARS[text]
    outputs, _, inputs = text.partition("x")
    if not (outputs.isdecimal() and inputs.isdecimal()):
        raise ValueError(f"--shape: got {text!r}; allowed are outputs x inputs as 8192x2048, and {', '.join(LINEARS)}")
    return int(outputs), int(inputs)


COMMAND = linear
