"""The commands `skiplab tune`, `tune decode`, `tune linear` and `tune kernel`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Annotated

import blockskip as bs
import typer
from blockskip.linear.packing import PACKINGS

from skiplab.cli import options
from skiplab.cli.anatomy import numbers_of
from skiplab.cli.command import Command, DefaultGroup
from skiplab.cli.linear import layer_of
from skiplab.cli.run import INTERRUPTED, end_as_interrupted, interrupts, shown
from skiplab.cli.sweep import windows_of
from skiplab.measure.timing import Cancelled
from skiplab.operations import DEFAULT_OPERATION
from skiplab.store import Run, read_run
from skiplab.tuning.attention import Tuning
from skiplab.tuning.base import AnyTuning
from skiplab.tuning.decode import DecodeTuning
from skiplab.tuning.files import write_configs
from skiplab.tuning.linear import SHAPES, LinearTuning
from skiplab.tuning.own import KernelTuning, tuned
from skiplab.tuning.tune import SPILL_BYTES
from skiplab.tuning.tune import tune as run_tuning
from skiplab.tuning.winners import summary
from skiplab.workload import LINEARS

DEFAULTS, DECODE, LINEAR = Tuning(), DecodeTuning(), LinearTuning()
HEADS = ("32/8x128", "32/16x256", "32/4x512")

HeadsOption = Annotated[
    options.Texts, options.several(help="query heads/key heads x head size", default=", ".join(HEADS))
]
CudaDevice = Annotated[str, typer.Option(help="cuda or cuda:1.")]


def _one_gpu(texts: options.Texts) -> options.Texts:
    """Refuse --devices, and say what several GPUs are used by."""
    if texts:
        raise ValueError(
            f"--devices: got {','.join(texts)}; candidates are timed in a race on one GPU, where slow ones drop out. "
            "Name it by --device, and let each GPU tune other shapes: a command each, with its own --heads or --shape"
        )
    return texts


OneGpu = Annotated[
    options.Texts, options.several("--devices", help="Not here, and it says why", callback=_one_gpu, hidden=True)
]
Budget = Annotated[
    float,
    typer.Option(
        help="Seconds that a candidate is timed at most, in each way: alone, in a CUDA graph, with warm caches."
    ),
]
Limit = Annotated[float, typer.Option(help="Seconds for all, compiling included.")]
Jobs = Annotated[int | None, typer.Option(help="Processes that compile. Default: one a processor.")]
Spills = Annotated[int, typer.Option(help="Bytes that a candidate's thread may spill.")]
FromRun = Annotated[
    options.Texts, options.several(help="Measure nothing: the winners of these tuning runs, which needs no GPU")
]
NewRun = Annotated[Path | None, options.output("--run", help=options.RUN_HELP)]
Out = Annotated[Path | None, typer.Option(help=f"The folder of the configurations. Default: {options.CONFIGS}.")]


app = typer.Typer(
    cls=DefaultGroup,
    rich_markup_mode=None,
    help="Find with what a GPU runs our kernels fastest. Writes configs/<device>.json, which calls there take: "
    "a section a command. Without a command: attention.",
)


@app.command(cls=Command)
def attention(
    heads: HeadsOption = None,
    mask: Annotated[
        options.Texts,
        options.several(help="`causal`, a window, or a mask's text", default="causal, 1024, and 1024 with sinks"),
    ] = None,
    q_len: Annotated[
        options.Texts, options.several(help="Prompt lengths", default=", ".join(map(str, DEFAULTS.q_len)))
    ] = None,
    config: Annotated[
        options.Texts,
        options.several(
            help="Of these alone: block_m x block_n x warps x stages, as 128x64x8x2", default="all promising"
        ),
    ] = None,
    dtype: options.Dtype = DEFAULTS.dtype,
    device: CudaDevice = DEFAULTS.device,
    devices: OneGpu = None,
    seed: options.Seed = 0,
    budget: Budget = DEFAULTS.budget_s,
    limit: Limit = 480.0,
    jobs: Jobs = None,
    spills: Spills = SPILL_BYTES,
    run: NewRun = None,
    from_run: FromRun = None,
    out: Out = None,
) -> None:
    """Find the tiles that a GPU runs prefill fastest with. Writes configs/<device>.json, which calls there then take.

    Candidates are compiled in parallel, checked against float64 and timed; the run holds all of them, the wrong too.
    Each shape of heads has its own run. Interrupt it and give the same command again: it goes on.

    \b
    Example:
      skiplab tune --heads 32/16x256 --mask 1024
    """
    masks = tuple(map(_mask, options.words("--mask", mask) or DEFAULTS.mask))
    lengths = options.numbers("--q-len", q_len) or DEFAULTS.q_len
    configs = tuple(map(_config, options.words("--config", config))) or None
    shapes = options.words("--heads", heads) or HEADS
    wanted = [Tuning(one, masks, lengths, configs, dtype, device, seed, budget) for one in shapes]
    _tune(wanted, from_run, run, jobs, spills, limit, out)


@app.command(cls=Command)
def decode(
    heads: HeadsOption = None,
    kv_len: Annotated[options.Texts, options.several(help="Keys", default=", ".join(map(str, DECODE.kv_len)))] = None,
    window: options.Windows = None,
    q_len: Annotated[options.Texts, options.several(help="Queries at once", default="1")] = None,
    dtype: options.Dtype = DECODE.dtype,
    device: CudaDevice = DECODE.device,
    devices: OneGpu = None,
    seed: options.Seed = 0,
    budget: Budget = DECODE.budget_s,
    limit: Limit = 480.0,
    jobs: Jobs = None,
    spills: Spills = SPILL_BYTES,
    run: NewRun = None,
    from_run: FromRun = None,
    out: Out = None,
) -> None:
    """Find the tiles that a GPU runs decode fastest with, by head size and rows of a program (queries x group).

    As `skiplab tune`. Into how many shares the keys are divided is not tuned: a rule decides.

    \b
    Example:
      skiplab tune decode --heads 32/8x128
    """
    keys, queries = options.numbers("--kv-len", kv_len), options.numbers("--q-len", q_len)
    axes = keys or DECODE.kv_len, windows_of(window) or DECODE.window, queries or DECODE.q_len
    shapes = options.words("--heads", heads) or HEADS
    wanted = [DecodeTuning(one, *axes, dtype, device, seed, budget) for one in shapes]
    _tune(wanted, from_run, run, jobs, spills, limit, out)


@app.command(cls=Command)
def linear(
    shape: Annotated[
        options.Texts,
        options.several(
            help=f"outputs x inputs as 8192x2048, or: {', '.join(LINEARS)}",
            default=f"{len(SHAPES)} layers of several models; others take the nearest",
        ),
    ] = None,
    rows: Annotated[
        options.Texts, options.several(help="Rows of activations", default="1 to 8, and 16 to 2048")
    ] = None,
    bits: Annotated[options.Texts, options.several(help="4 or 8", default="4,8")] = None,
    group_size: Annotated[options.Texts, options.several(help="32, 64 or 128", default="32")] = None,
    symmetric: Annotated[bool, typer.Option("--symmetric", help="Without zero points.")] = False,
    packing: Annotated[
        options.Texts, options.several(help="rows or tiles", default="both, where weights can lie so")
    ] = None,
    dtype: options.Dtype = LINEAR.dtype,
    device: CudaDevice = LINEAR.device,
    devices: OneGpu = None,
    seed: options.Seed = 0,
    budget: Budget = LINEAR.budget_s,
    limit: Limit = 480.0,
    jobs: Jobs = None,
    spills: Spills = SPILL_BYTES,
    run: NewRun = None,
    from_run: FromRun = None,
    out: Out = None,
) -> None:
    """Find with which kernel a GPU runs quantised linear layers fastest, and its sizes, by shape and rows.

    As `skiplab tune`. Each form of weight (bits, group size, packing) has its own run.

    \b
    Example:
      skiplab tune linear --shape 4096x4096 --rows 1,64 --bits 4
    """
    shapes = tuple(map(layer_of, options.words("--shape", shape))) or None
    packings, groups = options.words("--packing", packing), options.numbers("--group-size", group_size)
    lengths = options.numbers("--rows", rows) or LINEAR.rows
    rest = {"rows": lengths, "symmetric": symmetric, "dtype": dtype, "device": device, "seed": seed, "budget_s": budget}
    every = options.numbers("--bits", bits) or ((4,) if packings == ("tiles",) else (4, 8))  # tiles hold int4
    wanted = [
        LinearTuning(_fitting(shapes, b, group, packings, p), bits=b, group_size=group, packing=p, **rest)
        for b, p, group in product(every, packings or PACKINGS, groups or (LINEAR.group_size,))
        if packings or p == "rows" or _fitting(shapes or SHAPES, b, group, packings, p)
    ]
    _tune(wanted, from_run, run, jobs, spills, limit, out)


@app.command(cls=Command)
def kernel(
    name: Annotated[str, typer.Argument(help="Your kernel, as @skiplab.kernel names it.", metavar="NAME")],
    kernels: options.From = None,
    operation: options.OperationOption = DEFAULT_OPERATION,
    at: Annotated[
        list[str] | None,
        typer.Option("--at", help="Where, as q_len=512,1024 or window=256; once for each axis.", metavar=options.AXIS),
    ] = None,
    config: Annotated[
        options.Texts, options.several(help="Of these alone, as 64x4, in the order of its configs", default="all")
    ] = None,
    device: options.DeviceOption = None,
    devices: options.Devices = None,
    cluster: options.Cluster = None,
    gpu: options.Gpu = None,
    limit: Limit = 480.0,
    run: options.NewRun = None,
) -> None:
    """Find the fastest of your own kernel's configs, on any device. Writes a run, and nothing else.

    Every config is checked and timed on every workload, those of a workload on one device.

    \b
    Example:
      skiplab tune kernel mine --from mine.py --at q_len=512
    """
    where = options.where(device, devices, cluster, gpu)
    wanted = KernelTuning(
        name, operation, options.pairs("--at", at), tuple(map(numbers_of, options.words("--config", config))) or None,
        where.device,
    )  # fmt: skip
    with interrupts() as interrupted:
        done = tuned(wanted, run, where, limit_s=limit, cancelled=interrupted, say=typer.echo)
    typer.echo(f"\n{done}\nrun: {shown(done.run.path or Path())}")
    end_as_interrupted(done.run)
    typer.echo("fastest: " + " ".join(f"{key}={value}" for key, value in done.best.items()))


Shapes = tuple[tuple[int, int], ...]


def _fitting(shapes: Shapes | None, bits: int, group_size: int, named: tuple[str, ...], packing: str) -> Shapes | None:
    """The shapes that weights in this packing can have; all if the user named them, so that errors are reported."""
    if shapes is None or named or packing == "rows":
        return shapes
    form = LinearTuning(bits=bits, group_size=group_size)
    return tuple(one for one in shapes if form.refusal(*one, packing) is None)


def _tune(
    wanted: Sequence[AnyTuning],
    from_run: options.Texts,
    path: Path | None,
    jobs: int | None,
    spills: int,
    limit_s: float,
    out: Path | None,
) -> None:
    """Tune, or use the runs that are named; write the winners and show them."""
    if recorded := options.paths("--from-run", from_run):
        runs, interrupted = [read_run(one) for one in recorded], False
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
