"""Attention of a few new tokens over a cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import blockskip as bs
import torch
from blockskip.attention.decode.plan import MOST_QUERIES

from skiplab.workload.problem import Heads


@dataclass(frozen=True)
class DecodeWorkload(Heads):
    """A decode step: q [batch, q_heads, q_len, head_dim], a cache k, v [batch, kv_heads, buffer, head_dim].

    The queries are the last of `kv_len` positions, causal among themselves. `buffer`: slots of the cache, by default
    kv_len; those beyond kv_len hold NaN, which no contender may let through. `window`: keys that a query sees, itself
    included; None is all. TypeError or ValueError names the field, what was given and what is allowed.
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
        if self.q_len > MOST_QUERIES:
            raise ValueError(f"q_len: got {self.q_len}; allowed is 1 to {MOST_QUERIES}, more queries are prefill")
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
    def from_axes(cls, axes: Mapping[str, Any]) -> Self:
        """The workload that `axes()` described."""
        return cls(**{name: value for name, value in axes.items() if name not in ("operation", "mask")})

    def key(self) -> str:
        """A stable, readable key, the same for equal workloads, by which a run file finds a point."""
        window = "" if self.window is None else f" window {self.window}"
        return (
            f"decode q{self.q_len} kv{self.kv_len} of {self.slots}{window} b{self.batch} "
            f"h{self.q_heads}/{self.kv_heads} d{self.head_dim} {self.dtype}"
        )

    def work(self, splits: int = 1) -> bs.Work:
        """FLOPs and bytes: q, out and the keys and values that some query sees, once each; with several splits also
        their float32 partial results, written and read."""
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
