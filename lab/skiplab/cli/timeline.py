"""The command `skiplab timeline`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skiplab.cli import options
from skiplab.cli.anatomy import numbers_of
from skiplab.cli.run import shown
from skiplab.contenders import contender
from skiplab.operations import DEFAULT_OPERATION, operation_of
from skiplab.sweep import sweep_at
from skiplab.text import separated

if TYPE_CHECKING:
    from skiplab.replay import Timeline

OURS = "blockskip"
TRACES = (".chrome_trace", ".json")


def timeline(
    what: Annotated[
        str,
        typer.Argument(
            help="Whose kernels are recorded on the GPU here: ours, or your own. Or a Chrome trace that Triton's "
            "profiler Proton wrote before, which needs no GPU.",
            metavar="NAME|TRACE",
        ),
    ] = OURS,
    kernels: options.From = None,
    operation: options.OperationOption = DEFAULT_OPERATION,
    at: Annotated[
        list[str] | None,
        typer.Option("--at", help="What is recorded, as q_len=4096; once for each axis.", metavar="AXIS=VALUE"),
    ] = None,
    config: Annotated[
        str | None, typer.Option(help="Sizes, as 128x64x8x2. Default: those that the call takes.")
    ] = None,
    out: Annotated[Path, options.output("--out", help="The trace for ui.perfetto.dev.")] = Path("out/timeline.json"),
    picture: Annotated[Path | None, options.output("--picture", help="Draw it, as a PNG, too.")] = None,
) -> None:
    """Show when each block of a kernel was on which multiprocessor of a GPU, and write a Perfetto file.

    Records come from inside the kernel, by Triton's Proton: of the parts that it names, or of whole programs.

    \b
    Example:
      skiplab timeline --at q_len=8192 --at window=1024
    """
    from skiplab.figures import nibbles
    from skiplab.figures.timeline import timeline as drawn

    found = _read(Path(what), at, config) if _is_trace(what) else _recorded(what, operation, at, config)
    for number, one in enumerate(found):
        typer.echo(str(one))
        path = out if number == 0 else out.with_stem(f"{out.stem}-{number + 1}")
        path.parent.mkdir(parents=True, exist_ok=True)
        typer.echo(f"trace: {shown(one.perfetto(path))}")
    if picture is not None:
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(nibbles.png(drawn(found[0]), found[0].clock))
        typer.echo(f"picture: {shown(picture)}")


def _is_trace(what: str) -> bool:
    return Path(what).suffix in TRACES or Path(what).is_file()


def _read(trace: Path, at: list[str] | None, config: str | None) -> list[Timeline]:
    """The timelines of a file, the one with the most records first."""
    from skiplab.replay import read_timeline

    if at or config:
        raise ValueError(f"--at, --config: say what is recorded, and {trace.name} was recorded before; leave them out")
    if not trace.is_file():
        raise ValueError(f"TRACE: there is no file {trace.name}")
    return _longest_first(read_timeline(trace).values())


def _recorded(name: str, operation: str, at: list[str] | None, config: str | None) -> list[Timeline]:
    """The timelines of a contender's kernels, the one with the most records first."""
    from skiplab.replay import contender_timelines

    operation_of(operation)
    contender(name, operation)  # says which there are
    axes = options.pairs("--at", at)
    for axis, values in axes.items():
        if len(separated(values)) > 1:
            raise ValueError(f"--at: got {axis}={values}; a timeline is of one workload: name one value")
    if operation == DEFAULT_OPERATION:
        axes = {"q_len": "4096", **({} if "mask" in axes else {"window": "1024"}), **axes}
    workload = sweep_at(operation, (name,), axes).workloads()[0]
    try:
        return _longest_first(contender_timelines(name, workload, numbers_of(config) if config else None).values())
    except RuntimeError as error:  # of the process that records: what happened, and what to do
        raise ValueError(" ".join(map(str, error.args))) from error


def _longest_first(found: Iterable[Timeline]) -> list[Timeline]:
    return sorted(found, key=lambda one: -len(one.spans))
