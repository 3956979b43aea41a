"""The command `skiplab tune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import blockskip as bs
import typer
from blockskip.config import CONFIGS

from skiplab import cli_options as options
from skiplab.cli_run import interrupts, shown
from skiplab.store import read_run
from skiplab.tune import SPILL_BYTES, Tuning
from skiplab.tune import tune as run_tuning
from skiplab.winners import summary, write_configs

DEFAULTS = Tuning()


def tune(
    heads: Annotated[
        list[str] | None,
        typer.Option(help=f"query heads/key heads x head size, once for each. Default: {', '.join(DEFAULTS.heads)}."),
    ] = None,
    mask: Annotated[
        list[str] | None,
        typer.Option(help="`causal`, a window, or a mask's text, once for each. Default: causal and 1024."),
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
    """Find the tiles that a GPU runs prefill fastest with; write configs/<device>.json, which calls there then take.

    Candidates are compiled in parallel, checked against float64 and timed; the run holds all of them, the wrong too.
    Interrupt it with Ctrl-C and give the same command again: it goes on. Example: skiplab tune --heads 32/16x256
    """
    if from_run:
        runs = [read_run(path) for path in from_run]
    else:
        wanted = Tuning(
            tuple(heads or DEFAULTS.heads), tuple(map(_mask, mask or DEFAULTS.mask)), tuple(q_len or DEFAULTS.q_len),
            tuple(map(_config, config)) if config else None, dtype, device, seed, budget,
        )  # fmt: skip
        with interrupts() as interrupted:
            runs = [
                run_tuning(
                    wanted, run, jobs=jobs, spills=spills, limit_s=limit,
                    cancelled=interrupted, say=typer.echo,
                )
            ]  # fmt: skip
        assert runs[0].path is not None
        typer.echo(f"run: {shown(runs[0].path)}")
    path = write_configs(runs, out)
    typer.echo(f"\n{runs[0].provenance}: the winners, and the times of the table's own\n\n{summary(runs)}")
    typer.echo(f"configs: {shown(path)}")


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
