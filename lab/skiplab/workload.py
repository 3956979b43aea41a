"""A problem to solve: shapes, dtype and mask. Who solves it is a contender; how fast is a measurement.

Three operations, a class each: attention of a prompt (`Workload`), of a few new tokens over a cache (`DecodeWorkload`),
and a quantised linear layer (`LinearWorkload`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

import blockskip as bs
import torch

from skiplab.problem import DTYPES as DTYPES
from skiplab.problem import Heads, Problem
from skiplab.store import data_path

OPERATIONS = ("attention", "decode", "linear")
WEIGHT_DEVIATION = 0.02
"""Standard deviation of a linear layer's weights: what training leaves, about."""


@dataclass(frozen=True)
class Workload(Heads):
    """One attention problem: q [batch, q_heads, q_len, head_dim], k and v [batch, kv_heads, kv_len, head_dim].

    `kv_len` defaults to `q_len`; query row i stands at position `q_start + i`, by default at the end of the keys. With
    q_start 0 it is a prompt at the start of a cache: see `buffer`. ValueError names the field, what was given and what
    is allowed.
    """

    q_len: int
    kv_len: int | None = None
    mask: bs.Mask = field(default_factory=bs.causal)
    batch: int = 1
    q_heads: int = 8
    kv_heads: int = 8
    head_dim: int = 128
    dtype: str = "bfloat16"
    q_start: int | None = None
    operation: ClassVar[str] = "attention"

    def __post_init__(self) -> None:
        if self.kv_len is None:
            object.__setattr__(self, "kv_len", self.q_len)
        self._check("q_len", "kv_len", "batch", "q_heads", "kv_heads")
        self._check_heads()
        if not isinstance(self.mask, bs.Mask):
            raise ValueError(f"mask: got {self.mask!r}; allowed is a blockskip mask, such as sliding_window(512)")

    @property
    def keys(self) -> int:
        """kv_len, never None."""
        assert self.kv_len is not None
        return self.kv_len

    @property
    def first_position(self) -> int:
        """The position of query row 0."""
        return self.keys - self.q_len if self.q_start is None else self.q_start

    @property
    def size(self) -> str:
        """The size in words, for a line of progress."""
        return f"{self.q_len} tokens" if self.buffer is None else f"{self.q_len} tokens in {self.buffer} slots"

    @property
    def buffer(self) -> int | None:
        """Slots of the cache that the prompt stands at the start of, the later ones masked off; None for any other."""
        band = isinstance(self.mask, bs.Band) and self.mask.right == 0
        return self.keys if band and self.q_start == 0 and self.keys >= self.q_len else None

    @property
    def window(self) -> int | None:
        """The window of a sliding-window mask; None for every other mask, causal included."""
        if isinstance(self.mask, bs.Band) and self.mask.right == 0 and self.mask.left is not None:
            return self.mask.left + 1
        return None

    @property
    def is_causal(self) -> bool:
        """Whether the mask is plain causal and torch's `is_causal` (top-left) means the same."""
        return self.mask == bs.causal() and self.first_position == 0

    def axes(self) -> dict[str, Any]:
        """Flat and JSON-able; a mask that holds tensors has no text and is refused with ValueError."""
        spec = self.mask.spec()
        if not isinstance(spec, str):
            raise ValueError(f"mask: {self.mask!r} holds tensors or a function, and a run file holds text alone")
        buffer = {} if self.buffer is None else {"buffer": self.buffer}
        return {
            "operation": self.operation, "q_len": self.q_len, "kv_len": self.keys, "mask": spec,
            "window": self.window, "batch": self.batch, "q_heads": self.q_heads, "kv_heads": self.kv_heads,
            "head_dim": self.head_dim, "dtype": self.dtype, "q_start": self.q_start, **buffer,
        }  # fmt: skip

    @classmethod
    def from_axes(cls, axes: Mapping[str, Any]) -> Workload:
        """The workload that `axes()` described."""
        fields = {name: value for name, value in axes.items() if name not in ("window", "operation", "buffer")}
        return cls(**{**fields, "mask": bs.Mask.from_spec(axes["mask"])})

    def key(self) -> str:
        """Stable and readable, the same for equal workloads: what a run file finds a point by."""
        axes = self.axes()
        start = "" if self.q_start is None else f" at {self.q_start}"
        return (
            f"{self.operation} {axes['mask']} q{self.q_len} kv{self.keys}{start} "
            f"b{self.batch} h{self.q_heads}/{self.kv_heads} d{self.head_dim} {self.dtype}"
        )

    def tilemap(self, block_m: int = 128, block_n: int = 64) -> bs.TileMap:
        """The plan: which tiles are empty, partial and full."""
        return bs.TileMap.build(self.mask, self.q_len, self.keys, block_m, block_n, q_start=self.q_start)

    def work(self, skip: str = "map", block_m: int = 128, block_n: int = 64) -> bs.Work:
        """FLOPs and bytes of a skip mode (none, mask, bounds or map) on tiles of that size."""
        return bs.attention_work(
            self.tilemap(block_m, block_n), self.batch, self.q_heads, self.kv_heads, self.head_dim,
            self.element_bytes, skip=skip,
        )  # fmt: skip

    def inputs(self, device: str, seed: int, deviation: float = 1.0) -> tuple[torch.Tensor, ...]:
        """Fresh q, k, v, drawn on the device; the logits, at the default scale, have about that standard deviation."""
        return self._qkv(self.q_len, self.keys, device, torch.Generator(device).manual_seed(seed), deviation)


@dataclass(frozen=True)
class DecodeWorkload(Heads):
    """A decode step: q [batch, q_heads, q_len, head_dim], a cache k, v [batch, kv_heads, buffer, head_dim].

    The queries are the last of `kv_len` positions, causal among themselves. `buffer`: slots of the cache, by default
    kv_len; those beyond kv_len hold NaN, which no contender may let through. `window`: keys that a query sees, itself
    included; None is all. ValueError names the field, what was given and what is allowed.
    """

    kv_len: int
    window: int | None = None
    q_len: int = 1
    batch: int = 1
    q_heads: int = 32
    kv_heads: int = 16
    head_dim: int = 256
    dtype: str = "bfloat16"
    buffer: int | None = None
    operation: ClassVar[str] = "decode"

    def __post_init__(self) -> None:
        optional = [name for name in ("window", "buffer") if getattr(self, name) is not None]
        self._check("kv_len", "q_len", "batch", "q_heads", "kv_heads", *optional)
        self._check_heads()
        if self.q_len > 8:
            raise ValueError(f"q_len: got {self.q_len}; allowed is 1 to 8, more queries are prefill")
        if self.kv_len < self.q_len:
            raise ValueError(f"kv_len: got {self.kv_len}; allowed is at least q_len, {self.q_len}")
        if self.slots < self.kv_len:
            raise ValueError(f"buffer: got {self.buffer}; allowed is at least kv_len, {self.kv_len}")

    @property
    def size(self) -> str:
        """The size in words, for a line of progress."""
        return f"{self.kv_len} keys"

    @property
    def slots(self) -> int:
        """Positions that the cache has room for."""
        return self.kv_len if self.buffer is None else self.buffer

    @property
    def keys(self) -> int:
        return self.kv_len

    @property
    def first_position(self) -> int:
        """The position of query row 0."""
        return self.kv_len - self.q_len

    @property
    def mask(self) -> bs.Mask:
        return bs.causal() if self.window is None else bs.sliding_window(self.window)

    @property
    def live_keys(self) -> int:
        """Keys that some query sees."""
        return self.kv_len if self.window is None else min(self.kv_len, self.window + self.q_len - 1)

    def axes(self) -> dict[str, Any]:
        """Flat and JSON-able."""
        return {"operation": self.operation, **asdict(self), "buffer": self.slots, "mask": self.mask.spec()}

    @classmethod
    def from_axes(cls, axes: Mapping[str, Any]) -> DecodeWorkload:
        """The workload that `axes()` described."""
        return cls(**{name: value for name, value in axes.items() if name not in ("operation", "mask")})

    def key(self) -> str:
        """Stable and readable, the same for equal workloads: what a run file finds a point by."""
        window = "" if self.window is None else f" window {self.window}"
        return (
            f"decode q{self.q_len} kv{self.kv_len} of {self.slots}{window} b{self.batch} "
            f"h{self.q_heads}/{self.kv_heads} d{self.head_dim} {self.dtype}"
        )

    def work(self, splits: int = 1) -> bs.Work:
        """FLOPs and bytes: q, out and the keys and values that some query sees, once each; with several splits what
        they leave and what the merge reads, float32."""
        seen = (min(self.first_position + row + 1, self.window or self.kv_len) for row in range(self.q_len))
        flops = 4 * self.batch * self.q_heads * self.head_dim
        rows = self.batch * self.q_heads * self.q_len
        partial = 8 * splits * rows * (self.head_dim + 2) if splits > 1 else 0
        elements = 2 * self.head_dim * (self.batch * self.kv_heads * self.live_keys + rows)
        return bs.Work(
            flops * sum(seen), flops * self.q_len * self.live_keys, flops * self.q_len * self.kv_len,
            self.element_bytes * elements + partial,
        )  # fmt: skip

    def inputs(self, device: str, seed: int, deviation: float = 1.0) -> tuple[torch.Tensor, ...]:
        """Fresh q, k, v, drawn on the device; the logits have about the standard deviation asked for."""
        q, k, v = self._qkv(self.q_len, self.slots, device, torch.Generator(device).manual_seed(seed), deviation)
        for cache in (k, v):
            cache[:, :, self.kv_len :] = float("nan")
        return q, k, v


@dataclass(frozen=True)
class LinearWorkload(Problem):
    """A linear layer: x [rows, in_features] and a weight [out_features, in_features] in `bits` with groups' metadata.

    bits 4 or 8, group_size 32, 64 or 128. ValueError names the field, what was given and what is allowed.
    """

    out_features: int
    in_features: int
    rows: int = 1
    bits: int = 4
    group_size: int = 32
    symmetric: bool = False
    dtype: str = "bfloat16"
    operation: ClassVar[str] = "linear"

    def __post_init__(self) -> None:
        self._check("out_features", "in_features", "rows", "bits", "group_size")
        for name, allowed in (("bits", (4, 8)), ("group_size", (32, 64, 128))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: got {getattr(self, name)}; allowed are {', '.join(map(str, allowed))}")
        if self.in_features % self.group_size:
            raise ValueError(
                f"in_features: got {self.in_features}; allowed are multiples of group_size, {self.group_size}"
            )

    @property
    def size(self) -> str:
        """The size in words, for a line of progress."""
        return f"{self.out_features}x{self.in_features}, {self.rows} rows"

    @property
    def out_shape(self) -> tuple[int, ...]:
        """The result's."""
        return self.rows, self.out_features

    @property
    def bits_per_weight(self) -> float:
        """Bits of codes and metadata for each weight: a bfloat16 scale for a group, and a zero point."""
        return self.bits + (16 if self.symmetric else 32) / self.group_size

    @property
    def weight_bytes(self) -> int:
        return round(self.out_features * self.in_features * self.bits_per_weight / 8)

    def axes(self) -> dict[str, Any]:
        """Flat and JSON-able."""
        return {"operation": self.operation, **asdict(self)}

    @classmethod
    def from_axes(cls, axes: Mapping[str, Any]) -> LinearWorkload:
        """The workload that `axes()` described."""
        return cls(**{name: value for name, value in axes.items() if name != "operation"})

    def key(self) -> str:
        """Stable and readable, the same for equal workloads: what a run file finds a point by."""
        kind = " symmetric" if self.symmetric else ""
        return (
            f"linear {self.out_features}x{self.in_features} rows {self.rows} int{self.bits} "
            f"groups of {self.group_size}{kind} {self.dtype}"
        )

    def work(self) -> bs.Work:
        """2 FLOPs a weight and row; bytes of the packed weight, activations and output, once each."""
        flops = 2 * self.rows * self.out_features * self.in_features
        return bs.Work(flops, flops, flops, self.moved(self.weight_bytes))

    def moved(self, weight_bytes: int) -> int:
        """Bytes of activations, output and a weight of so many."""
        return weight_bytes + self.element_bytes * self.rows * (self.in_features + self.out_features)

    def inputs(self, device: str, seed: int, deviation: float = 1.0) -> tuple[torch.Tensor, ...]:
        """Fresh x of that standard deviation and float weight of 0.02, drawn on the device."""
        generator = torch.Generator(device).manual_seed(seed)
        x = self._normal((self.rows, self.in_features), device, generator, deviation)
        return x, self._normal((self.out_features, self.in_features), device, generator, WEIGHT_DEVIATION)


AnyWorkload = Workload | DecodeWorkload | LinearWorkload


def workload_of(axes: Mapping[str, Any]) -> AnyWorkload:
    """The workload that `axes()` of any of them described; ValueError for an unknown operation."""
    classes = {one.operation: one for one in (Workload, DecodeWorkload, LinearWorkload)}
    if axes.get("operation") not in classes:
        raise ValueError(f"operation: got {axes.get('operation')!r}; allowed are {', '.join(OPERATIONS)}")
    return classes[axes["operation"]].from_axes(axes)


@dataclass(frozen=True)
class HeadShape:
    """The attention of a model's layer: heads, head size, and its window (None: full causal)."""

    q_heads: int
    kv_heads: int
    head_dim: int
    window: int | None = None

    def workload(self, q_len: int, **fields: Any) -> Workload:
        """Prefill of a prompt of `q_len` tokens through this layer."""
        mask = bs.causal() if self.window is None else bs.sliding_window(self.window)
        shape = {"q_heads": self.q_heads, "kv_heads": self.kv_heads, "head_dim": self.head_dim, "mask": mask}
        return Workload(q_len=q_len, **{**shape, **fields})

    def decode(self, kv_len: int, **fields: Any) -> DecodeWorkload:
        """A decode step of this layer over `kv_len` keys."""
        shape = {"q_heads": self.q_heads, "kv_heads": self.kv_heads, "head_dim": self.head_dim}
        return DecodeWorkload(kv_len, **{"window": self.window, **shape, **fields})


@lru_cache(maxsize=1)
def _gemma() -> dict[str, Any]:
    """`data/models/gemma4-31b.json`, which names its source."""
    return json.loads(data_path("models", "gemma4-31b.json").read_text(encoding="utf-8"))


@lru_cache(maxsize=1)
def models() -> dict[str, HeadShape]:
    """Named layer shapes; the Gemma ones come from `data/models/gemma4-31b.json`."""
    gemma = _gemma()
    heads = gemma["num_attention_heads"]
    return {
        "laptop": HeadShape(8, 8, 128, 512),
        "gemma4-31b sliding": HeadShape(
            heads, gemma["num_key_value_heads"], gemma["head_dim"], gemma["sliding_window"]
        ),
        "gemma4-31b full": HeadShape(heads, gemma["num_global_key_value_heads"], gemma["global_head_dim"]),
        "llama-3-8b": HeadShape(32, 8, 128),
        "qwen 16/2": HeadShape(16, 2, 256),
    }


@lru_cache(maxsize=1)
def linears() -> dict[str, tuple[int, int]]:
    """Named linear layers as (out_features, in_features); the Gemma ones come from `data/models/gemma4-31b.json`."""
    gemma = _gemma()
    hidden, wide = gemma["hidden_size"], gemma["intermediate_size"]
    query = gemma["num_attention_heads"] * gemma["head_dim"]
    return {
        "laptop": (2048, 2048),
        "gate, up": (wide, hidden),
        "down": (hidden, wide),
        "query": (query, hidden),
        "output": (hidden, query),
        "head": (gemma["vocab_size"], hidden),
    }


MODELS = models()
LINEARS = linears()
