"""The command `skiplab`. Wrong input gets one line that says what is wrong, never a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from skiplab import cli_options as options
from skiplab.grid import AnySweep, DecodeSweep, LinearSweep, Sweep, sweep_of, usable
from skiplab.machine import default_device
from skiplab.store import Run, data_path, frame, read_run
from skiplab.sweep import default_path, run_sweep
from skiplab.workload import LINEARS, MODELS, OPERATIONS

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="A lab for the performance of sparse attention and quantised decoding: what they save in work and in time.\n\n"
    "Start with `skiplab lab` (notebooks), or `skiplab sweep`, `decode` and `linear` (the same without a browser).",
)


@app.command()
def lab(
    port: Annotated[int, typer.Option(help="Port of the server.")] = 8888,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
) -> None:
    """Open JupyterLab at the first notebook. Example: skiplab lab --no-browser --port 9000"""
    notebooks = data_path().parent / "notebooks"
    folder = notebooks if notebooks.is_dir() else Path.cwd()
    first = sorted(folder.glob("01_*.ipynb"))
    command = [sys.executable, "-m", "jupyterlab", f"--notebook-dir={folder}", f"--port={port}"]
    command.append("--LanguageServerManager.autodetect=False")  # its list of what is not installed hides the address
    if first:
        command.append(f"--LabApp.default_url=/lab/tree/{first[0].name}")
    if not browser:
        command.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")  # in a container one often is; the server is local and asks for its token
    raise typer.Exit(subprocess.call(command))


@app.command()
def sweep(
    contender: options.Contenders = None,
    q_len: Annotated[list[int] | None, typer.Option(help="Prompt length, once for each. Default: 512 to 4096.")] = None,
    window: options.Windows = None,
    buffer: options.PromptBuffer = None,
    model: options.Model = None,
    batch: options.Batch = 1,
    q_heads: options.QueryHeads = 8,
    kv_heads: options.KeyHeads = 8,
    head_dim: options.HeadDim = 128,
    dtype: options.Dtype = "bfloat16",
    device: options.Device = None,
    seed: options.Seed = 0,
    budget: options.Budget = 5.0,
    run: options.NewRun = None,
    report: options.Html = None,
    again: options.Again = None,
    fresh: options.Fresh = False,
) -> None:
    """Measure prefill over prompt lengths and windows; print the table, write the run and one HTML.

    Every result is compared with attention in float64 before and after it is timed. Interrupt it with Ctrl-C and give
    the same command again: it goes on. Example: skiplab sweep --q-len 1024 --window 256 --window causal
    """
    defaults = Sweep()
    wanted = Sweep(
        tuple(contender or defaults.contenders), tuple(q_len or defaults.q_len),
        tuple(map(_window, window)) if window else defaults.window, batch, dtype=dtype, buffer=buffer,
        device=device or default_device(), seed=seed, budget_s=budget, **_heads(model, q_heads, kv_heads, head_dim),
    )  # fmt: skip
    _sweep(wanted, run, report, again, fresh)


@app.command()
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
    q_heads: options.QueryHeads = 8,
    kv_heads: options.KeyHeads = 8,
    head_dim: options.HeadDim = 128,
    dtype: options.Dtype = "bfloat16",
    device: options.Device = None,
    seed: options.Seed = 0,
    budget: options.Budget = 5.0,
    run: options.NewRun = None,
    report: options.Html = None,
    again: options.Again = None,
    fresh: options.Fresh = False,
) -> None:
    """Measure decode steps over the number of keys and windows; print the table, write the run and one HTML.

    As `skiplab sweep`, for one to eight new tokens over a cache. Example: skiplab decode --kv-len 4096 --window 1024
    """
    defaults = DecodeSweep()
    wanted = DecodeSweep(
        tuple(contender or defaults.contenders), tuple(kv_len or defaults.kv_len),
        tuple(map(_window, window)) if window else defaults.window, q_len, batch, dtype=dtype, buffer=buffer,
        device=device or default_device(), seed=seed, budget_s=budget, **_heads(model, q_heads, kv_heads, head_dim),
    )  # fmt: skip
    _sweep(wanted, run, report, again, fresh)


@app.command()
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
    """Measure quantised linear layers over shapes and rows; print the table, write the run and one HTML.

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
    _need(wanted.device)
    path = run or default_path(wanted, wanted.operation)
    if fresh and run is None:
        path = _unused(path)
    done = _swept(wanted, path, tuple(again or ()))
    _show(done)
    _write_report(done, report or Path("out") / f"{path.stem}.html")


def _heads(model: str | None, q_heads: int, kv_heads: int, head_dim: int) -> dict[str, int]:
    """The model's heads where one is named, else those given."""
    if model is None:
        return {"q_heads": q_heads, "kv_heads": kv_heads, "head_dim": head_dim}
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


@app.command()
def report(
    run: options.RunFile,
    out: Annotated[Path | None, typer.Option(help="The HTML file. Default: out/<run>.html.")] = None,
) -> None:
    """Write one HTML file of a run that works offline: figures, tables, where it is from, the raw data."""
    _write_report(read_run(run), out or Path("out") / f"{run.stem}.html")


@app.command()
def share(
    notebook: Annotated[Path, typer.Argument(help="The notebook to send.")],
    out: Annotated[Path | None, typer.Option(help="The folder. Default: out/<notebook>.")] = None,
) -> None:
    """Make a folder to send: the executed notebook with its pictures, the runs that it used, versions."""
    if not notebook.is_file():
        raise ValueError(f"NOTEBOOK: there is no file {notebook.name}")
    from nbclient.exceptions import CellExecutionError

    from skiplab.share import share as make_folder

    try:
        made = make_folder(notebook, out or Path("out") / notebook.stem)
    except CellExecutionError as error:  # its text is the cell and what it raised
        raise ValueError(f"{notebook.name} stopped at a cell that failed:\n{error}") from error
    typer.echo(f"folder: {made}")


@app.command()
def rerun(
    run: options.RunFile,
    device: options.Device = None,
    out: Annotated[Path | None, typer.Option(help="The new run file. Default: in data/runs.")] = None,
) -> None:
    """Repeat a run on this machine and say what differs: device, versions, kernels, and each point's time.

    The device is the run's own kind unless --device says otherwise.
    """
    from skiplab.compare import differences, ratios

    old = read_run(run)
    try:
        wanted = sweep_of(old.operation, old.header["parameters"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{run.name}, line 1: the header does not hold a sweep's parameters ({error})") from error
    wanted = replace(wanted, device=device or wanted.device)
    _need(wanted.device)
    new = _swept(wanted, out or _unused(default_path(wanted, "rerun")))
    _show(new)
    typer.echo(f"\nWhat differs from {old.run_id}:")
    found = differences(old, new)
    for name, (before, after) in found.items():
        typer.echo(f"  {name}: {before} -> {after}")
    if not found:
        typer.echo("  nothing in device, versions and kernels")
    table = ratios(old, new)
    if not len(table):
        typer.echo("No point is ok in both runs.")
        return
    typer.echo("\nTime now / time then, with the 95 % interval of the samples' scatter (one process on each side):")
    if old.device != new.device or not all(table["same_method"]):
        typer.echo("The devices or timing methods differ: the ratio compares machines, not code.")
    typer.echo(table.drop(columns="same_method").round(3).to_string(index=False))


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="A contender, or your own kernel.")],
    module: Annotated[
        str | None, typer.Option("--from", help="A Python file that registers your kernel with @skiplab.kernel.")
    ] = None,
    operation: Annotated[str, typer.Option(help=f"What it does: {', '.join(OPERATIONS)}.")] = "attention",
    device: options.Device = None,
) -> None:
    """Check a kernel on shapes that have caught bugs, against float64. Example: skiplab check mine --from mine.py"""
    from skiplab.verify import check as run_check

    if module is not None:
        _load(Path(module))
    device = device or default_device()
    _need(device)
    if operation not in OPERATIONS:
        raise ValueError(f"--operation: got {operation!r}; allowed are {', '.join(OPERATIONS)}")
    outcome = run_check(name, device, operation=operation)
    typer.echo(str(outcome))
    raise typer.Exit(0 if outcome.passed else 1)


@app.command()
def doctor(device: options.Device = None) -> None:
    """Say what this machine has, what is missing and what to do about it."""
    from skiplab.doctor import examine

    device = device or default_device()
    _need(device)
    findings = examine(device)
    for finding in findings:
        typer.echo(f"{finding.state:8s} {finding.what:18s} {finding.text}")
    raise typer.Exit(1 if any(finding.state == "missing" for finding in findings) else 0)


def _window(text: str) -> int | None:
    if text == "causal":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"--window: got {text!r}; allowed are `causal` and whole numbers of at least 1")
    return int(text)


def _need(device: str) -> None:
    """ValueError for a device that torch does not know or does not see here."""
    if not usable(device):
        raise ValueError(f"--device: torch sees no {device} here; leave --device out, or say --device cpu")


def _unused(path: Path) -> Path:
    """The path, or with the first number behind it that no file has."""
    candidates = (path.with_stem(f"{path.stem}-{number}") for number in range(2, 10_000))
    return path if not path.exists() else next(one for one in candidates if not one.exists())


def _swept(wanted: AnySweep, path: Path, again: tuple[str, ...] = ()) -> Run:
    held = len(read_run(path).rows) if path.exists() else 0
    if held:
        typer.echo(f"{_shown(path)} holds {held} points already; they are kept (--again busy, --fresh).")
    with _interrupts() as interrupted:
        done = run_sweep(wanted, path, cancelled=interrupted, again=again)
    if interrupted():
        typer.echo(f"Stopped: {len(done.rows)} of {len(wanted.points())} points are kept; the same command goes on.")
    typer.echo(f"run: {_shown(path)}")
    return done


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Ctrl-C sets a flag instead of raising, once; a second one ends the program."""
    seen: list[int] = []

    def note(number: int, stack: object) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    previous = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(seen)
    finally:
        signal.signal(signal.SIGINT, previous)


def _show(run: Run) -> None:
    from skiplab.report import BASES, summary, time_table

    table = frame(run)
    typer.echo(f"\n{run.provenance}: median time a call, {BASES[run.operation].words}, * for flags\n")
    typer.echo(time_table(table).to_string(index=False))
    failures = Counter(
        (row["contender"], row["status"], row["error_text"]) for row in run.rows if row["status"] != "ok"
    )
    for (name, status, why), count in failures.items():
        typer.echo(f"{name}, {count} points {status}: {why}")
    flags = sorted({flag for text in table["flags"] for flag in text.split(", ") if flag})
    if flags:
        typer.echo(f"flags seen: {', '.join(flags)} (the report says what they mean)")
    typer.echo(summary(table))


def _write_report(run: Run, path: Path) -> None:
    from skiplab.report import write_report

    write_report(run, path)
    typer.echo(f"report: {_shown(path)}")


def _shown(path: Path) -> Path:
    """The path as a person at this prompt would type it."""
    path = path.resolve()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _load(path: Path) -> None:
    """Run a Python file for the kernels that it registers."""
    import runpy

    if not path.is_file():
        raise ValueError(f"--from: there is no file {path.name}")
    runpy.run_path(str(path), run_name="skiplab_user")


def main() -> None:
    """The console script: errors of input are one line on stderr and exit code 2.

    SKIPLAB_TRACEBACK=1 shows where an error came from.
    """
    try:
        app()
    except (ValueError, TypeError, OSError, ImportError) as error:
        if os.environ.get("SKIPLAB_TRACEBACK") == "1":
            raise
        typer.echo(f"skiplab: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("skiplab: interrupted", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
