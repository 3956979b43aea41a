"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from skiplab.machine import default_device
from skiplab.paths import installed
from skiplab.workload import MODELS

RUNS = "runs" if installed() else "notebooks/runs"
MACHINES = "~/.config/skiplab/machines" if installed() else "data/machines"
CONFIGS = "~/.config/skiplab/configs" if installed() else "the kernel package's folder"
"""Where runs, roofs and tuned configurations go, as help texts say it."""

RunFile = Annotated[Path, typer.Argument(help="A run: a .jsonl file that `skiplab sweep` wrote.", metavar="RUN")]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1. Default: cuda where torch sees one.")]
Devices = Annotated[
    str | None,
    typer.Option(help="GPUs of one kind that measure side by side, as cuda:0,cuda:1, in the place of --device."),
]
Windows = Annotated[
    list[str] | None, typer.Option("--window", help="Window or `causal` (all earlier keys), once for each.")
]
Masks = Annotated[
    list[str] | None,
    typer.Option("--mask", help="Text of a mask, as `chunked(256) & causal()`, once for each, in the windows' place."),
]
Contenders = Annotated[list[str] | None, typer.Option("--contender", help="Once for each; `skiplab doctor` lists all.")]
PromptBuffer = Annotated[
    int | None,
    typer.Option("--buffer", help="Slots of a cache that each prompt stands at the start of. Default: none."),
]
Model = Annotated[str | None, typer.Option(help=f"Heads of a model's layer: {', '.join(MODELS)}.")]
Batch = Annotated[int, typer.Option(help="Sequences at once.")]
QueryHeads = Annotated[int, typer.Option("--q-heads", help="Query heads.")]
KeyHeads = Annotated[int, typer.Option("--kv-heads", help="Key and value heads.")]
HeadDim = Annotated[int, typer.Option("--head-dim", help="Head size, 8 to 512.")]
Dtype = Annotated[str, typer.Option(help="bfloat16, float16 or float32.")]
Seed = Annotated[int, typer.Option(help="Seed of the inputs.")]
Budget = Annotated[float, typer.Option(help="Seconds that a point is timed at most.")]
NewRun = Annotated[
    Path | None,
    typer.Option(
        "--run", help=f"The run file; a finished one is left, and measured again beside it. Default: in {RUNS}."
    ),
]
Html = Annotated[Path | None, typer.Option("--report", help="The HTML file. Default: out/<run>.html.")]
Again = Annotated[
    list[str] | None, typer.Option("--again", help="A status or flag whose points are measured once more, as `busy`.")
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Begin a new file where the default one was interrupted, too.")]


def devices_of(device: str | None, devices: str | None) -> tuple[str, ...]:
    """The devices to measure on; the sweep is named after the first. ValueError where both options are given."""
    if devices is None:
        return (device or default_device(),)
    if device is not None:
        raise ValueError(f"--devices: got {devices} beside --device {device}; give one of them")
    return tuple(devices.split(","))
