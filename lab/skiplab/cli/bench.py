"""The command `skiplab bench`."""

from __future__ import annotations

from typing import Annotated

import typer

from skiplab import bench as benchmarks

NAMES = "; ".join(f"{name}: {what}" for name, what in benchmarks.BENCHMARKS.items())
PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


def bench(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help=NAMES, metavar="NAME")],
) -> None:
    """Run a benchmark that is no sweep, and write its table.

    \b
    Its own options:
      skiplab bench NAME -- --help
    """
    benchmarks.run(name, context.args)
