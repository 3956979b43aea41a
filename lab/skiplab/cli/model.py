"""The command `skiplab model`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from blockskip.attention.decode.plan import LONGEST_QUERY

from skiplab.cli import options
from skiplab.cli.run import end_as_interrupted, show, swept, write_report, write_tables
from skiplab.contenders.ladder import LADDER
from skiplab.machine import describe
from skiplab.model import model_names
from skiplab.store.llama_bench import benched, left_out, read_bench, rows_of
from skiplab.sweep import ModelSweep
from skiplab.sweep.model import NOTHING
from skiplab.sweep.running import appended
from skiplab.workload.model import named_or_read

NAMES = ", ".join(model_names())


def model(
    spec: Annotated[str, typer.Argument(help=f"{NAMES}, or a config.json.", metavar="SPEC")],
    prompt: Annotated[
        options.Texts, options.several(help="Prompt lengths, as 256,512, or none", default="256 to 2048")
    ] = None,
    new: Annotated[int, typer.Option(help="Steps that are timed at each depth.")] = ModelSweep.new,
    depth: Annotated[
        options.Texts, options.several(help="Tokens that were read before, as 0,2048, or none", default="0,2048")
    ] = None,
    rows: Annotated[
        options.Texts, options.several(help="Tokens a step, 1 to 16, as 1,4: drafts verified", default="1")
    ] = None,
    bits: Annotated[int, typer.Option(help="4 or 8, of weights that are quantised.")] = ModelSweep.bits,
    group_size: Annotated[int, typer.Option(help="32, 64 or 128: weights that share a scale.")] = ModelSweep.group_size,
    by_kind: Annotated[
        bool,
        typer.Option(
            "--by-kind",
            help="Time one layer of each kind, and count it as often as there are such: it takes less memory and time.",
        ),
    ] = False,
    llama_bench: Annotated[
        Path | None,
        typer.Option(help="llama.cpp's llama-bench, then --gguf names its model; or its output as JSON lines."),
    ] = None,
    gguf: Annotated[Path | None, typer.Option(help="The model that llama-bench loads.")] = None,
    contender: options.Contenders = None,
    kernels: options.From = None,
    ladder: Annotated[
        bool,
        typer.Option(
            "--ladder",
            help="What each choice gains, one after the other, from ExecuTorch's first kernels to ours: "
            f"{', '.join(LADDER)}.",
        ),
    ] = False,
    dtype: options.Dtype = "bfloat16",
    device: options.DeviceOption = None,
    devices: options.Devices = None,
    cluster: options.Cluster = None,
    gpu: options.Gpu = None,
    seed: options.Seed = 0,
    budget: options.Budget = ModelSweep.budget_s,
    run: options.NewRun = None,
    report: options.Html = None,
    table: options.Tables = None,
    again: options.Again = None,
    fresh: options.Fresh = False,
) -> None:
    """Measure a whole model: tokens a second of prompts and of steps. Prints the table, writes the run and one HTML.

    Weights are random.

    \b
    Examples:
      skiplab model laptop --prompt 256,512 --new 8 --depth 0,2048 --rows 1,4
      skiplab model laptop --prompt 2048 --depth 2048 --ladder
    """
    name, config = named_or_read(spec)
    defaults = ModelSweep()
    where = options.where(device, devices, cluster, gpu)
    wanted = ModelSweep(
        _contenders(options.words("--contender", contender), ladder), name,
        _list("--prompt", prompt, defaults.prompt, 1), _list("--depth", depth, defaults.depth),
        _rows(rows) or defaults.rows, new, bits, group_size,
        by_kind, dtype, where.device, seed, budget, config,
    )  # fmt: skip
    files, measured_again = options.tables(table), options.again(again)
    if llama_bench is not None and cluster is not None:
        raise ValueError(f"--llama-bench: got {llama_bench.name} beside --cluster; it runs on this machine alone")
    lines = _lines(wanted, llama_bench, gguf)
    done = swept(wanted, run, where, topic=f"model-{name}", again=measured_again, fresh=fresh)
    if lines and "interrupted" not in done.header and done.path:
        done = appended(done.path, rows_of(lines, wanted.workloads(), done.device, wanted.device))
    show(done)
    write_tables(done, files)
    end_as_interrupted(done)
    write_report(done, report)


def _list(option: str, texts: options.Texts, default: tuple[int, ...], least: int = 0) -> tuple[int, ...]:
    """The numbers of an option; () for the word none, the default where it is not given."""
    if options.words(option, texts) == (NOTHING,):
        return ()
    found = options.numbers(option, texts)
    if below := [number for number in found if number < least]:
        raise ValueError(f"{option}: got {below[0]}; allowed are whole numbers of at least {least}, or {NOTHING}")
    return found or default


def _rows(texts: options.Texts) -> tuple[int, ...]:
    """The numbers of --rows."""
    found = options.numbers("--rows", texts)
    if wrong := [number for number in found if not 1 <= number <= LONGEST_QUERY]:
        raise ValueError(f"--rows: got {wrong[0]}; allowed are 1 to {LONGEST_QUERY} tokens a step")
    return found


def _lines(wanted: ModelSweep, program: Path | None, gguf: Path | None) -> list[dict]:
    """What llama-bench says, read or run before anything else is measured; [] without one."""
    if program is None:
        if gguf is not None:
            raise ValueError(f"--gguf: got {gguf.name} without --llama-bench, the program that loads it")
        return []
    lines = read_bench(program) if gguf is None else benched(program, gguf, wanted.prompt, wanted.depth, wanted.new)
    rows_of(lines, wanted.workloads(), describe(wanted.device)["name"], wanted.device)  # what does not fit is said now
    if count := left_out(lines):
        typer.echo(f"llama-bench: {count} tests of prompts at a depth, or of prompts and steps as one, are left out")
    return lines


def _contenders(named: tuple[str, ...], ladder: bool) -> tuple[str, ...]:
    """Those that are named, else the sweep's own; with --ladder its rungs, and what is named beside them."""
    rungs = LADDER if ladder else ()
    return tuple(dict.fromkeys((*(named or (() if ladder else ModelSweep.contenders)), *rungs)))


COMMAND = model
