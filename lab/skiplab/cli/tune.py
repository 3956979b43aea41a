"""The command `skiplab tune`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import blockskip as bs
import typer
from blockskip.tuned import CONFIGS

from skiplab.cli import options
from skiplab.cli.run import INTERRUPTED, interrupts, shown
from skiplab.measure.timing import Cancelled
from skiplab.store import Run, read_run
from skiplab.tuning.tune import SPILL_BYTES, Tuning
from skiplab.tuning.tune import tune as run_tuning
from skiplab.tuning.winners import summary, write_configs

DEFAULTS = Tuning()
HEADS = ("32/8x128", "32/16x256", "32/4x512")


def tune(
    heads: Annotated[
        list[str] | None,
        typer.Option(help=f"query heads/key heads x head size, once for each. Default: {', '.join(HEADS)}."),
    ] = None,
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
    device: Annotated[str, typer.Option(help="cuda or cuda:1.")] = DEFAULTS.device,
    seed: options.Seed = 0,
    budget: Annotated[float, typer.Option(help="Seconds a candidate is timed at most, in each of three ways.")] = (
        DEFAULTS.budget_s
    ),
    limit: Annotated[float, typer.Option(help="Seconds for all, compiling included.")] = 480.0,
    jobs: Annotated[int | None, typer.Option(help="Processes that compile. Default: one a processor.")] = None,
    spills: Annotated[int, typer.Option(help="Bytes that a candidate's thread may spill.")] = SPILL_BYTES,
    run: options.NewRun = None,
    from_run: Annotated[
        list[Path] | None,
        typer.Option(help="Measure nothing: the winners of this tuning run, once for each. Needs no GPU."),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(show_default=False, help="Where the configurations go. Default: the kernel package's folder."),
    ] = CONFIGS,
) -> None:
    """Find the tiles that a GPU runs prefill fastest with. Writes configs/<device>.json, which calls there then take.

    Candidates are compiled in parallel, checked against float64 and timed; the run holds all of them, the wrong too.
    Each shape of heads has its own run. Interrupt it and give the same command again: it goes on. Example:
    skiplab tune --heads 32/16x256 --mask 1024
    """
    if from_run:
        runs, interrupted = [read_run(path) for path in from_run], False
    else:
        masks, lengths = tuple(map(_mask, mask or DEFAULTS.mask)), tuple(q_len or DEFAULTS.q_len)
        configs = tuple(map(_config, config)) if config else None
        wanted = [Tuning(one, masks, lengths, configs, dtype, device, seed, budget) for one in heads or HEADS]
        if run is not None and len(wanted) > 1:
            raise ValueError(
                f"--run: names one file, and each of {len(wanted)} shapes of heads has its own; give --heads"
            )
        runs, interrupted = _tuned(wanted, run, jobs, spills, limit)
    path = write_configs(runs, out)
    typer.echo(f"\n{runs[0].provenance}: the winners, and the times of the table's own\n\n{summary(runs)}")
    typer.echo(f"configs: {shown(path)}")
    if interrupted:
        raise typer.Exit(INTERRUPTED)


def _tuned(
    wanted: Sequence[Tuning], path: Path | None, jobs: int | None, spills: int, limit_s: float
) -> tuple[list[Run], bool]:
    """A run for each, until Ctrl-C or the limit, and whether it was Ctrl-C."""
    runs, end = [], time.monotonic() + limit_s
    with interrupts() as interrupted:
        for one in wanted:
            typer.echo(f"{one.heads}:")
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
