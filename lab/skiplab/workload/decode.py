"""Attention of a few new tokens over a cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Self

import blockskip as bs
import numpy as np
import torch
from blockskip.arguments import number
from blockskip.attention.decode.plan import MOST_QUERIES

from skiplab.workload.problem import Heads

OPTIONAL = ("kv_dtype", "ragged")
"""Axes that stand in a row where they are not None."""


@dataclass(frozen=True)
class DecodeWorkload(Heads):
    """A decode step: q [batch, q_heads, q_len, head_dim], a cache k, v [batch, kv_heads, buffer, head_dim].

    The queries are the last of `kv_len` positions, causal among themselves. `buffer`: slots of the cache, by default
    kv_len; those beyond kv_len hold NaN, which no contender may let through. `window`: keys that a query sees, itself
    included; None is all. `kv_dtype`: float8_e4m3fn for keys and values in 8 bits, with a scale a head. `ragged`: the
    share of kv_len that the shortest sequence of the batch has, the longest has all, and the lengths of the others lie
    evenly between, in no order; then they are an input, `kv_len` int32 [batch], and contenders do not know them
    beforehand. TypeError or ValueError names the field, what was given and what is allowed.
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
    kv_dtype: str | None = None
    ragged: float | None = None
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
        if self.ragged is not None:
            self._check_ragged(number("ragged", self.ragged))

    def _check_ragged(self, share: float) -> None:
        object.__setattr__(self, "ragged", share)
        if not 0 < share < 1:
            raise ValueError(f"ragged: got {share:g}; allowed is more than 0 and less than 1, the shortest's share")
        if self.batch < 2:
            raise ValueError(f"ragged: got {share:g} with batch {self.batch}; sequences differ where there are several")

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
    def key_counts(self) -> tuple[int, ...]:
        """The keys of each sequence."""
        if self.ragged is None:
            return (self.kv_len,) * self.batch
        least = max(self.q_len, round(self.ragged * self.kv_len))
        even = np.linspace(least, self.kv_len, self.batch).round().astype(int)
        return tuple(np.random.default_rng(0).permutation(even).tolist())

    @property
    def input_names(self) -> tuple[str, ...]:
        return (*super().input_names, *(() if self.ragged is None else ("kv_len",)))

    @property
    def needs(self) -> tuple[str, ...]:
        return (*super().needs, *(() if self.ragged is None else ("ragged",)))

    def sequences(self, inputs: Sequence[torch.Tensor]) -> list[tuple[Self, Sequence[torch.Tensor]]]:
        """Of a ragged batch each sequence, with as many keys as it has; else all at once."""
        if self.ragged is None:
            return [(self, inputs)]
        scales = inputs[3:-1]  # without the lengths
        return [
            (replace(self, kv_len=count, batch=1, buffer=self.slots, ragged=None),
             (*(tensor[i : i + 1] for tensor in inputs[:3]), *scales))
            for i, count in enumerate(self.key_counts)
        ]  # fmt: skip

    @property
    def first_position(self) -> int:
        """The position of query row 0."""
        return self.kv_len - self.q_len

    @property
    def mask(self) -> bs.Mask:
        return bs.causal() if self.window is None else bs.sliding_window(self.window)

    @property
    def live_keys(self) -> int:
        """Keys that some query sees, of the longest sequence."""
        return self._live(self.kv_len)

    def _live(self, count: int) -> int:
        return count if self.window is None else min(count, self.window + self.q_len - 1)

    def axes(self) -> dict[str, Any]:
        """Flat and JSON-able."""
        optional = {name: value for name, value in asdict(self).items() if value is not None or name not in OPTIONAL}
        return {"operation": self.operation, **optional, "buffer": self.slots, "mask": self.mask.spec()}

    @classmethod
    def from_axes(cls, axes: Mapping[str, Any]) -> Self:
        """The workload that `axes()` described."""
        return cls(**{name: value for name, value in axes.items() if name not in ("operation", "mask")})

    def key(self) -> str:
        """A stable, readable key, the same for equal workloads, by which a run file finds a point."""
        window = "" if self.window is None else f" window {self.window}"
        ragged = "" if self.ragged is None else f" from {self.ragged:g} of them"
        cache = "" if self.kv_dtype is None else f", keys {self.kv_dtype}"
        return (
            f"decode q{self.q_len} kv{self.kv_len}{ragged} of {self.slots}{window} b{self.batch} "
            f"h{self.q_heads}/{self.kv_heads} d{self.head_dim} {self.dtype}{cache}"
        )

    def work(self, splits: int = 1) -> bs.Work:
        """FLOPs and bytes: q, out and the keys and values that some query sees, once each; with several splits also
        their float32 partial results, written and read."""
        rows = self.batch * self.q_heads * self.q_len
        seen = sum(
            min(count - self.q_len + row + 1, self.window or count)
            for count in self.key_counts
            for row in range(self.q_len)
        )
        live = sum(map(self._live, self.key_counts))
        flops = 4 * self.q_heads * self.head_dim
        keys_and_values = 2 * self.head_dim * self.kv_heads * live * self.kv_element_bytes
        queries_and_results = 2 * self.head_dim * rows * self.element_bytes
        partial = 8 * splits * rows * (self.head_dim + 2) if splits > 1 else 0
        return bs.Work(
            flops * seen, flops * self.q_len * live, flops * self.q_len * sum(self.key_counts),
            keys_and_values + queries_and_results + partial,
        )  # fmt: skip

    def inputs(self, device: str, seed: int, deviation: float = 1.0) -> tuple[torch.Tensor, ...]:
        """Fresh q, k, v, and the scales or lengths that there are, drawn on the device.

        The logits have about the standard deviation asked for.
        """
        drawn = self._qkv(self.q_len, self.slots, device, torch.Generator(device).manual_seed(seed), deviation)
        q, k, v, *scales = self._rounded(*drawn)
        for cache in (k, v):
            for sequence, count in zip(cache, self.key_counts, strict=True):
                sequence[:, count:] = float("nan")
        lengths = torch.tensor(self.key_counts, dtype=torch.int32, device=device)
        return q, k, v, *scales, *(() if self.ragged is None else (lengths,))
