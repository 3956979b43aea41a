"""Attention of a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import blockskip as bs
import torch
from blockskip.arguments import flag

from skiplab.workload.packed import PackedPrompts, packed_of
from skiplab.workload.problem import Heads


@dataclass(frozen=True)
class Workload(Heads):
    """One attention problem: q [batch, q_heads, q_len, head_dim], k and v [batch, kv_heads, kv_len, head_dim].

    `kv_len` defaults to `q_len`; query row i stands at position `q_start + i`, by default at the end of the keys. With
    q_start 0 it is a prompt at the start of a cache: see `buffer`. kv_dtype: float8_e4m3fn for keys and values in 8
    bits, with a scale a head. sinks: whether each query head has a learned logit that joins the softmax, as in gpt-oss.
    TypeError or ValueError names the field, what was given and what is allowed.
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
    kv_dtype: str | None = None
    sinks: bool = False
    operation: ClassVar[str] = "attention"

    def __post_init__(self) -> None:
        if self.kv_len is None:
            object.__setattr__(self, "kv_len", self.q_len)
        self._check("q_len", "kv_len", "batch", "q_heads", "kv_heads")
        self._check_heads()
        if self.q_start is not None:
            self._check_integer("q_start")
        flag("sinks", self.sinks)
        if not isinstance(self.mask, bs.Mask):
            raise ValueError(f"mask: got {self.mask!r}; allowed is a blockskip mask, such as sliding_window(512)")

    @property
    def input_names(self) -> tuple[str, ...]:
        return (*super().input_names, *(("sinks",) if self.sinks else ()))

    @property
    def needs(self) -> tuple[str, ...]:
        return (*super().needs, *(("sinks",) if self.sinks else ()))

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
        if self.packed is not None:
            return f"{self.q_len} tokens in {len(self.packed.lengths)} prompts"
        return f"{self.q_len} tokens" if self.buffer is None else f"{self.q_len} tokens in {self.buffer} slots"

    @property
    def buffer(self) -> int | None:
        """Slots of a cache at whose start the prompt is, the later ones masked off; None without such a cache."""
        band = isinstance(self.mask, bs.Band) and self.mask.right == 0
        return self.keys if band and self.q_start == 0 and self.keys >= self.q_len else None

    @property
    def packed(self) -> PackedPrompts | None:
        """The packed prompts that fill the one sequence of this workload, each seeing itself alone; None otherwise."""
        packed = packed_of(self.mask)
        fills = packed is not None and sum(packed.lengths) == self.q_len == self.keys
        return packed if fills and self.batch == 1 and self.first_position == 0 else None

    @property
    def window(self) -> int | None:
        """The window of a sliding-window mask; None for every other mask, causal included."""
        if isinstance(self.mask, bs.Band) and self.mask.right == 0 and self.mask.left is not None:
            return self.mask.left + 1
        return None

    @property
    def is_causal(self) -> bool:
        """Whether the mask is plain causal, and equals torch's `is_causal` (top-left)."""
        return self.mask == bs.causal() and self.first_position == 0

    def axes(self) -> dict[str, Any]:
        """Flat and JSON-able; a mask that holds tensors has no text and is refused with ValueError."""
        spec = self.mask.spec()
        if not isinstance(spec, str):
            raise ValueError(f"mask: {self.mask!r} holds tensors or a function, and a run file holds text alone")
        more: dict[str, Any] = {} if self.buffer is None else {"buffer": self.buffer}
        if self.packed is not None:
            more["packed"] = str(self.packed)
        if self.kv_dtype is not None:
            more["kv_dtype"] = self.kv_dtype
        if self.sinks:
            more["sinks"] = True
        return {
            "operation": self.operation, "q_len": self.q_len, "kv_len": self.keys, "mask": spec,
            "window": self.window, "batch": self.batch, "q_heads": self.q_heads, "kv_heads": self.kv_heads,
            "head_dim": self.head_dim, "dtype": self.dtype, "q_start": self.q_start, **more,
        }  # fmt: skip

    @classmethod
    def from_axes(cls, axes: Mapping[str, Any]) -> Self:
        """The workload that `axes()` described."""
        derived = "window", "operation", "buffer", "packed"
        fields = {name: value for name, value in axes.items() if name not in derived}
        return cls(**{**fields, "mask": bs.Mask.from_spec(axes["mask"])})

    def key(self) -> str:
        """A stable, readable key, the same for equal workloads, by which a run file finds a point."""
        axes = self.axes()
        start = "" if self.q_start is None else f" at {self.q_start}"
        cache = "" if self.kv_dtype is None else f", keys {self.kv_dtype}"
        return (
            f"{self.operation} {axes['mask']} q{self.q_len} kv{self.keys}{start} "
            f"b{self.batch} h{self.q_heads}/{self.kv_heads} d{self.head_dim} {self.dtype}{cache}"
            f"{', sinks' if self.sinks else ''}"
        )

    def tilemap(self, block_m: int = 128, block_n: int = 64) -> bs.TileMap:
        """The plan: which tiles are empty, partial and full."""
        return bs.TileMap.build(self.mask, self.q_len, self.keys, block_m, block_n, q_start=self.q_start)

    def work(self, skip: str = "map", block_m: int = 128, block_n: int = 64) -> bs.Work:
        """FLOPs and bytes of a skip mode (none, mask, bounds or map) on tiles of that size."""
        sizes = self.tilemap(block_m, block_n), self.batch, self.q_heads
        work = bs.attention_work(*sizes, self.kv_heads, self.head_dim, self.element_bytes, skip=skip)
        if self.kv_dtype is None:
            return work
        twice = bs.attention_work(*sizes, 2 * self.kv_heads, self.head_dim, self.element_bytes, skip=skip)
        wide = twice.bytes - work.bytes  # keys and values, were they of q's dtype
        return replace(work, bytes=work.bytes - wide + wide * self.kv_element_bytes // self.element_bytes)

    def inputs(self, device: str, seed: int, deviation: float = 1.0) -> tuple[torch.Tensor, ...]:
        """Fresh q, k, v, and the scales or sinks that there are, drawn on the device.

        The logits, at the default scale, have about that standard deviation.
        """
        generator = torch.Generator(device).manual_seed(seed)
        drawn = self._rounded(*self._qkv(self.q_len, self.keys, device, generator, deviation))
        return (*drawn, *((self._normal((self.q_heads,), device, generator, 1.0),) if self.sinks else ()))
