"""The command `skiplab`. Wrong input gets one line that says what is wrong, never a traceback."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from blockskip import __version__

from skiplab.cli import anatomy, bench, compare, options, query, roofs, runs, timeline, tune
from skiplab.cli.command import Command
from skiplab.cli.run import (
    INTERRUPTED,
    end_as_interrupted,
    save,
    show,
    shown,
    swept,
    write_report,
    write_tables,
)
from skiplab.compare import MARGIN
from skiplab.machine import default_device, device_kind
from skiplab.operations import DEFAULT_OPERATION, OPERATIONS, modules_of
from skiplab.paths import installed, notebooks_path
from skiplab.store import frame, read_run
from skiplab.sweep import other_kernels, repeated, usable
from skiplab.text import why

LAST_PORT = 65535
COPIES = "skiplab-notebooks" if installed() else "none are, the checkout's own are opened"

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="A lab for the performance of sparse attention and quantised decoding: what they save in work and in time.\n\n"
    "Start with `skiplab lab` (notebooks), or `skiplab sweep`, `decode` and `linear` (the same without a browser).",
)


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"skiplab {__version__}")
        raise typer.Exit


@app.callback()
def skiplab(
    version: Annotated[
        bool, typer.Option("--version", help="Say which version this is.", callback=_say_version, is_eager=True)
    ] = False,
) -> None:
    """The options of `skiplab` without a command."""


@app.command(cls=Command)
def lab(
    port: Annotated[int, typer.Option(help="Port of the server.")] = 8888,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
    folder: Annotated[
        Path | None,
        typer.Option(help=f"Where the notebooks are copied to, those that it lacks. Default: {COPIES}."),
    ] = None,
) -> None:
    """Open JupyterLab at the first notebook.

    \b
    Example:
      skiplab lab --no-browser --port 9000
    """
    if not 0 < port <= LAST_PORT:
        raise ValueError(f"--port: got {port}; allowed are 1 to {LAST_PORT}")
    if folder is None and installed():
        folder = Path("skiplab-notebooks")
    folder = notebooks_path() if folder is None else copied_notebooks(folder)
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


def copied_notebooks(folder: Path) -> Path:
    """Copy the notebooks that are missing from the folder, and return it; existing ones are the user's and stay."""
    folder.mkdir(parents=True, exist_ok=True)
    for notebook in sorted(notebooks_path().glob("*.ipynb")):
        copy = folder / notebook.name
        if not copy.exists():
            shutil.copyfile(notebook, copy)
        elif copy.read_bytes() != notebook.read_bytes():
            typer.echo(f"kept: {shown(copy)}, which is not as this version has it; name another --folder for that")
    typer.echo(f"notebooks: {shown(folder)}")
    return folder


for _command in (
    *(module.COMMAND for module in modules_of(__name__).values()),
    anatomy.anatomy,
    timeline.timeline,
    compare.compare,
    query.query,
    roofs.roofs,
    runs.runs,
    runs.figures,
):
    app.command(cls=Command)(_command)
app.command(cls=Command, context_settings=bench.PASSED_ON)(bench.bench)
app.add_typer(tune.app, name="tune")


@app.command(cls=Command)
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run files that `skiplab sweep` wrote.", metavar="RUN...")],
    out: Annotated[
        Path | None, options.output("--out", help="The HTML file. Default: out/<run>.html, of several out/runs.html.")
    ] = None,
    margin: Annotated[float, typer.Option(help="Of several runs: by how much times differ anyway.")] = MARGIN,
    table: options.Tables = None,
) -> None:
    """Write one HTML file that works offline. Of a run: figures, tables, where it is from, the raw data.

    Of several runs: every point that they share, its times by date, and the last over the first with an interval, in a
    part for each operation and device.

    \b
    Example:
      skiplab report notebooks/runs/*.jsonl
    """
    files, held = options.tables(table), [read_run(run) for run in runs]
    if len(held) == 1:
        write_report(held[0], out)
        write_tables(held[0], files)
    else:
        held.sort(key=lambda run: run.header.get("start", ""))
        write_report(held, out, margin)
        save(files, lambda: frame(held), lambda: compare.markdown(held, margin))


@app.command(cls=Command)
def share(
    notebook: Annotated[Path, typer.Argument(help="The notebook to send.", metavar="NOTEBOOK")],
    out: Annotated[Path | None, typer.Option(help="The folder. Default: out/<notebook>.")] = None,
) -> None:
    """Make a folder of a notebook, to send. It is executed, with its pictures, the runs that it used, versions."""
    if not notebook.is_file():
        raise ValueError(f"NOTEBOOK: there is no file {notebook.name}")
    from nbclient.exceptions import CellExecutionError

    from skiplab.share import share as make_folder

    try:
        made = make_folder(notebook, out or Path("out") / notebook.stem)
    except CellExecutionError as error:  # its text is the cell and what it raised
        raise ValueError(f"{notebook.name} stopped at a cell that failed:\n{error}") from error
    typer.echo(f"folder: {made}")


@app.command(cls=Command)
def rerun(
    run: options.RunFile,
    kernels: options.From = None,
    device: options.DeviceOption = None,
    devices: options.Devices = None,
    cluster: options.Cluster = None,
    gpu: options.Gpu = None,
    out: Annotated[Path | None, options.output("--out", help=f"The new run file. Default: in {options.RUNS}.")] = None,
) -> None:
    """Repeat a run on this machine and say what differs. Device, versions, kernels, and each point's time.

    The device is the run's own kind unless --device says otherwise. A run of your own kernels needs their file: it says
    which one.
    """
    old = read_run(run)
    if device is not None and cluster is None:
        options.need(device)
    wanted = repeated(old, device)
    own = wanted.device if cluster is None else device or device_kind(wanted.device)
    if cluster is None and not devices and not usable(own):
        raise ValueError(f"{run.name}: is of {own}, which torch does not see here; say --device cpu")
    where = options.where(device if devices else own, devices, cluster, gpu)
    wanted = replace(cast(Any, wanted), device=where.device)
    for line in other_kernels(old):
        typer.echo(line)
    new = swept(wanted, out, where, topic="rerun", fresh=True)
    show(new)
    end_as_interrupted(new)
    typer.echo(f"\n{compare.rerun_text(old, new)}")


@app.command(cls=Command)
def check(
    name: Annotated[
        str, typer.Argument(help="Who is checked: `skiplab doctor` lists all; or your own.", metavar="NAME")
    ],
    kernels: options.From = None,
    operation: options.OperationOption = DEFAULT_OPERATION,
    device: options.DeviceOption = None,
) -> None:
    """Check a kernel on shapes that have caught bugs, against float64.

    \b
    Example:
      skiplab check mine --from mine.py
    """
    from skiplab.measure.verify import check as run_check

    device = device or default_device()
    options.need(device)
    if operation not in OPERATIONS:
        raise ValueError(f"--operation: got {operation!r}; allowed are {', '.join(OPERATIONS)}")
    outcome = run_check(name, device, operation=operation)
    typer.echo(str(outcome))
    raise typer.Exit(0 if outcome.passed else 1)


@app.command(cls=Command)
def doctor(device: options.DeviceOption = None) -> None:
    """Say what this machine has and lacks, and list all contenders. It says what to do about what is missing, too."""
    from skiplab.doctor import examine, usable_contenders

    device = device or default_device()
    options.need(device)
    findings = examine(device)
    for finding in findings:
        typer.echo(f"{finding.state:8s} {finding.what:18s} {finding.text}")
    for one in usable_contenders(device):
        verdict = one.summary if one.reason is None else f"not on {device}: {one.reason}"
        typer.echo(f"{one.operation:9s} {one.name:22s} {verdict}")
    raise typer.Exit(1 if any(finding.state == "missing" for finding in findings) else 0)


def main() -> None:
    """The console script: errors of input are one line on stderr and exit code 2; after Ctrl-C it is 130.

    SKIPLAB_TRACEBACK=1 shows where an error came from.
    """
    try:
        app()
    except (ValueError, TypeError, OSError, ImportError) as error:
        if os.environ.get("SKIPLAB_TRACEBACK") == "1":
            raise
        file = getattr(error, "filename", None)
        typer.echo(f"skiplab: {f'{file}: {why(error)}' if file else error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("skiplab: interrupted", err=True)
        sys.exit(INTERRUPTED)
