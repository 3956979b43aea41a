"""The commands that measure: `skiplab sweep`, `decode` and `linear`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from skiplab.cli import options
from skiplab.cli.run import end_as_interrupted, need, show, swept, unused, write_report
from skiplab.grid import AnySweep, DecodeSweep, LinearSweep, Sweep
from skiplab.machine import default_device
from skiplab.sweep import default_path, mask_text
from skiplab.workload import LINEARS, MODELS

HEADS = {"q_heads": 8, "kv_heads": 8, "head_dim": 128}
"""Those of a sweep that names none."""


def sweep(
    contender: options.Contenders = None,
    q_len: Annotated[list[int] | None, typer.Option(help="Prompt length, once for each. Default: 512 to 4096.")] = None,
    window: options.Windows = None,
    mask: options.Masks = None,
    buffer: options.PromptBuffer = None,
    model: options.Model = None,
    batch: options.Batch = 1,
    q_heads: options.QueryHeads = HEADS["q_heads"],
    kv_heads: options.KeyHeads = HEADS["kv_heads"],
    head_dim: options.HeadDim = HEADS["head_dim"],
    dtype: options.Dtype = "bfloat16",
    device: options.Device = None,
    seed: options.Seed = 0,
    budget: options.Budget = 5.0,
    run: options.NewRun = None,
    report: options.Html = None,
    again: options.Again = None,
    fresh: options.Fresh = False,
) -> None:
    """Measure prefill over prompt lengths and windows or masks. Prints the table, writes the run and one HTML.

    Every result is compared with attention in float64 before and after it is timed. Interrupt it with Ctrl-C and give
    the same command again: it goes on. Example: skiplab sweep --q-len 1024 --window 256 --window causal
    """
    defaults = Sweep()
    windows = tuple(map(window_of, window)) if window else None if mask else defaults.window
    wanted = Sweep(
        tuple(contender or defaults.contenders), tuple(q_len or defaults.q_len),
        windows, batch, dtype=dtype, buffer=buffer, mask=tuple(map(mask_text, mask)) if mask else None,
        device=device or default_device(), seed=seed, budget_s=budget, **heads_of(model, q_heads, kv_heads, head_dim),
    )  # fmt: skip
    _sweep(wanted, run, report, again, fresh)


def decode(
    contender: options.Contenders = None,
    kv_len: Annotated[
        list[int] | None, typer.Option(help="Keys in the cache, once for each. Default: 256 to 16384.")
    ] = None,
    window: options.Windows = None,
    q_len: Annotated[int, typer.Option(help="New tokens in one step, 1 to 8.")] = 1,
    buffer: Annotated[int | None, typer.Option(help="Slots of the cache. Default: as many as keys.")] = None,
    model: options.Model = None,
    batch: options.Batch = 1,
    q_heads: options.QueryHeads = HEADS["q_heads"],
    kv_heads: options.KeyHeads = HEADS["kv_heads"],
    head_dim: options.HeadDim = HEADS["head_dim"],
    dtype: options.Dtype = "bfloat16",
    device: options.Device = None,
    seed: options.Seed = 0,
    budget: options.Budget = 5.0,
    run: options.NewRun = None,
    report: options.Html = None,
    again: options.Again = None,
    fresh: options.Fresh = False,
) -> None:
    """Measure decode steps over keys and windows. Prints the table, writes the run and one HTML.

    As `skiplab sweep`, for one to eight new tokens over a cache. Example: skiplab decode --kv-len 4096 --window 1024
    """
    defaults = DecodeSweep()
    wanted = DecodeSweep(
        tuple(contender or defaults.contenders), tuple(kv_len or defaults.kv_len),
        tuple(map(window_of, window)) if window else defaults.window, q_len, batch, dtype=dtype, buffer=buffer,
        device=device or default_device(), seed=seed, budget_s=budget, **heads_of(model, q_heads, kv_heads, head_dim),
    )  # fmt: skip
    _sweep(wanted, run, report, again, fresh)


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
    defaults = LinearSweep()
    wanted = LinearSweep(
        tuple(contender or defaults.contenders), tuple(map(_layer, shape)) if shape else defaults.shape,
        tuple(rows or defaults.rows), tuple(bits or defaults.bits), tuple(group_size or defaults.group_size), symmetric,
        dtype, device or default_device(), seed, budget,
    )  # fmt: skip
    _sweep(wanted, run, report, again, fresh)


def _sweep(wanted: AnySweep, run: Path | None, report: Path | None, again: list[str] | None, fresh: bool) -> None:
    need(wanted.device)
    path = run or default_path(wanted, wanted.operation)
    if fresh and run is None:
        path = unused(path)
    done = swept(wanted, path, tuple(again or ()))
    show(done)
    end_as_interrupted(done)
    write_report(done, report or Path("out") / f"{path.stem}.html")


def heads_of(model: str | None, q_heads: int, kv_heads: int, head_dim: int) -> dict[str, int]:
    """The model's heads where one is named, else those given; ValueError for other numbers beside a model."""
    given = {"q_heads": q_heads, "kv_heads": kv_heads, "head_dim": head_dim}
    if model is None:
        return given
    if changed := [name for name in given if given[name] != HEADS[name]]:
        option = f"--{changed[0].replace('_', '-')}"
        raise ValueError(
            f"{option}: got {given[changed[0]]} beside --model {model}, which has its own; give one of them"
        )
    if model not in MODELS:
        raise ValueError(f"--model: no {model!r}; there are {', '.join(MODELS)}")
    heads = MODELS[model]
    return {"q_heads": heads.q_heads, "kv_heads": heads.kv_heads, "head_dim": heads.head_dim}


def _layer(text: str) -> tuple[int, int]:
    if text in LINEARS:
        return LINEARS[text]
    outputs, _, inputs = text.partition("x")
    if not (outputs.isdecimal() and inputs.isdecimal()):
        raise ValueError(f"--shape: got {text!r}; allowed are outputs x inputs as 8192x2048, and {', '.join(LINEARS)}")
    return int(outputs), int(inputs)


def window_of(text: str) -> int | None:
    """A window as the command line has it: a number, or None for `causal`."""
    if text == "causal":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"--window: got {text!r}; allowed are `causal` and whole numbers of at least 1")
    return int(text)
