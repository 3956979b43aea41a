"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from skiplab.paths import installed
from skiplab.workload import MODELS

RUNS = "runs" if installed() else "data/runs"
"""Where runs go, as help texts say it."""

RunFile = Annotated[Path, typer.Argument(help="A run: a .jsonl file that `skiplab sweep` wrote.", metavar="RUN")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1. Default: cuda where torch sees one.")]
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
    Path | None, typer.Option("--run", help=f"The run file; continued if it exists. Default: in {RUNS}.")
]
Html = Annotated[Path | None, typer.Option("--report", help="The HTML file. Default: out/<run>.html.")]
Again = Annotated[
    list[str] | None, typer.Option("--again", help="A status or flag whose points are measured once more, as `busy`.")
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Measure again what the default run file holds.")]
