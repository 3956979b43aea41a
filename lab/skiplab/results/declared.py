"""The tables of recorded results in README and `data/RESULTS.md`: what each shows, and its targets."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pandas as pd

from skiplab.rated import RowDict, rated
from skiplab.results.ahead import FLASH_AHEAD
from skiplab.results.asked import TargetsTable
from skiplab.results.cpu import cpu_linear, cpu_model, cpu_prefill
from skiplab.results.items import OURS, faster, named, times
from skiplab.results.ladder import LADDERS, LadderTable
from skiplab.results.reasons import REASONS
from skiplab.results.shapes import PROMPT, SHAPES, STEP, RecordedTables
from skiplab.results.tables import Item, OwnTable, Shown, Table, gather, styled
from skiplab.results.targets import (
    always,
    beside_bf16,
    beside_humming,
    few_rows,
    from_four_windows,
    large_layer,
    long_cache,
    of_one_token,
    prompt_rate,
    step_rate,
    steps_alone,
    windowed_share,
)
from skiplab.results.whole_model import whole_model
from skiplab.store import Run, noted_runs, read_runs

H100 = ("*-nvidia-h100-*",)
"""Run files by their names; the newest row of a point counts, whatever the rest of its file's name."""
H200 = ("*-nvidia-h200-*", "*_h200")
"""The same of an H200; then what was noted without samples, in `data/benchmarks`."""


def topic(name: str) -> tuple[str, ...]:
    """File patterns with that topic's runs first, in which a table's items were timed together; others fill gaps.

    Behind the whole runs those of a part of its contenders (`gpu_runs.file_name`).
    """
    return (f"*-nvidia-h100-*-{name}", f"*-nvidia-h100-*-{name}-of-*", *H100)


SLIDING, FULL, D128 = "32/16 of 256", "32/4 of 512", "32/8 of 128"
WINDOWS = (128, 256, 512, 1024, 2048, 4096)
PREFILL = PROMPT
DECODE = {**{name: value for name, value in STEP.items() if name != "window"}, "q_len": 1}
LINEAR = {"operation": "linear", "group_size": 32, "symmetric": 0, "dtype": "bfloat16"}


PEERS = named("attention", "flex", "flash-window", "fa3", "fa4", "flashinfer", "efficient-window")
EFFICIENT = "sdpa-efficient-mask"
DENSE_PEERS = named("attention", "sdpa", EFFICIENT, "sdpa-cudnn")
DENSE = ("sdpa", "sdpa-math", "sdpa-efficient", "sdpa-efficient-mask", "sdpa-cudnn", "blockskip-none")
CAUSAL_PEERS = named(
    "attention", "flex", "sdpa-flash", "fa3", "fa4", "sdpa-cudnn", "flashinfer", "sdpa-efficient", "sdpa-causal"
)
DECODE_PEERS = named("decode", "sdpa-flash", "sdpa-cudnn", "flex", "fa3", "flashinfer", "flashinfer-tensor")
MODES = (
    ("loop bounds (`bounds`)", "blockskip"),
    ("tile map (`map`)", "blockskip-map"),
    ("read the mask, leave early (`mask`)", "blockskip-mask"),
    ("visit all tiles (`none`)", "blockskip-none"),
    *named("attention", EFFICIENT),
)
FLASH_PACKED = ("flash-varlen", "torch-varlen", "fa3-varlen", "fa4-varlen")
OURS_PACKED = {"contender": "blockskip-varlen"}
MATVEC_PEERS = ("tinygemm", "gemlite", "bf16")
LLAMA = (("llama.cpp", "llama.cpp"), ("llama.cpp by cuBLAS", "llama.cpp-cublas"))


def packed_rows() -> pd.DataFrame:
    """Packed prompts on an H200: recorded in runs, else noted."""
    rows: Any = rated([*read_runs(), *noted_runs()], H200)
    return rows[rows["packed"].notna()]


def by_length(
    about: str, items: tuple[Item, ...], target: str = "", runs: tuple[str, ...] = H100, **where: Any
) -> Table:
    """A prefill table with prompt lengths across and items down."""
    return Table(about, ("q_len",), items, {**PREFILL, **where}, runs, across=True, target=target)


def windows(*than: str, least: Callable[[RowDict], float]) -> tuple[Item, ...]:
    """An item for each window: the speed-up of ours."""
    return tuple(faster(f"window {window:,}", *than, least=least, window=window) for window in WINDOWS)


def causal(about: str, heads: str, runs: tuple[str, ...]) -> Table:
    """A table of causal prompts, ours beside the peers."""
    ratios = (
        faster("times as fast as FlexAttention", "flex", least=always(1)),
        faster("times as fast as cuDNN", "sdpa-cudnn", least=always(0.8)),
    )
    target = "at least FlexAttention's speed, and at most 25 % more time than cuDNN"
    items = (*times(("blockskip", "blockskip"), *CAUSAL_PEERS), *ratios)
    return by_length(about, items, target, runs, heads=heads, mask="causal()")


def modes(about: str, runs: tuple[str, ...] = H100, **where: Any) -> Table:
    """A table of the skip modes, and the cost of each compared with loop bounds."""
    ratios = [faster(f"`{name}` ÷ `bounds`", f"blockskip-{name}") for name in ("map", "mask", "none")]
    return by_length(about, (*times(*MODES), *ratios), runs=runs, heads=SLIDING, **where)


DECLARED = {
    "sliding-d256": by_length(
        "**A sliding layer of Gemma 4 31B** (32 query heads, 16 key heads of 256, window 1,024, bfloat16).",
        (
            *times(("blockskip", "blockskip"), *PEERS, *DENSE_PEERS),
            faster("faster than FlexAttention", "flex", least=always(1)),
            faster("than the fastest that computes all tiles", *DENSE, least=from_four_windows),
        ),
        "faster than FlexAttention at every length, and from 4,096 tokens, four windows, on faster than every kernel "
        "that computes all tiles",
        topic("prefill-sliding"), heads=SLIDING, window=1024,
    ),
    "sliding-d128": by_length(
        "**Windows at head size 128** (32 query heads, 8 key heads, bfloat16), times faster than compiled "
        "FlexAttention.",
        windows("flex", least=always(1)), "faster at every point", topic("prefill-windows-d128"), heads=D128,
    ),
    "sliding-d128-dense": by_length(
        "**The same against the fastest kernel that computes all tiles** (dense + mask, efficient, cuDNN, ours).",
        windows(*DENSE, least=from_four_windows), "faster from four windows on", topic("prefill-windows-d128-dense"),
        heads=D128,
    ),
    "sliding-d128-times": by_length(
        "**Window 1,024 at head size 128** (32 query heads, 8 key heads, bfloat16).",
        times(("blockskip", "blockskip"), *PEERS, *DENSE_PEERS), runs=topic("prefill-windows-d128"), heads=D128,
        window=1024,
    ),
    "causal-d128": causal("**Causal at head size 128** (32 query heads, 8 key heads, bfloat16).", D128,
                          topic("prefill-causal-d128")),
    "causal-d256": causal("**Causal at head size 256** (32 query heads, 16 key heads, bfloat16).", SLIDING,
                          topic("prefill-causal-d256")),
    "causal-d512": by_length(
        "**A full layer of Gemma 4 31B** (32 query heads, 4 key heads of 512, causal, bfloat16).",
        (
            *times(("blockskip", "blockskip"), *CAUSAL_PEERS),
            faster("times as fast as FlexAttention", "flex", least=always(2)),
        ),
        "at least twice FlexAttention's speed",
        heads=FULL, mask="causal()",
    ),
    "modes-sliding": modes("**What each way to skip costs**, window 1,024, 32/16 heads of 256, bfloat16.", window=1024),
    "modes-causal": modes("**What each way to skip costs**, causal, 32/16 heads of 256, bfloat16.",
                          topic("prefill-causal-modes"), mask="causal()"),
    "launch": by_length(
        "**What a call costs beside its kernel**: in a CUDA graph, and called one by one with the L2 flushed between; "
        "window 1,024, 32/16 heads of 256, bfloat16.",
        tuple(
            Item(f"{head}, {words}", {"contender": name}, value)
            for head, name in named("attention", "blockskip", "flex", "sdpa")
            for words, value in (("in a graph", "us"), ("one by one", "eager"))
        ),
        heads=SLIDING, window=1024,
    ),
    "buffer": Table(
        "**2,048 tokens at the start of a cache of 4,096 slots** (32 query heads, 16 key heads of 256, bfloat16).",
        ("window",),
        (
            *times(*MODES),
            faster("`bounds` faster than `none` and torch's", "blockskip-none", EFFICIENT, least=always(4)),
        ),
        {**PREFILL, "heads": SLIDING, "buffer": 4096, "q_len": 2048}, H100, across=True,
        target="at least four times as fast as the faster of `none` and torch's efficient kernel",
    ),
    "packed": Table(
        "**Packed prompts**, their lengths on the device (`cu_seqlens`); bfloat16.",
        ("heads", "packed"),
        (
            *times(("blockskip", "blockskip-varlen"), ("with a document mask", "blockskip"),
                   *named("attention", *FLASH_PACKED, "flex")),
            Item("faster than FlashAttention", OURS_PACKED, "faster", FLASH_PACKED, always(1)),
            Item("than FlexAttention", OURS_PACKED, "faster", ("flex",), always(1)),
        ),
        {"operation": "attention", "dtype": "bfloat16"},
        target="faster than FlashAttention and FlexAttention at every point", source=packed_rows,
    ),
    "share": Table(
        "**Useful FLOPs of 8,192 tokens**, as a share of the rate of a bfloat16 product in the same run.",
        ("heads", "window"),
        (
            Item("blockskip", OURS, "products", least=windowed_share),
            *times(*PEERS, *named("attention", "sdpa-cudnn", "sdpa"), value="products"),
        ),
        {**PREFILL, "q_len": 8192}, ("*-nvidia-h100-*-prefill-causal-d*", *topic("prefill-windows-d128")),
        target="with a window, 60 % at head size 128 and 50 % at 256",
    ),
    "decode": Table(
        "**One new token over a cache**, bfloat16: 32/16 heads of 256 are Gemma 4 31B's sliding layer without a "
        "window, 32/4 of 512 its full layer.",
        ("heads", "kv_len"),
        (
            Item("blockskip", OURS, "us"),
            Item("read rate", OURS, "reads", least=long_cache),
            Item("of a plain read of as much", OURS, "plain"),
            *times(("one kernel without splits", "blockskip-prefill"), *DECODE_PEERS, value="us"),
            faster("faster than without splits", "blockskip-prefill", least=always(1)),
            faster("faster than the best peer", *(name for _, name in DECODE_PEERS), least=always(1)),
        ),
        {**DECODE, "window": None, "kv_len": [256, 2048, 16384, 131072]},
        (*topic("decode-gemma4-*")[:2], *topic("decode-qwen")),
        target="85 % of the read rate from 16,384 keys on, never slower than without splits, faster than all peers",
    ),
    "decode-window": Table(
        "**One new token, window 1,024**, 32/16 heads of 256, bfloat16: only the window is read.",
        ("kv_len",),
        times(("blockskip", "blockskip"), ("one split", "blockskip-one"),
              ("one kernel without splits", "blockskip-prefill"), *DECODE_PEERS, value="us"),
        {**DECODE, "window": 1024, "heads": SLIDING}, H100, across=True,
    ),
    "linear": Table(
        "**int4 and int8 products for one token**, Gemma 4 31B's layers, weights rotated past the L2; groups of 32.",
        ("out_features", "in_features"),
        (
            Item("int4", {**OURS, "bits": 4}, "us"),
            Item("read rate", {**OURS, "bits": 4}, "reads", least=large_layer),
            Item("of a plain read of as much", {**OURS, "bits": 4}, "plain"),
            *times(*named("linear", *MATVEC_PEERS), value="us", bits=4),
            faster("int4 faster than its best peer", *MATVEC_PEERS, least=always(1), bits=4),
            Item("int8", {**OURS, "bits": 8}, "us"),
            Item("int8's read rate", {**OURS, "bits": 8}, "reads", least=large_layer),
        ),
        {**LINEAR, "rows": 1}, topic("linear-int*"),
        target="80 % of the read rate at layers of more than 100 million weights, faster than tinygemm, gemlite, bf16",
    ),
    "linear-layout": Table(
        "**What the layout of int4 weights buys**: metadata strided over the rows, and activations in 4-byte loads.",
        ("group_size", "out_features", "in_features"),
        (
            *times(("as it is", "blockskip"), ("strided", "blockskip-strided"), ("4-byte loads", "blockskip-scalar"),
                   value="us"),
            faster("faster than strided", "blockskip-strided"),
            faster("than with 4-byte loads", "blockskip-scalar"),
        ),
        {**{name: value for name, value in LINEAR.items() if name != "group_size"}, "rows": 1, "bits": 4},
        ("*-nvidia-h100-*-linear-ways-*", *topic("linear-int4")),
    ),
    "linear-rows": Table(
        "**int4 products of several rows**, 21,504 outputs × 5,376 inputs, groups of 32.",
        ("rows",),
        times(("our choice", "blockskip"), ("on tensor cores, from packed weights", "blockskip-fused"),
              ("dequantized first", "blockskip-dequantize"), *named("linear", "tinygemm", "bf16"), value="us"),
        {**LINEAR, "out_features": 21504, "in_features": 5376, "bits": 4}, H100, across=True,
    ),
    "linear-layers": Table(
        "**int4 products by rows**, Gemma 4 31B's layers as they are served, weights rotated past the L2; groups of 32 "
        "with zero points.",
        ("out_features", "in_features", "rows"),
        (
            *times(*named("linear", "blockskip", "humming", "humming-int8", "bf16"), value="us"),
            faster("faster than Humming", "humming", "humming-int8", least=beside_humming),
            faster("than bf16", "bf16", least=beside_bf16),
        ),
        {**LINEAR, "bits": 4, "out_features": [16384, 5376, 43008], "in_features": [5376, 8192, 21504]},
        ("*-nvidia-h200-*linear-int4-*", H200[0]),
        target="faster than Humming up to 256 rows; faster than bf16 up to 128 rows, within 3 % of it at 256, 5 % at "
        "512 and 2 % from 2,048 on",
    ),
    "model-prompts": Table(
        "**Prompts of Gemma 4 31B**, tokens a second: random int4 weights, one request; llama.cpp with Q4_0, by its "
        "own clock.",
        ("q_len",),
        (
            Item("blockskip", OURS, "rate", least=prompt_rate),
            *times(*LLAMA, value="rate"),
            faster("times llama.cpp's best", "llama.cpp", "llama.cpp-cublas", least=always(3)),
            Item("memory, GB", OURS, "peak"),
        ),
        {"operation": "model", "phase": "prefill"},
        target="8,000 / 10,000 / 10,500 / 10,500 / 8,500 / 5,000 tokens a second at 256 / 512 / 2,048 / 8,192 / 32,768 "
        "/ 131,072, and three times llama.cpp's",
        source=whole_model,
    ),
    "model-steps": Table(
        "**Steps of Gemma 4 31B**, tokens a second: the same model, by a step's tokens and those before it.",
        ("tokens_a_step", "tokens_before"),
        (
            Item("blockskip", OURS, "rate", least=step_rate),
            Item("a step, of one token's", OURS, "ones"),
            *times(*LLAMA[:1], value="rate"),
            faster("times llama.cpp", "llama.cpp", least=of_one_token(1.8)),
            Item("memory, GB", OURS, "peak"),
        ),
        {"operation": "model", "phase": "decode"},
        target="170 / 168 / 164 / 150 / 115 tokens a second behind 256 / 2,048 / 8,192 / 32,768 / 131,072, and 1.8 "
        "times llama.cpp's",
        source=whole_model,
    ),
    "cpu": Table(
        "**On a CPU** (8 heads of 128, window 512). *Error*: the larger, of logits of deviation 1 and 8.",
        ("dtype", "q_len"),
        (
            *times(("blockskip", "blockskip")),
            Item("error", OURS, "error"),
            *times(*named("attention", "flex", "sdpa")),
            faster("faster than FlexAttention", "flex"),
            faster("than dense + mask", "sdpa"),
        ),
        statistic="least", source=cpu_prefill,
    ),
    "cpu-linear": Table(
        "**int4 layers on a CPU** (groups of 32, asymmetric), beside torch's float layer of the activations' dtype. Up "
        "to 8 rows are multiplied in int8.",
        ("dtype", "out_features", "in_features", "rows"),
        (
            *times(("compiled", "blockskip"), ("in PyTorch", "tiled"), ("torch's float layer", "layer")),
            faster("faster than the float layer", "layer", least=few_rows), faster("than in PyTorch", "tiled"),
            Item("error", OURS, "error"),
        ),
        target="up to 8 rows at least as fast as the float layer",
        statistic="least", source=cpu_linear,
    ),
    "cpu-model": Table(
        "**A whole model on a CPU**, the shape `laptop` in bfloat16 with random weights: a prompt, and a step behind "
        "as many tokens. Ours has them in int4.",
        ("phase", "q_len"),
        (
            *times(
                ("ours, int4", "blockskip"), ("ours, float weights", "floats"), ("with SDPA", "sdpa"),
                ("transformers with SDPA", "transformers"),
            ),
            faster("faster than transformers", "transformers", least=always(1)),
            faster("than float weights", "floats", least=steps_alone),
        ),
        target="no slower than transformers, and steps no slower than with float weights",
        statistic="least", source=cpu_model,
    ),
}  # fmt: skip


def _kept(name: str, *heads: str, **where: Any) -> Table:
    """A table cut to some of its items, for README."""
    table = DECLARED[name]
    items = tuple(item for item in table.items if not heads or item.head in heads)
    return replace(table, items=items, where={**table.where, **where})


README = {
    "decode-16k": replace(
        _kept(
            "decode",
            "blockskip",
            "read rate",
            "of a plain read of as much",
            *(head for head, _ in DECODE_PEERS),
            "faster than the best peer",
            kv_len=16384,
        ),
        about="**One new token over a cache of 16,384 keys**, bfloat16: 32/16 heads of 256 are Gemma 4 31B's sliding "
        "layer without a window, 32/4 of 512 its full layer.",
        axes=("heads",),
    ),
    "linear-large": _kept("linear", out_features=[21504, 8192]),
    "cpu-4096": _kept("cpu", q_len=4096),
}
"""Short forms of `DECLARED`."""
TABLES = {
    name: replace(table, reasons=REASONS.get(name, {})) for name, table in {**DECLARED, **SHAPES, **README}.items()
}
"""All tables by name: those of `data/RESULTS.md` in its order, then README's."""
OTHER_SHAPES = RecordedTables("## Attention on an H200, and at other shapes", {name: TABLES[name] for name in SHAPES})
TARGETS = TargetsTable({name: TABLES[name] for name in (*DECLARED, *SHAPES)})
ALL: dict[str, Table | OwnTable] = {
    **TABLES,
    **LADDERS,
    "other-shapes": OTHER_SHAPES,
    "targets": TARGETS,
    "ahead": FLASH_AHEAD,
}
"""All that the pages hold, with what is made in its own way."""


def show(name: str, runs: Iterable[Run] | None = None) -> Shown:
    """A declared table for a notebook; runs: those of `data/runs` by default. ValueError lists the names."""
    named: dict[str, Table | LadderTable] = {**TABLES, **LADDERS}
    if name not in named:
        raise ValueError(f"name: got {name!r}; allowed are {', '.join(named)}")
    table, runs = named[name], read_runs() if runs is None else runs
    return table.shown(runs) if isinstance(table, LadderTable) else styled(name, table, gather(table, runs))
