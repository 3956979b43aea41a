"""The sweeps behind the GPU's tables in data/RESULTS.md, by topic, a run file each.

All that a table compares is in one topic, peers included; peers that are not installed become rows that say so.
"""

from __future__ import annotations

from skiplab.sweep import AnySweep, DecodeSweep, LinearSweep, Sweep
from skiplab.workload import model_of
from skiplab.workload.packed import lengths_of
from skiplab.workload.problem import FLOAT8

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

SHORT = (256, 384, 512)
"""Lengths of prompts of which several stand in one batch."""
CACHES = ("bfloat16", FLOAT8)

D64 = {"q_heads": 64, "kv_heads": 8, "head_dim": 64}
D128 = {"q_heads": 32, "kv_heads": 8, "head_dim": 128}
D256 = {"q_heads": 32, "kv_heads": 16, "head_dim": 256}
D512 = {"q_heads": 32, "kv_heads": 4, "head_dim": 512}
FFPA_D512 = {"q_heads": 32, "kv_heads": 32, "head_dim": 512}
"""What FFPA's published times are of."""
QWEN = {"q_heads": 16, "kv_heads": 2, "head_dim": 256}
EVERY = {"device": "cuda", "dtype": "bfloat16", "budget_s": 0.1}

MODES = ("blockskip", "blockskip-map", "blockskip-mask", "blockskip-none", "sdpa-efficient-mask")
CAUSAL = ("blockskip", "flex", "sdpa-cudnn", "sdpa-flash", "fa3", "fa4", "flashinfer", "sdpa-efficient", "sdpa-causal")
WINDOWED = ("blockskip", "flex", "flash-window", "fa3", "fa4", "flashinfer", "efficient-window")
PACKED = ("blockskip-varlen", "blockskip", "flex", "flash-varlen", "torch-varlen", "fa3-varlen", "fa4-varlen")
MASKED = ("sdpa", "sdpa-efficient-mask", "sdpa-cudnn", "blockskip-none")
DECODE = ("blockskip", "blockskip-one", "blockskip-prefill", "sdpa", "sdpa-flash", "sdpa-cudnn", "flex", "fa3",
          "flashinfer", "flashinfer-tensor")  # fmt: skip
SEVERAL = ("blockskip", "blockskip-prefill", "sdpa-flash", "sdpa-cudnn", "flex", "fa3", "fa4", "flashinfer-prefill")
SMALL = ("blockskip", "sdpa-cudnn", "flex", "fa4")
FLASH = ("blockskip", "fa4", "fa3")
RAGGED = ("blockskip", "fa3", "flashinfer-batch")
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


def small_heads() -> dict[str, Sweep]:
    """Causal prompts at head sizes that are no power of two, and at 128, of which they are a share."""
    return {
        f"prefill-heads-d{size}": prefill(SMALL[:3], (1024, 4096, 16384), (None,), {**D128, "head_dim": size})
        for size in (80, 96, 128)
    }


def batches() -> dict[str, Sweep]:
    """Batches of short prompts."""
    return {f"prefill-batch{size}": prefill(SMALL, SHORT, (None,), D128, batch=size) for size in (4, 8, 16)}


def ragged(shape, *batches_and_keys: tuple[int, tuple[int, ...]]) -> dict[str, DecodeSweep]:
    """A sweep for each batch, of sequences with a quarter of these numbers of keys to all."""
    return {
        f"decode-ragged-d{shape['head_dim']}-b{batch}": DecodeSweep(
            RAGGED, keys, (None,), batch=batch, ragged=0.25, **shape, **EVERY
        )
        for batch, keys in batches_and_keys
    }


def float8(shape, keys, batch: int = 1) -> DecodeSweep:
    """Caches in float8 beside those in bfloat16."""
    return DecodeSweep(("blockskip",), keys, (None,), batch=batch, kv_dtype=CACHES, **shape, **EVERY)


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
    "prefill-causal-d64": prefill(SMALL, (1024, 4096, 16384), (None,), D64),
    "prefill-windows-d64": prefill(("blockskip", "flex", "fa4"), (4096, 16384, 32768), (128, 1024), D64, batch=2),
    "prefill-sinks-d64": prefill(("blockskip", "flex", "fa4"), (4096, 16384), (128, None), D64, sinks=True),
    **small_heads(),
    **batches(),
    "prefill-flash-d128": prefill(FLASH, (4096, 16384), (128, 256, 512, 1024, None), D128),
    "prefill-flash-d256": prefill(FLASH, (4096, 16384), (1024, None), D256),
    "prefill-ffpa-d512": prefill(("blockskip", "ffpa", "flex"), (8192, 16384), (None,), FFPA_D512),
    "prefill-float8-d128": prefill(("blockskip",), (2048, 8192), (1024, None), D128, kv_dtype=CACHES),
    "decode-gemma4-window": decode((1024, 4096, 16384), (1024,), D256),
    "decode-gemma4-sliding": decode(KEYS, (None,), D256),
    "decode-gemma4-full": decode(KEYS, (None,), D512),
    "decode-qwen": decode(KEYS, (None,), QWEN),
    **several("queries-d128", D128),
    **several("queries-d256", D256),
    **several("queries-d512", D512),
    **ragged(D128, (16, (8192, 32768)), (64, (2048, 4096))),
    **ragged(D256, (16, (8192,))),
    "decode-float8-d64": float8(D64, (16384, 65536, 131072)),
    "decode-float8-d128": float8(D128, (16384, 65536, 131072)),
    "decode-float8-d256": float8(D256, (16384, 65536, 131072)),
    "decode-float8-d512": float8(D512, (16384, 65536, 131072)),
    "decode-float8-d128-b16": float8(D128, (4096, 16384), batch=16),
    **linear("int4", INT4, 4, 32),
    **linear("symmetric", SYMMETRIC, 4, 32, symmetric=True),
    **linear("int4-g128", INT4, 4, 128),
    **linear("int8", INT8, 8, 32, 128),
    **linear("ways", WAYS, 4, 32, 128),
}
