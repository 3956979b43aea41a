"""The run files behind the GPU's tables in data/RESULTS.md: `skiplab runs` makes them anew.

All that a table compares is in one topic, peers included; peers that are not installed become rows that say so.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast

import torch
from pebble import ProcessPool

from skiplab.machine import device_name
from skiplab.measure import Point
from skiplab.measure.serving import begin_child
from skiplab.store import slug
from skiplab.store.keys import without_index
from skiplab.sweep import AnySweep, DecodeSweep, LinearSweep, Sweep, Where, run_sweep
from skiplab.tuning.compiling import COMPILE_S
from skiplab.workload import model_of
from skiplab.workload.packed import lengths_of

LENGTHS = (512, 1024, 2048, 4096, 8192, 16384, 32768)
WINDOWS = (128, 256, 512, 1024, 2048, 4096)
QUERIES = (1, 2, 4, 8, 16, 32, 64, 128)
KEYS = (256, 1024, 2048, 4096, 16384, 65536, 131072)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 2048)

PACKED_LENGTHS = (
    (384,) * 8, (4096,) * 4, (512,) * 32, (128,) * 128,
    lengths_of("64-4096:8192", 1), lengths_of("64-4096:16384", 1), lengths_of("64-4096:65536", 1),
)  # fmt: skip
"""Of packed prompts: even ones, short and long, and drawn ones of three totals."""

D64 = {"q_heads": 64, "kv_heads": 8, "head_dim": 64}
D128 = {"q_heads": 32, "kv_heads": 8, "head_dim": 128}
D256 = {"q_heads": 32, "kv_heads": 16, "head_dim": 256}
D512 = {"q_heads": 32, "kv_heads": 4, "head_dim": 512}
QWEN = {"q_heads": 16, "kv_heads": 2, "head_dim": 256}
EVERY = {"device": "cuda", "dtype": "bfloat16", "budget_s": 0.1}
MODES = ("blockskip", "blockskip-map", "blockskip-mask", "blockskip-none", "sdpa-efficient-mask")
CAUSAL = ("blockskip", "flex", "sdpa-cudnn", "sdpa-flash", "fa3", "fa4", "flashinfer", "sdpa-efficient", "sdpa-causal")
WINDOWED = ("blockskip", "flex", "flash-window", "fa3", "fa4", "flashinfer", "efficient-window")
PACKED = ("blockskip-varlen", "blockskip", "flex", "flash-varlen", "torch-varlen", "fa3-varlen", "fa4-varlen")
MASKED = ("sdpa", "sdpa-efficient-mask", "sdpa-cudnn", "blockskip-none")
DECODE = ("blockskip", "blockskip-one", "blockskip-prefill", "sdpa", "sdpa-flash", "sdpa-cudnn", "flex", "fa3",
          "flashinfer", "flashinfer-tensor")  # fmt: skip
SEVERAL = ("blockskip", "blockskip-prefill", "sdpa-flash", "sdpa-cudnn", "flex", "fa3")
INT4 = ("blockskip", "humming", "humming-int8", "tinygemm", "gemlite", "bf16")
SYMMETRIC = ("blockskip", "humming", "humming-int8", "blockskip-int8-mma", "bf16")
WAYS = ("blockskip", "blockskip-fused", "blockskip-dequantize", "blockskip-int8-mma", "blockskip-strided",
        "blockskip-scalar")  # fmt: skip
INT8 = ("blockskip", "blockskip-fused", "blockskip-dequantize", "bf16")
LAYERS = {
    "fused": ("qkv", "o", "gate+up", "down"),
    "apart": ("q", "k", "v", "gate", "up"),
    "full": ("qk full", "k full", "o full"),
    "head": ("head",),
}
"""All of Gemma 4 31B's linear layers, in parts that are run by themselves; `q full` has the shape of `qkv`."""


# Products reach the power limit, which slows the clock: there contenders' samples are taken in turn.


def prefill(contenders, lengths, windows, shape, **more) -> Sweep:
    return Sweep(contenders, lengths, windows, interleave=True, **shape, **EVERY, **more)


def packed(shape) -> Sweep:
    return Sweep(PACKED, None, (None, 1024), lengths=PACKED_LENGTHS, **shape, **EVERY)


def decode(keys, windows, shape) -> DecodeSweep:
    return DecodeSweep(DECODE, keys, windows, **shape, **EVERY)


def several(topic: str, shape) -> dict[str, DecodeSweep]:
    """A sweep for each number of last queries, such as of drafts that are verified, or of a prompt's small chunk."""
    keys = (2048, 8192, 32768)
    return {f"decode-{topic}-q{q}": DecodeSweep(SEVERAL, keys, (None,), q, **shape, **EVERY) for q in QUERIES}


def linear(topic: str, contenders, bits: int, *group_size: int, symmetric: bool = False) -> dict[str, LinearSweep]:
    """A sweep for each part of the layers, at all numbers of rows."""
    model = model_of("gemma4-31b")
    return {
        f"linear-{topic}-{part}": LinearSweep(
            contenders, model.chosen(names), ROWS, (bits,), group_size, symmetric, interleave=True, **EVERY
        )
        for part, names in LAYERS.items()
    }


# Of a point that several runs hold a table takes its own topic's row, else the newest: ours in other ways come later.
TOPICS: dict[str, AnySweep] = {
    "prefill-windows-d128": prefill(WINDOWED, LENGTHS, WINDOWS, D128),
    "prefill-windows-d128-dense": prefill(("blockskip", *MASKED), LENGTHS, WINDOWS, D128),
    "prefill-sliding": prefill((*WINDOWED, *MASKED, *MODES[1:3]), LENGTHS, (1024,), D256),
    "prefill-causal-d128": prefill(CAUSAL, LENGTHS, (None,), D128),
    "prefill-causal-d256": prefill(CAUSAL, LENGTHS, (None,), D256),
    "prefill-causal-d512": prefill(CAUSAL, LENGTHS, (None,), D512),
    "prefill-causal-modes": prefill(MODES, LENGTHS, (None,), D256),
    "prefill-buffer": prefill((*MODES, "sdpa-efficient"), (2048,), (1024, None), D256, buffer=4096),
    **{f"prefill-packed-d{shape['head_dim']}": packed(shape) for shape in (D64, D128, D256)},
    "decode-gemma4-window": decode((1024, 4096, 16384), (1024,), D256),
    "decode-gemma4-sliding": decode(KEYS, (None,), D256),
    "decode-gemma4-full": decode(KEYS, (None,), D512),
    "decode-qwen": decode(KEYS, (None,), QWEN),
    **several("queries-d128", D128),
    **several("queries-d256", D256),
    **several("queries-d512", D512),
    **linear("int4", INT4, 4, 32),
    **linear("symmetric", SYMMETRIC, 4, 32, symmetric=True),
    **linear("int4-g128", INT4, 4, 128),
    **linear("int8", INT8, 8, 32, 128),
    **linear("ways", WAYS, 4, 32, 128),
}
COMPILED = ("blockskip", "flex", "fa4", "humming")
"""Beginnings of the names of those whose kernels are compiled when they are first called."""


def of_contenders(topics: Mapping[str, AnySweep], names: Sequence[str]) -> dict[str, AnySweep]:
    """The topics that have some of these contenders, with these alone, in the topics' order.

    ValueError for a name that none of them has.
    """
    there = {name for sweep in topics.values() for name in sweep.contenders}
    if unknown := [name for name in names if name not in there]:
        raise ValueError(f"--contender: got {unknown[0]!r}; these topics have {', '.join(sorted(there))}")
    cut = {topic: tuple(name for name in sweep.contenders if name in names) for topic, sweep in topics.items()}
    return {topic: replace(cast(Any, topics[topic]), contenders=kept) for topic, kept in cut.items() if kept}


def record(
    topics: Mapping[str, AnySweep], folder: Path, end: float, retries: int, where: Where, parts: bool = False
) -> str:
    """Run the sweeps until `end` on the monotonic clock; return the topic that was interrupted, '' if all are done.

    parts: whether the sweeps have but some of their topics' contenders: each is then a run of its own, for a file's
    rows are of the contenders that its header names (`file_name`).
    """
    start = f"{datetime.now(UTC).date().isoformat()}-{slug(device_name(where.device))}"
    for name, plain in topics.items():
        sweep = replace(cast(Any, plain), device=where.device)
        path = folder / f"{start}-{file_name(name, sweep.contenders if parts else ())}"
        stop = {"cancelled": lambda: time.monotonic() > end, "retries": retries}
        run = run_sweep(sweep, path, topic=name, **stop, **where.options)
        if not {point.key for point in sweep.points()} <= {without_index(row["point"]) for row in run.rows}:
            return name
    return ""


def file_name(topic: str, contenders: Sequence[str] = ()) -> str:
    """A topic's run file behind its date and device; contenders: those of a part, as `declared.topic` looks for it."""
    return f"{topic}-of-{slug('-'.join(contenders))}.jsonl" if contenders else f"{topic}.jsonl"


def compile_first(points: Iterable[Point]) -> None:
    """Call each contender that compiles once, in parallel processes, so that the compilers' caches hold its kernels."""
    slow_first = sorted(
        (p for p in points if p.contender.startswith(COMPILED)), key=lambda p: "blockskip" in p.contender
    )
    workers = max(1, min(14, (os.cpu_count() or 2) - 2))
    with ProcessPool(workers, initializer=begin_child, initargs=(os.getpid(),), context=get_context("spawn")) as pool:
        futures = {point: pool.schedule(call_once, args=(point,), timeout=COMPILE_S) for point in slow_first}
        for point, future in futures.items():
            if error := future.exception():  # its row will say the same
                problem = f"{type(error).__name__}: {str(error)[:200]}"
                print(f"{point.contender}, {point.workload.size}: {problem}", file=sys.stderr)


def call_once(point: Point) -> None:
    """Call a point once, if it is supported."""
    entry, workload = point.entry, point.workload
    if entry.supports(workload, point.device) is None:
        arguments = entry.prepare(workload, workload.inputs(point.device, 0))
        entry.build(workload, arguments)(*arguments)
        if point.device != "cpu":
            torch.cuda.synchronize()
