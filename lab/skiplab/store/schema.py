"""The schema of a run file's lines: what a reader checks, what a writer may write, and what each key means.

`documented.py` makes the tables in `data/README.md` of it. Keys that are not listed here are kept unchecked, so that a
later version may add some. Counts fit in 64 bits, since a frame holds them as such; amounts are so small that rates and
logarithms of them are doubles.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

import msgspec
from msgspec import Meta, Struct

from skiplab.operations import OPERATIONS
from skiplab.operations.base import Count, RowAxes, Said

SCHEMA = 1
STATUSES = ("ok", "wrong", "unsupported", "out-of-memory", "crashed", "timeout")
Amount = Annotated[float, Meta(ge=0, le=1e30)]
PositiveFloat = Annotated[float, Meta(gt=0)]
Difference = Annotated[float, Meta(ge=0)]
Name = Annotated[str, Meta(min_length=1)]
VersionNumber = Annotated[str, Meta(pattern=r"^\d{1,4}\.\d{1,4}$")]


FILED = {one.axes: one.filed for one in OPERATIONS.values()}
"""Axes that every row of a file has, beside those that every row has."""
if TYPE_CHECKING:
    Axes = RowAxes
    OperationName = str
else:
    Axes = Union[tuple(one.axes for one in OPERATIONS.values())]  # noqa: UP007 - of a table, not of names
    OperationName = Literal[tuple(OPERATIONS)]


class RunFileError(ValueError):
    """A run file that cannot be trusted; the message names the file, the line and the field."""


class Device(Struct):
    """A header's `device`: what readers use of it."""

    name: Annotated[str, Said("as figures say it")]
    kind: Annotated[str, Said("`cpu` or `cuda`")] = ""
    sms: Annotated[Count | None, Said("a GPU's multiprocessors")] = None
    compute_capability: Annotated[VersionNumber | None, Said("a GPU's")] = None


class Roof(Struct):
    """A header's `roof`: this device's, as measured."""

    bandwidth_gbps: Annotated[
        PositiveFloat,
        Said(
            "1e9 bytes/s, the better of a copy (read + written) and a read (in the three files of 2026-11-25 whose "
            "header has no `operation`: of a copy)"
        ),
    ]
    tflops: Annotated[PositiveFloat, Said("1e12 FLOP/s of a product")]


class Header(Struct, tag_field="record", tag="header"):
    """The first line."""

    schema: Annotated[Count, Said("1")]
    run_id: Annotated[Name, Said("unique name")]
    device: Annotated[
        Device,
        Said("beside these, of a GPU memory, L2, driver, power limit, clocks, ECC, MIG; a CPU's cores, cache, memory"),
    ]
    operation: Annotated[OperationName | None, Said("without it (older files) attention")] = None
    command: Annotated[str, Said("the full command line that repeats the run")] = ""
    argv: Annotated[list[str], Said("the command line as given, paths cut to names")] = []
    parameters: Annotated[
        dict[str, Any],
        Said(
            "the sweep: contenders, axes (q_len or kv_len, window (null: causal); layers, rows, bits, group sizes; "
            "prompts, depths, new steps), shape, dtype, device, seed, seconds a point"
        ),
    ] = {}
    seed: Annotated[int | None, Said("of the inputs")] = None
    git: Annotated[
        dict[str, str | bool] | None,
        Said(
            "`commit`, and `dirty`: whether tracked files differed from it, as in a copy of the tree that has "
            "newer files than commits (`source_hash` tells which kernels ran); {} outside a checkout of ours, as "
            "for an installed package"
        ),
    ] = None
    source_hash: Annotated[str | None, Said("hash of the kernel package's sources")] = None
    kernels: Annotated[
        dict[str, dict[str, str]],
        Said(
            "users' kernels: `hash` of the source, and `from`, the file or module that `--from` is given; {} for one "
            "that was made inside a function"
        ),
    ] = {}
    python: Annotated[str | None, Said("version")] = None
    torch: Annotated[str | None, Said("version")] = None
    triton: Annotated[str | None, Said("version")] = None
    cuda: Annotated[str | None, Said("version that torch was built for")] = None
    cpu: Annotated[str | None, Said("the CPU's name and threads")] = None
    threads: Annotated[Count | None, Said("CPU threads of torch")] = None
    roof: Annotated[Roof | None, Said("this device's measured roofs")] = None
    start: Annotated[str, Said("ISO 8601, UTC")] = ""
    end: Annotated[str | None, Said("in a file it stands in the line that ends a run")] = None
    left_out: Annotated[Any, Said("rows of the run that were taken out of the file, and why; most have none")] = None


class End(Struct, tag_field="record", tag="end", omit_defaults=True):
    """The line that ends a run, or a part of it where it was continued."""

    end: Annotated[str, Said("ISO 8601, UTC")]
    interrupted: Annotated[bool, Said("whether Ctrl-C or a limit left points to measure")] = False


END = End.__struct_fields__
"""The keys of a header that its file says in an end."""


def with_end(header: Mapping[str, Any], end: End | None) -> dict[str, Any]:
    """The header with that end; None: without an end."""
    going_on = {name: value for name, value in header.items() if name not in END}
    said = msgspec.to_builtins(end) if end is not None else {}
    return {**going_on, **{name: said[name] for name in END if name in said}}


class RowWork(Struct, gc=False):
    """FLOPs and bytes of one call."""

    useful_flops: Annotated[Amount, Said("on pairs that the mask keeps")]
    minimal_bytes: Annotated[
        Amount,
        Said(
            "q, out and the keys and values that are seen, once; linear: packed weight, activations and output "
            "once; a model: every packed weight, the cache and the logits once, nothing between the products"
        ),
    ]
    dense_flops: Annotated[Amount | None, Said("on all pairs")] = None
    bytes: Annotated[Amount | None, Said("moved by this contender, its mask included")] = None
    executed_flops: Annotated[
        Amount | None, Said("on pairs of visited tiles; null where a peer's tiles are not known")
    ] = None


class PlanFacts(Struct):
    """The part of a row's `plan` that readers use."""

    config: Annotated[list[Count], Meta(min_length=2)] | None = None
    packed: bool | None = None


class Timed(Struct, tag_field="record", tag="point", gc=False):
    """The part of a row that a frame shows, decoded without the rest, which is most of a row's bytes."""

    point: Annotated[str, Said("contender, config, workload, torch device, in words")]
    axes: Annotated[Axes, Said("the workload, below")]
    contender: Annotated[str, Said("its name in the lab")]
    status: Annotated[
        Literal["ok", "wrong", "unsupported", "out-of-memory", "crashed", "timeout"], Said("only `ok` has samples")
    ]
    samples_ns: Annotated[
        list[Count],
        Said(
            "nanoseconds a call, in order, as measured. A `graph` sample is a replay of about 5 ms divided by its calls"
        ),
    ]
    label: Annotated[str | None, Said("as figures say its name")] = None
    method: Annotated[
        str | None,
        Said(
            "`graph` (replay of a CUDA graph, inputs rotated over five times the L2), `eager` (single calls, L2 "
            "flushed; a model's prompt with the host's share), `cpu`, `llama-bench` (as that program says)"
        ),
    ] = None
    error: Annotated[Difference | None, Said("largest absolute difference from the same in float64")] = None
    tolerance: Annotated[
        Difference | None,
        Said(
            "what is allowed of it. Attention and decode: twice the error of torch's own result in the same dtype "
            "plus one rounding of the dtype and of a score; linear is held against the product of the contender's "
            "own operands: K float32 roundings of the sum of magnitudes, what the contender rounds of its weight, "
            "and one rounding of the dtype; of a model logits of a short prompt, or of a step behind it, are "
            "compared: twice what the same decoder in plain PyTorch is off by"
        ),
    ] = None
    snr_db: Annotated[
        float | None,
        Said(
            "of float8 keys and values: the result's signal-to-noise ratio in decibel, beside the same in float64 of "
            "the numbers before they were rounded to float8; `error` is beside what these stand for"
        ),
    ] = None
    flags: Annotated[list[str], Said("what makes the number doubtful, below")] = []
    error_text: Annotated[str, Said("why the status is not ok")] = ""
    work: Annotated[RowWork | None, Said("FLOPs and bytes of one call, below")] = None
    parts_ns: Annotated[
        dict[str, Amount],
        Said(
            "of a model's decoder: nanoseconds of one call by part: `attention sliding`, `attention full`, each "
            "product (`qkv`, `o`, `gate+up`, `down`, `head`), `pointwise` (everything else that runs), `gaps` "
            "(nothing runs). On a GPU kernels' own time, and what the median has beside it; on a CPU a profiled "
            "call's"
        ),
    ] = {}
    peak_bytes: Annotated[
        Count | None,
        Said("the most memory while a model was timed: what torch held of a GPU's, on a CPU the whole process (Linux)"),
    ] = None


class Row(Timed, tag_field="record", tag="point", kw_only=True, gc=False):
    """A row, one point measured."""

    key: Annotated[str, Said("what resuming looks for: `point` and the source hash")]
    device: Annotated[str, Said("the device's name, the same as in the header")]
    torch_device: Annotated[str, Said("where torch ran it, on a cluster a GPU by its index in its machine")] = ""
    node: Annotated[str, Said("on a Ray cluster: the beginning of Ray's id of the machine. No other row has it")] = ""
    together: Annotated[
        list[str],
        Said(
            "the contenders whose samples were taken in turn with this one's (`--interleave`), so that all saw the "
            "same clocks; a row without it was timed by itself"
        ),
    ] = []
    config: Annotated[
        list[int] | None,
        Said("the tile config asked for; null: the contender's own choice, which `plan` tells for ours"),
    ] = None
    other_samples_ns: Annotated[
        dict[str, list[Count]],
        Said("the same by `eager` and `warm` (replay on one input) where `method` is `graph`"),
    ] = {}
    clocks: Annotated[
        dict[str, Any],
        Said(
            "GPU: clocks in MHz, temperature in C and throttle reasons before and after. CPU: `others_share`, the "
            "share of the cores that other programs used"
        ),
    ] = {}
    plan: Annotated[
        PlanFacts | None,
        Said(
            "what our attention chose: implementation, skip mode, tiles, whether query heads were packed, and "
            "since routing which kernel and how many splits; `origin` of the tiles, where the row has it: `asked` "
            "for, `tuned` on this device, `elsewhere` (then `tuned_on` names the device), or `table`; decode: "
            "implementation, tiles, splits, origin; linear: implementation, kernel, its config, splits, origin "
            "(older rows: nothing); a model: `layers`, all or one of each kind; llama.cpp: its build, batch sizes "
            "and switches. FlexAttention: `kernel_options`, where torch's own tiles do not fit the GPU and "
            "documented smaller ones were taken"
        ),
    ] = None
    source_hash: Annotated[str, Said("of the kernels that this row was measured with")] = ""
    kernel_hash: Annotated[str, Said("of a user's kernel: of its source")] = ""


FLAGS: Mapping[str, str] = {
    "launch-bound": "called one by one it takes over 10 % longer than replayed: the host is the limit",
    "l2-resident": "what a call reads was not rotated past five times the last cache",
    "allocates": "the call takes device memory beyond its result",
    "throttled": "the GPU had slowed its clocks while it was timed, three times in a row",
    "other-device": "another device of the same kind measured its workload's first points: no speed-up is of both",
    "busy": "other programs used over 5 % of the processor while it was timed",
    "bimodal": "the samples fall into two groups",
    "impossible": "faster than the data sheet, or the measured roof where there is none, allows",
    "unconverged": "the time budget ended before the median was sure to 0.5 %",
    "tuned-elsewhere": "its tiles were tuned on another GPU of this compute capability",
    "unchecked": "its result was not compared with the reference",
}
"""What makes a number doubtful, and what each means."""
