"""Problem, the base of all workloads: a dtype, checked counts, inputs drawn from a seed; Heads, of those with heads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self, cast

import blockskip as bs
import torch
from blockskip.arguments import choice, integer

DTYPES = ("float16", "bfloat16", "float32")
FLOAT8 = "float8_e4m3fn"
"""What keys and values may be of, whatever the queries are."""


class Problem(ABC):
    """A workload of any operation: the methods that the lab calls, and what all workloads share."""

    operation: ClassVar[str]
    untimed_s: ClassVar[float] = 0.0
    """Seconds that a point may take beside its timing, beyond what any may."""
    dtype: str

    @property
    @abstractmethod
    def size(self) -> str:
        """The size in words, for a line of progress."""

    @property
    @abstractmethod
    def out_shape(self) -> tuple[int, ...]:
        """The result's shape."""

    @abstractmethod
    def axes(self) -> dict[str, Any]:
        """The axes of a run file's row: flat and JSON-able."""

    @classmethod
    @abstractmethod
    def from_axes(cls, axes: Mapping[str, Any]) -> Self:
        """The workload that `axes()` described."""

    @abstractmethod
    def key(self) -> str:
        """A stable, readable key, the same for equal workloads, by which a run file finds a point."""

    @abstractmethod
    def work(self, *how: Any, **named: Any) -> bs.Work:
        """FLOPs and bytes of a call; arguments that change them, such as a skip mode, have defaults."""

    def parts(self, *how: Any, **named: Any) -> Mapping[str, bs.Work]:
        """The work of what runs one after the other, by name: one piece, unless the problem says otherwise."""
        return {"": self.work(*how, **named)}

    @abstractmethod
    def inputs(self, device: str, seed: int, deviation: float = 1.0) -> tuple[torch.Tensor, ...]:
        """Fresh inputs of that seed, drawn on the device; `deviation` scales them."""

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)

    @property
    @abstractmethod
    def input_names(self) -> tuple[str, ...]:
        """The names of `inputs`, in their order."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Of `contenders.base.NEEDS` what a contender must be made for, to be asked for this."""
        return ()

    @property
    def out_dtype(self) -> torch.dtype:
        """The result's: the workload's, unless it says otherwise."""
        return self.torch_dtype

    @property
    def checked(self) -> Self:
        """What a contender is compared on: the workload itself, unless nobody could compute its truth."""
        return self

    @property
    def element_bytes(self) -> int:
        return self.torch_dtype.itemsize

    def _check(self, *counts: str) -> None:
        """TypeError or ValueError for a named field that is no integer of at least 1, and for an unknown dtype."""
        for name in counts:
            self._check_integer(name, 1)
        choice("dtype", self.dtype, DTYPES)

    def _check_integer(self, name: str, least: int | None = None, most: int | None = None) -> None:
        object.__setattr__(self, name, integer(name, getattr(self, name), least, most))

    def _normal(self, shape: tuple[int, ...], device: str, generator: torch.Generator, factor: float) -> torch.Tensor:
        """Normal numbers of that standard deviation, drawn on the generator's device."""
        values = torch.randn(*shape, generator=generator, dtype=torch.float32, device=generator.device)
        return values.mul_(factor).to(device=device, dtype=self.torch_dtype)


class Heads(Problem):
    """The base of the two attention workloads.

    kv_dtype: that of keys and values, where it is not `dtype`: float8_e4m3fn, with a scale for each of their heads.
    """

    batch: int
    q_len: int
    q_heads: int
    kv_heads: int
    head_dim: int
    kv_dtype: str | None

    @property
    def out_shape(self) -> tuple[int, ...]:
        """The result's shape."""
        return self.batch, self.q_heads, self.q_len, self.head_dim

    @property
    def group(self) -> int:
        """Query heads to one key/value head."""
        return self.q_heads // self.kv_heads

    @property
    def kv_element_bytes(self) -> int:
        """Bytes of one number of a key or a value."""
        return getattr(torch, self.kv_dtype or self.dtype).itemsize

    @property
    def input_names(self) -> tuple[str, ...]:
        """q, k, v, and behind them what else there is, by the name of blockskip's argument."""
        return ("q", "k", "v") if self.kv_dtype is None else ("q", "k", "v", "k_scale", "v_scale")

    @property
    def needs(self) -> tuple[str, ...]:
        return () if self.kv_dtype is None else ("float8",)

    @property
    def before_rounding(self) -> Self | None:
        """The workload whose inputs are this one's before keys and values became float8; None where they did not."""
        return None if self.kv_dtype is None else replace(cast(Any, self), kv_dtype=None)

    def sequences(self, inputs: Sequence[torch.Tensor]) -> list[tuple[Self, Sequence[torch.Tensor]]]:
        """Parts of the batch that have one mask, in order, each as a workload with its inputs: here all at once."""
        return [(self, inputs)]

    def _check_heads(self) -> None:
        self._check_integer("head_dim", 8, 512)
        if self.q_heads % self.kv_heads:
            raise ValueError(f"kv_heads: got {self.kv_heads}; q_heads ({self.q_heads}) must be a multiple of it")
        if self.kv_dtype is not None:
            choice("kv_dtype", self.kv_dtype, (self.dtype, FLOAT8))
        if self.kv_dtype == self.dtype:
            object.__setattr__(self, "kv_dtype", None)

    def _qkv(self, queries: int, keys: int, device: str, generator: torch.Generator, deviation: float):
        """q, k, v with so many queries and keys; the logits, with the default scale, have about that deviation."""
        shapes = ((self.q_heads, queries, deviation), (self.kv_heads, keys, 1.0), (self.kv_heads, keys, 1.0))
        return tuple(
            self._normal((self.batch, heads, length, self.head_dim), device, generator, factor)
            for heads, length, factor in shapes
        )

    def _rounded(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """q, k, v and, where keys and values become float8, their scales, as `input_names` has them."""
        if self.kv_dtype is None:
            return q, k, v
        (k, k_scale), (v, v_scale) = bs.quantize_kv(k), bs.quantize_kv(v)
        return q, k, v, k_scale, v_scale
