"""The commands `skiplab tune`, `tune decode` and `tune linear`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import blockskip as bs
import typer
from blockskip.linear.packing import PACKINGS
from typer.core import TyperGroup

from skiplab.cli import options
from skiplab.cli.linear import layer_of
from skiplab.cli.run import INTERRUPTED, interrupts, shown
from skiplab.cli.sweep import window_of
from skiplab.measure.timing import Cancelled
from skiplab.store import Run, read_run
from skiplab.tuning.attention import Tuning
from skiplab.tuning.base import AnyTuning
from skiplab.tuning.decode import DecodeTuning
from skiplab.tuning.files import write_configs
from skiplab.tuning.linear import SHAPES, LinearTuning
from skiplab.tuning.tune import SPILL_BYTES
from skiplab.tuning.tune import tune as run_tuning
from skiplab.tuning.winners import summary
from skiplab.workload import LINEARS

DEFAULTS, DECODE, LINEAR = Tuning(), DecodeTuning(), LinearTuning()
HEADS = ("32/8x128", "32/16x256", "32/4x512")

HeadsOption = Annotated[
    list[str] | None,
    typer.Option(help=f"query heads/key heads x head size, once for each. Default: {', '.join(HEADS)}."),
]
CudaDevice = Annotated[str, typer.Option(help="cuda or cuda:1.")]
Budget = Annotated[float, typer.Option(help="Seconds a candidate is timed at most, in each of three ways.")]
Limit = Annotated[float, typer.Option(help="Seconds for all, compiling included.")]
Jobs = Annotated[int | None, typer.Option(help="Processes that compile. Default: one a processor.")]
Spills = Annotated[int, typer.Option(help="Bytes that a candidate's thread may spill.")]
FromRun = Annotated[
    list[Path] | None,
    typer.Option(help="Measure nothing: the winners of this tuning run, once for each. Needs no GPU."),
]
Out = Annotated[Path | None, typer.Option(help=f"The folder of the configurations. Default: {options.CONFIGS}.")]


class DefaultGroup(TyperGroup):
    """A command group that runs its first command if none is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        first = next(iter(self.commands))
        named = bool(args) and (args[0] in self.commands or args[0] == "--help")
        return super().parse_args(ctx, args if named else [first, *args])


app = typer.Typer(
    cls=DefaultGroup,
    rich_markup_mode=None,
    help="Find with what a GPU runs our kernels fastest. Writes configs/<device>.json, which calls there take: "
    "a section a command. Without a command: attention.",
)


@app.command()
def attention(
    heads: HeadsOption = None,
    mask: Annotated[
        list[str] | None,
        typer.Option(
            help="`causal`, a window, or a mask's text, once for each. Default: causal, 1024, and 1024 with sinks."
        ),
    ] = None,
    q_len: Annotated[
        list[int] | None,
        typer.Option(help=f"Prompt length, once for each. Default: {', '.join(map(str, DEFAULTS.q_len))}."),
    ] = None,
    config: Annotated[
        list[str] | None,
        typer.Option(help="Of these alone: block_m x block_n x warps x stages, as 128x64x8x2. Default: all promising."),
    ] = None,
    dtype: options.Dtype = DEFAULTS.dtype,
    device: CudaDevice = DEFAULTS.device,
    seed: options.Seed = 0,
    budget: Budget = DEFAULTS.budget_s,
    limit: Limit = 480.0,
    jobs: Jobs = None,
    spills: Spills = SPILL_BYTES,
    run: options.NewRun = None,
    from_run: FromRun = None,
    out: Out = None,
) -> None:
    """Find the tiles that a GPU runs prefill fastest with. Writes configs/<device>.json, which calls there then take.

    Candidates are compiled in parallel, checked against float64 and timed; the run holds all of them, the wrong too.
    Each shape of heads has its own run. Interrupt it and give the same command again: it goes on. Example:
    skiplab tune --heads 32/16x256 --mask 1024
    """
    masks, lengths = tuple(map(_mask, mask or DEFAULTS.mask)), tuple(q_len or DEFAULTS.q_len)
    configs = tuple(map(_config, config)) if config else None
    wanted = [Tuning(one, masks, lengths, configs, dtype, device, seed, budget) for one in heads or HEADS]
    _tune(wanted, from_run, run, jobs, spills, limit, out)


@app.command()
def decode(
    heads: HeadsOption = None,
    kv_len: Annotated[
        list[int] | None,
        typer.Option(help=f"Keys, once for each. Default: {', '.join(map(str, DECODE.kv_len))}."),
    ] = None,
    window: options.Windows = None,
    q_len: Annotated[list[int] | None, typer.Option(help="Queries at once, once for each. Default: 1.")] = None,
    dtype: options.Dtype = DECODE.dtype,
    device: CudaDevice = DECODE.device,
    seed: options.Seed = 0,
    budget: Budget = DECODE.budget_s,
    limit: Limit = 480.0,
    jobs: Jobs = None,
    spills: Spills = SPILL_BYTES,
    run: options.NewRun = None,
    from_run: FromRun = None,
    out: Out = None,
) -> None:
    """Find the tiles that a GPU runs decode fastest with, by head size and rows of a program (queries x group).

    As `skiplab tune`. Shares of the keys follow the kernel's own rule. Example: skiplab tune decode --heads 32/8x128
    """
    windows = tuple(map(window_of, window)) if window else DECODE.window
    axes = tuple(kv_len or DECODE.kv_len), windows, tuple(q_len or DECODE.q_len)
    wanted = [DecodeTuning(one, *axes, dtype, device, seed, budget) for one in heads or HEADS]
    _tune(wanted, from_run, run, jobs, spills, limit, out)


@app.command()
def linear(
    shape: Annotated[
        list[str] | None,
        typer.Option(
            help=f"outputs x inputs as 8192x2048, or: {', '.join(LINEARS)}. Once for each. Default: {len(SHAPES)} "
            "layers of several models; others take the nearest."
        ),
    ] = None,
    rows: Annotated[
        list[int] | None, typer.Option(help="Rows of activations, once for each. Default: 1 to 8, and 16 to 2048.")
    ] = None,
    bits: Annotated[list[int] | None, typer.Option(help="4 or 8, once for each. Default: both.")] = None,
    group_size: Annotated[list[int] | None, typer.Option(help="32, 64 or 128, once for each. Default: 32.")] = None,
    symmetric: Annotated[bool, typer.Option("--symmetric", help="Without zero points.")] = False,
    packing: Annotated[
        list[str] | None, typer.Option(help="rows or tiles, once for each. Default: both, where weights can lie so.")
    ] = None,
    dtype: options.Dtype = LINEAR.dtype,
    device: CudaDevice = LINEAR.device,
    seed: options.Seed = 0,
    budget: Budget = LINEAR.budget_s,
    limit: Limit = 480.0,
    jobs: Jobs = None,
    spills: Spills = SPILL_BYTES,
    run: options.NewRun = None,
    from_run: FromRun = None,
    out: Out = None,
) -> None:
    """Find with which kernel a GPU runs quantised linear layers fastest, and its sizes, by shape and rows.

    As `skiplab tune`. Each form of weight (bits, group size, packing) has its own run. Example:
    skiplab tune linear --shape 4096x4096 --rows 1 --rows 64 --bits 4
    """
    shapes, lengths = tuple(map(layer_of, shape)) if shape else None, tuple(rows or LINEAR.rows)
    rest = {"rows": lengths, "symmetric": symmetric, "dtype": dtype, "device": device, "seed": seed, "budget_s": budget}
    every = bits or ((4,) if packing == ["tiles"] else (4, 8))  # tiles hold int4
    wanted = [
        LinearTuning(_fitting(shapes, b, group, packing, p), bits=b, group_size=group, packing=p, **rest)
        for b, p, group in product(every, packing or PACKINGS, group_size or (LINEAR.group_size,))
        if packing or p == "rows" or _fitting(shapes or SHAPES, b, group, packing, p)
    ]
    _tune(wanted, from_run, run, jobs, spills, limit, out)


Shapes = tuple[tuple[int, int], ...]


def _fitting(shapes: Shapes | None, bits: int, group_size: int, named: list[str] | None, packing: str) -> Shapes | None:
    """The shapes that weights in this packing can have; all if the user named them, so that errors are reported."""
    if shapes is None or named or packing == "rows":
        return shapes
    form = LinearTuning(bits=bits, group_size=group_size)
    return tuple(one for one in shapes if form.refusal(*one, packing) is None)


def _tune(
    wanted: Sequence[AnyTuning],
    from_run: list[Path] | None,
    path: Path | None,
    jobs: int | None,
    spills: int,
    limit_s: float,
    out: Path | None,
) -> None:
    """Tune, or use the runs that are named; write the winners and show them."""
    if from_run:
        runs, interrupted = [read_run(one) for one in from_run], False
    else:
        if path is not None and len(wanted) > 1:
            names = "; ".join(one.name() for one in wanted)
            raise ValueError(f"--run: names one file, and each of these {len(wanted)} has its own; name one: {names}")
        runs, interrupted = _tuned(wanted, path, jobs, spills, limit_s)
    written = write_configs(runs, out)
    typer.echo(f"\n{runs[0].provenance}: the winners, and the times of what is taken untuned\n\n{summary(runs)}")
    typer.echo(f"configs: {shown(written)}")
    if interrupted:
        raise typer.Exit(INTERRUPTED)


def _tuned(
    wanted: Sequence[AnyTuning], path: Path | None, jobs: int | None, spills: int, limit_s: float
) -> tuple[list[Run], bool]:
    """A run for each, until Ctrl-C or the time limit; and whether Ctrl-C ended them."""
    runs, end = [], time.monotonic() + limit_s
    with interrupts() as interrupted:
        for one in wanted:
            typer.echo(f"{one.name()}:")
            limits = {"limit_s": end - time.monotonic(), "cancelled": interrupted}
            try:
                runs.append(run_tuning(one, path, jobs=jobs, spills=spills, say=typer.echo, **limits))
            except Cancelled:
                typer.echo("Stopped before anything was timed; the same command goes on.")
                break
            assert runs[-1].path is not None
            typer.echo(f"run: {shown(runs[-1].path)}")
    if interrupted() and not runs:
        raise typer.Exit(INTERRUPTED)
    if not runs:
        raise ValueError("--limit: nothing was timed in that time")
    return runs, interrupted()


def _mask(text: str) -> str:
    """A mask's text: `causal`, a window, or what `Mask.from_spec` reads."""
    if text.isdecimal():
        text = f"sliding_window({text})"
    mask = bs.causal() if text == "causal" else bs.Mask.from_spec(text)
    spec = mask.spec()
    assert isinstance(spec, str)
    return spec


def _config(text: str) -> tuple[int, ...]:
    parts = text.split("x")
    if len(parts) != 4 or not all(map(str.isdecimal, parts)):
        raise ValueError(f"--config: got {text!r}; allowed is block_m x block_n x warps x stages, as 128x64x8x2")
    return tuple(map(int, parts))
