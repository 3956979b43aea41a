"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from skiplab.contenders.source import load_kernels
from skiplab.operations import OPERATIONS
from skiplab.paths import installed
from skiplab.store import FLAGS, STATUSES
from skiplab.sweep import Where, own_device, usable
from skiplab.text import separated, why
from skiplab.workload import MODELS

RUNS = "runs" if installed() else "notebooks/runs"
MACHINES = "~/.config/skiplab/machines" if installed() else "data/machines"
CONFIGS = "~/.config/skiplab/configs" if installed() else "the kernel package's folder"
"""Where runs, roofs and tuned configurations go, as help texts say it."""

Texts = list[str] | None
"""A list as typer hands it on, for `words`, `numbers` or `paths`: a text each time that its option was given."""
TABLES = (".csv", ".md")


def several(*names: str, help: str, default: str = "", **more: Any) -> Any:
    """An option that takes several values: with commas between, or given once for each."""
    told = f"{help}; several with commas between.{f' Default: {default}.' * bool(default)}"
    return typer.Option(*names, help=told, metavar="A,B,...", **more)


def output(*names: str, help: str) -> Any:
    """An option that names a file to write; before anything is measured it is known that it can be."""

    def checked(path: Path | None) -> Path | None:
        return None if path is None else writable(names[0], path)

    return typer.Option(*names, help=help, callback=checked)


def writable(option: str, path: Path) -> Path:
    """The path, its folder made; ValueError where there can be no such file."""
    if path.is_dir():
        raise ValueError(f"{option}: got {path}, which is a folder; allowed is a file's name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{option}: got {path}, whose folder cannot be made: {why(error)}") from error
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError(f"{option}: got {path}, which may not be written; allowed is a file in a folder of yours")
    return path


def words(option: str, texts: Sequence[str] | None) -> tuple[str, ...]:
    """The values of a list option, each once; ValueError names the option where there is nothing between two commas."""
    return tuple(dict.fromkeys(all_words(option, texts)))


def all_words(option: str, texts: Sequence[str] | None) -> tuple[str, ...]:
    """As `words`, in which one may stand twice."""
    try:
        return tuple(word for text in texts or () for word in separated(text))
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from None


def numbers(option: str, texts: Sequence[str] | None) -> tuple[int, ...]:
    """As `words`, of whole numbers."""
    found = words(option, texts)
    for word in found:
        if not word.isdecimal():
            raise ValueError(f"{option}: got {word!r}; allowed are whole numbers with commas between, as 256,512")
    return tuple(dict.fromkeys(map(int, found)))


def paths(option: str, texts: Sequence[str] | None) -> tuple[Path, ...]:
    """As `words`, of files; a name with a comma in it is one file where there is such a file."""
    found = (Path(part) for text in texts or () for part in ([text] if Path(text).exists() else words(option, [text])))
    return tuple(dict.fromkeys(found))


def tables(texts: Sequence[str] | None) -> tuple[Path, ...]:
    """The files of --table, before anything is measured; ValueError for another suffix than those of `TABLES`."""
    found = paths("--table", texts)
    for path in found:
        if path.suffix not in TABLES:
            raise ValueError(f"--table: got {path.name}; allowed are names that end in {' or '.join(TABLES)}")
        writable("--table", path)
    return found


def again(texts: Sequence[str] | None) -> tuple[str, ...]:
    """The statuses and flags of --again; ValueError for a word that is neither."""
    found = words("--again", texts)
    for word in found:
        if word not in (*STATUSES, *FLAGS):
            raise ValueError(
                f"--again: got {word!r}; allowed are a status ({', '.join(STATUSES)}) and a flag ({', '.join(FLAGS)})"
            )
    return found


def pairs(option: str, texts: Sequence[str] | None) -> dict[str, str]:
    """NAME=VALUES as given, by name."""
    found = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise ValueError(f"{option}: got {text!r}; allowed is a name and its values, as q_len=512,1024")
        found[name.strip()] = value.strip()
    return found


def _load(texts: Texts) -> Texts:
    """Register the kernels of --from, before contenders are looked up."""
    for origin in words("--from", texts):
        load_kernels(origin)
    return texts


From = Annotated[
    Texts,
    several(
        "--from",
        help="A Python file, or a module's name, that registers your kernels with @skiplab.kernel",
        callback=_load,
        is_eager=True,
    ),
]
RunFile = Annotated[Path, typer.Argument(help="A run: a .jsonl file that `skiplab sweep` wrote.", metavar="RUN")]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1. Default: cuda where torch sees one.")]
Devices = Annotated[
    Texts, several(help="GPUs of one kind that measure side by side, as cuda:0,cuda:1, in the place of --device")
]
Cluster = Annotated[
    str | None,
    typer.Option(
        help="A Ray cluster that measures, on all its free GPUs (or CPUs, with --device cpu): auto, the one that runs "
        "here, or ray://host:10001. Needs skiplab[cluster].",
        metavar="auto|ray://HOST:PORT",
    ),
]
Gpu = Annotated[
    str | None, typer.Option(help="Of a cluster with GPUs of several names those with this text in theirs, as H200.")
]
Windows = Annotated[Texts, several("--window", help="Window or `causal` (all earlier keys), as 256,causal")]
Masks = Annotated[Texts, several("--mask", help="Text of a mask, as `chunked(256) & causal()`, in the windows' place")]
Contenders = Annotated[
    Texts, several("--contender", help="Who is measured, as blockskip,sdpa; `skiplab doctor` lists all")
]
PackedLengths = Annotated[
    Texts,
    several(
        "--lengths",
        help="Lengths of packed prompts in the place of --q-len, as 128x384x1024 or 512*32, or a range that they are "
        "drawn from until there are so many tokens, as 64-4096:16384",
    ),
]
PromptBuffer = Annotated[
    int | None,
    typer.Option("--buffer", help="Slots of a cache that each prompt stands at the start of. Default: none."),
]
Interleave = Annotated[
    bool | None,
    typer.Option(
        "--interleave/--no-interleave",
        help="Take contenders' samples in turn, so that all see the same clocks, or one contender after the other. "
        "Default: in turn on a GPU.",
        show_default=False,
    ),
]
Model = Annotated[str | None, typer.Option(help=f"Heads of a model's layer: {', '.join(MODELS)}.")]
Batch = Annotated[int, typer.Option(help="Sequences at once.")]
QueryHeads = Annotated[int, typer.Option("--q-heads", help="Query heads.")]
KeyHeads = Annotated[int, typer.Option("--kv-heads", help="Key and value heads.")]
HeadDim = Annotated[int, typer.Option("--head-dim", help="Head size, 8 to 512.")]
Dtype = Annotated[str, typer.Option(help="bfloat16, float16 or float32.")]
KeyDtypes = Annotated[
    Texts,
    several(
        "--kv-dtype", help="Of keys and values, as bfloat16,float8_e4m3fn (8 bits, a scale a head)", default="dtype"
    ),
]
Sinks = Annotated[bool, typer.Option("--sinks", help="Each query head has a sink, a learned logit, as in gpt-oss.")]
Ragged = Annotated[
    float | None,
    typer.Option(
        help="Sequences of different lengths, which stand on the device: from this share of the keys to all, as 0.25."
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of the inputs.")]
Budget = Annotated[float, typer.Option(help="Seconds that a point is timed at most.")]
RUN_HELP = f"The run file; a finished one is left, and measured again beside it. Default: in {RUNS}."
NewRun = Annotated[Path | None, output("--out", "--run", help=RUN_HELP)]
Html = Annotated[Path | None, output("--report", help="The HTML file. Default: out/<run>.html.")]
OperationOption = Annotated[str, typer.Option("--operation", help=f"What it does: {', '.join(OPERATIONS)}.")]
AXIS = "AXIS=A,B,..."
Tables = Annotated[
    Texts,
    several(
        "--table",
        help="Write the results to PATH.csv, every point with all its numbers, or PATH.md, the printed table",
    ),
]
Again = Annotated[
    Texts, several("--again", help="A status or flag whose points are measured once more, as busy,throttled")
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Begin a new file where the default one was interrupted, too.")]


def need(device: str, option: str = "--device") -> None:
    """ValueError for a device that torch does not know or does not see here; option: what named it."""
    if not usable(device):
        raise ValueError(f"{option}: torch sees no {device} here; leave {option} out, or say --device cpu")


def where(device: str | None, devices: Texts = None, cluster: str | None = None, gpu: str | None = None) -> Where:
    """What the options say of it; ValueError where they exclude each other, or torch sees no such device here."""
    several = all_words("--devices", devices)  # a CPU twice is two workers
    found = Where(own_device(device, several, cluster, dash="--"), several, cluster, gpu)
    if gpu is not None and cluster is None:
        raise ValueError(f"--gpu: got {gpu} without --cluster; it chooses among the GPUs of one")
    if cluster is None:
        for one in several:
            need(one, "--devices")
        need(found.device)
    return found
