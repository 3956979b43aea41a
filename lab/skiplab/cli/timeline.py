"""The command `skiplab timeline`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from skiplab.cli import options
from skiplab.cli.anatomy import numbers_of
from skiplab.cli.run import shown
from skiplab.operations import DEFAULT_OPERATION
from skiplab.sweep import sweep_at


def timeline(
    trace: Annotated[
        Path | None, typer.Argument(help="A Chrome trace that Proton wrote; without one a GPU here is recorded.")
    ] = None,
    at: Annotated[
        list[str] | None,
        typer.Option("--at", help="What is recorded, as q_len=4096 or window=1024; once for each axis."),
    ] = None,
    config: Annotated[
        str | None, typer.Option(help="Tiles, as 128x64x8x2. Default: those that the call takes.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The trace for ui.perfetto.dev.")] = Path("out/timeline.json"),
    picture: Annotated[Path | None, typer.Option(help="Draw it, as a PNG, too.")] = None,
) -> None:
    """Show when each block of our prefill kernel was on which multiprocessor of a GPU, and write a Perfetto file.

    Records come from inside the kernel, by Triton's Proton. Example: skiplab timeline --at q_len=8192 --at window=1024
    """
    from skiplab.figures import nibbles
    from skiplab.figures.timeline import timeline as drawn
    from skiplab.replay import attention_timeline, read_timeline

    if trace is not None and (at or config):
        raise ValueError(f"--at, --config: say what is recorded, and {trace.name} was recorded before; leave them out")
    if trace is not None and not trace.is_file():
        raise ValueError(f"TRACE: there is no file {trace.name}")
    if trace is None:
        axes = {"q_len": "4096", "window": "1024", **options.pairs("--at", at)}
        workload = sweep_at(DEFAULT_OPERATION, ("blockskip",), axes).workloads()[0]
        found = [attention_timeline(workload, numbers_of(config) if config else None)]  # type: ignore[arg-type]
    else:
        found = list(read_timeline(trace).values())
    for number, one in enumerate(found):
        typer.echo(str(one))
        path = out if number == 0 else out.with_stem(f"{out.stem}-{number + 1}")
        path.parent.mkdir(parents=True, exist_ok=True)
        typer.echo(f"trace: {shown(one.perfetto(path))}")
    if picture is not None:
        picture.write_bytes(nibbles.png(drawn(found[0]), found[0].clock))
        typer.echo(f"picture: {shown(picture)}")
