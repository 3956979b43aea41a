"""Tables of attention at other shapes than a model's own: which there are, and what is asked of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skiplab.rated import RowDict
from skiplab.results.items import OURS, faster, named, times
from skiplab.results.tables import Item, MissingRun, Table, gather, markdown, nothing
from skiplab.results.targets import (
    always,
    as_one_query,
    of_long_float8,
)
from skiplab.store import Run
from skiplab.workload.problem import FLOAT8

H200 = "*-nvidia-h200-*"
PLAIN = {"dtype": "bfloat16", "kv_dtype": None}
PROMPT = {**PLAIN, "operation": "attention", "buffer": None, "packed": None, "batch": 1, "sinks": None}
CAUSAL = {**PROMPT, "mask": "causal()"}
STEP = {**PLAIN, "operation": "decode", "window": None, "batch": 1, "ragged": None}
D64, D128, D256, D512 = "64/8 of 64", "32/8 of 128", "32/16 of 256", "32/4 of 512"
QUERIES_PEERS = ("sdpa-flash", "sdpa-cudnn", "flex", "fa3", "fa4", "flashinfer-prefill")
AHEAD = "faster than every peer of the table at every point"


def topics_of_h200(*topics: str) -> tuple[str, ...]:
    """File patterns of an H200's runs: whole topics first, then parts of them."""
    return tuple(f"{H200}{end}" for topic in topics for end in (topic, f"{topic}-of-*"))


def on_h200(*topics: str) -> tuple[str, ...]:
    """As `topics_of_h200`, then others, which fill gaps."""
    return (*topics_of_h200(*topics), H200)


def beside(
    about: str, axes: tuple[str, ...], peers: tuple[str, ...], runs: tuple[str, ...], where: Mapping[str, Any],
    *more: Item, target: str = AHEAD, across: bool = False,
) -> Table:  # fmt: skip
    """A table of a prompt's attention: ours beside these peers, how many times faster than the best, and more."""
    items = (
        *times(("blockskip", "blockskip"), *named("attention", *peers)),
        faster("faster than the best peer", *peers, least=always(1)),
        Item("TFLOP/s", OURS, "tflops"),
        *more,
    )
    return Table(about, axes, items, where, runs, across=across, target=target)


def narrow(
    about: str, axes: tuple[str, ...], runs: tuple[str, ...], where: Mapping[str, Any], unit: str,
    least: Callable[[RowDict], float] = nothing, target: str = "",
) -> Table:  # fmt: skip
    """A table of keys and values in float8 beside those in bfloat16."""
    in_float8 = {**OURS, "kv_dtype": FLOAT8}
    items = (
        Item("in bfloat16", {**OURS, "kv_dtype": None}, unit),
        Item("in float8", in_float8, unit),
        Item("times as fast", in_float8, "faster", ("blockskip",), least, at={"kv_dtype": None}),
        Item("read rate", in_float8, "reads"),
        Item("dB", in_float8, "db"),
    )
    wide = {name: value for name, value in where.items() if name not in ("kv_dtype", "batch")}
    return Table(about, axes, items, wide, runs, target=target)


SHAPES = {
    "sliding": beside(
        "**A sliding layer of Gemma 4 31B** (32 query heads, 16 key heads of 256, window 1,024, bfloat16).", ("q_len",),
        ("flex", "fa3", "fa4", "flashinfer"), on_h200("prefill-sliding"), {**PROMPT, "heads": D256, "window": 1024},
        across=True,
    ),
    "causal-d64": beside(
        "**Causal prompts at head size 64** (64 query heads, 8 key heads, bfloat16).", ("q_len",),
        ("sdpa-cudnn", "flex", "fa4"), on_h200("prefill-causal-d64"), {**CAUSAL, "heads": D64}, across=True,
    ),
    "windows-d64": beside(
        "**Windows at head size 64** (2 prompts, 64 query heads, 8 key heads, bfloat16).", ("window", "q_len"),
        ("flex", "fa4"), on_h200("prefill-windows-d64"), {**PROMPT, "heads": D64, "batch": 2, "window": [128, 1024]},
    ),
    "sinks-d64": beside(
        "**With sinks** (64 query heads, 8 key heads of 64, as gpt-oss, bfloat16).", ("window", "q_len"),
        ("flex", "fa4"), on_h200("prefill-sinks-d64"), {**PROMPT, "heads": D64, "sinks": 1.0},
    ),
    "heads-80-96": Table(
        "**Head sizes 80 and 96** (32 query heads, 8 key heads, causal, bfloat16).", ("head_dim", "q_len"),
        tuple(
            Item(item.head, {**item.where, "head_dim": [80, 96]}, item.value, item.than, item.least, at=item.at)
            for item in (
                *times(("blockskip", "blockskip"), *named("attention", "sdpa-cudnn", "flex")),
                faster("faster than cuDNN", "sdpa-cudnn", least=always(1)),
                Item("TFLOP/s", OURS, "tflops"),
                Item("of head size 128's", OURS, "share", ("blockskip",), always(0.95), at={"head_dim": 128}),
            )
        ),
        {**CAUSAL, "q_heads": 32, "kv_heads": 8, "head_dim": [80, 96, 128], "q_len": [1024, 4096, 16384]},
        on_h200("prefill-heads-d*"),
        target="faster than cuDNN, and 95 % of the useful FLOPs a second of head size 128",
    ),
    "batches": beside(
        "**Batches of short prompts** (32 query heads, 8 key heads of 128, causal, bfloat16).", ("batch", "q_len"),
        ("sdpa-cudnn", "flex", "fa4"), on_h200("prefill-batch*"),
        {**CAUSAL, "heads": D128, "batch": [4, 8, 16], "q_len": [256, 384, 512]},
    ),
    "flash": beside(
        "**Windows, and causal prompts, beside FlashAttention**, bfloat16.", ("heads", "window", "q_len"),
        ("fa4", "fa3"), topics_of_h200("prefill-flash-d*"),
        {**PROMPT, "heads": [D128, D256], "window": [128, 256, 512, 1024, None], "q_len": [4096, 16384]},
    ),
    "ffpa": beside(
        "**Head size 512 with 32 key heads** (32 query heads, causal, bfloat16).", ("q_len",), ("ffpa", "flex"),
        on_h200("prefill-ffpa-d512"), {**CAUSAL, "heads": "32/32 of 512"},
        faster("faster than FlexAttention", "flex", least=always(2)), across=True,
        target="faster than FFPA, and twice as fast as FlexAttention",
    ),
    "prefill-float8": narrow(
        "**Prompts over keys and values in float8** (32 query heads, 8 key heads of 128).", ("window", "q_len"),
        on_h200("prefill-float8-d128"), {**PROMPT, "heads": D128, "window": [1024, None], "q_len": [2048, 8192]}, "ms",
    ),
    "decode-queries": Table(
        "**Up to 128 last queries over a cache**, as in the verification of drafts or in small chunks of a prompt, "
        "bfloat16, causal among themselves.",
        ("heads", "kv_len", "q_len"),
        (
            Item("blockskip", OURS, "us"),
            Item("of one query's time", OURS, "slower", ("blockskip",), most=as_one_query, at={"q_len": 1}),
            *times(("one kernel without splits", "blockskip-prefill"), *named("decode", *QUERIES_PEERS), value="us"),
            faster("faster than without splits", "blockskip-prefill", least=always(1)),
            faster("faster than the best peer", *QUERIES_PEERS, least=always(1)),
        ),
        {**STEP, "kv_len": [2048, 8192, 32768]},
        on_h200("decode-queries-*"),
        target="never slower than without splits, or than any peer; from 8,192 keys on 16 queries take at most 1.2 "
        "times one's time, and 8 of head size 512 at most 1.15 times",
    ),
    "decode-ragged": Table(
        "**Batches of different lengths**, a quarter of the keys to all, on the device; one new token, bfloat16.",
        ("heads", "batch", "kv_len"),
        (
            Item("blockskip", OURS, "us"),
            Item("TB/s", OURS, "tbps", least=always(4.0)),
            *times(*named("decode", "fa3", "flashinfer-batch"), value="us"),
            faster("faster than the best peer", "fa3", "flashinfer-batch"),
        ),
        {name: value for name, value in {**STEP, "ragged": 0.25, "q_len": 1}.items() if name != "batch"},
        on_h200("decode-ragged-*"),
        target="4.0 TB/s of the keys and values that there are",
    ),
    "decode-float8": narrow(
        "**Caches in float8 beside bfloat16**, one new token.", ("heads", "batch", "kv_len"),
        on_h200("decode-float8-*"), {**STEP, "q_len": 1, "kv_len": [4096, 16384, 65536, 131072]}, "us",
        of_long_float8, "1.7 times as fast from 65,536 keys in all sequences on",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class RecordedTables:
    """Those of the tables of which a run is recorded, one below the other under their heading; nothing without any."""

    heading: str
    tables: Mapping[str, Table]

    def markdown(self, runs: Iterable[Run], page: Path) -> str:
        """For a page."""
        runs, made = list(runs), []
        for name, table in self.tables.items():
            try:
                made.append(markdown(name, table, gather(table, runs), page))
            except MissingRun:
                continue
        return "\n\n".join([self.heading, *made]) if made else ""
