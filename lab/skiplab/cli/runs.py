"""The commands `skiplab runs` and `skiplab figures`, which make the runs, tables and pictures of this repository."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from skiplab.cli import options
from skiplab.cli.run import shown
from skiplab.contenders import is_cuda
from skiplab.measure.timing import THROTTLE_RETRIES
from skiplab.paths import data_path, installed, runs_directory
from skiplab.results import gpu_runs, pages
from skiplab.results.topics import TOPICS
from skiplab.sweep import usable

NAMES = ", ".join(TOPICS)
RECORDED = options.RUNS if installed() else "data/runs, which this repository ships"


def runs(
    topic: Annotated[
        options.Texts,
        typer.Argument(help=f"Some of these, blanks or commas between; all without one: {NAMES}.", metavar="TOPIC..."),
    ] = None,
    contender: Annotated[options.Texts, options.several(help="Of each topic these alone, as blockskip,bf16")] = None,
    listed: Annotated[bool, typer.Option("--list", help="Show topics and how many points each has.")] = False,
    seconds: Annotated[float, typer.Option(help="For all, compiling included.")] = 3600.0,
    retries: Annotated[
        int, typer.Option(help="How often samples of a throttled GPU are taken again.")
    ] = THROTTLE_RETRIES,
    device: Annotated[str | None, typer.Option(help="cuda or cuda:1.")] = None,
    devices: options.Devices = None,
    out: Annotated[Path | None, typer.Option(help=f"Folder of the run files. Default: {RECORDED}.")] = None,
) -> None:
    """Make the run files behind the GPU's tables anew on this GPU, each into <date>-<device>-<topic>.jsonl.

    Those of --contender alone go into <date>-<device>-<topic>-of-<contenders>.jsonl. Kernels are compiled first, in
    parallel. Stopped, or out of time, the same command goes on on the same day. Then: skiplab figures
    """
    named = options.words("TOPIC", topic)
    unknown = [name for name in named if name not in TOPICS]
    if unknown:
        raise ValueError(f"TOPIC: got {unknown[0]!r}; allowed are {NAMES}")
    topics = {name: TOPICS[name] for name in named or TOPICS}
    if chosen := options.words("--contender", contender):
        topics = gpu_runs.of_contenders(topics, chosen)
    if listed:
        for name, sweep in topics.items():
            typer.echo(f"{name:28s} {len(sweep.points()):4d} points")
        return
    if not devices and device is None and not usable("cuda"):
        raise ValueError("--device: torch sees no cuda here, and these runs are of a GPU; --list shows what there is")
    where = options.where(device or (None if devices else "cuda"), devices)
    if not is_cuda(where.device):
        raise ValueError(f"--device: got {where.device}; these runs are of a GPU")
    end = time.monotonic() + seconds
    gpu_runs.compile_first([replace(p, device=where.device) for sweep in topics.values() for p in sweep.points()])
    folder = out or (runs_directory() if installed() else data_path("runs"))
    unfinished = gpu_runs.record(topics, folder, end, retries, where, parts=bool(chosen))
    if unfinished:
        raise ValueError(f"{seconds:g} seconds are over: the same command goes on with {unfinished}")


def figures() -> None:
    """Make README's pictures and the pages' tables again, from what is recorded in data/."""
    for path in pages.write():
        typer.echo(f"written: {shown(path)}")
