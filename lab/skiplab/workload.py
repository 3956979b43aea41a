"""A problem to solve: shapes, dtype and mask. Who solves it is a contender; how fast is a measurement."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import blockskip as bs
import torch

from skiplab.store import data_path

DTYPES = ("float16", "bfloat16", "float32")
OPERATIONS = ("attention",)


@dataclass(frozen=True)
class Workload:
    """One attention problem: q [batch, q_heads, q_len, head_dim], k and v [batch, kv_heads, kv_len, head_dim].

    `kv_len` defaults to `q_len`; query row i stands at position `q_start + i`, by default at the end of the keys.
    ValueError names the field, what was given and what is allowed.
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
    operation: str = "attention"

    def __post_init__(self) -> None:
        if self.kv_len is None:
            object.__setattr__(self, "kv_len", self.q_len)
        for name in ("q_len", "kv_len", "batch", "q_heads", "kv_heads"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: got {value!r}; allowed is an integer of at least 1")
        if not isinstance(self.mask, bs.Mask):
            raise ValueError(f"mask: got {self.mask!r}; allowed is a blockskip mask, such as sliding_window(512)")
        if not 8 <= self.head_dim <= 512:
            raise ValueError(f"head_dim: got {self.head_dim}; allowed is 8 to 512")
        if self.q_heads % self.kv_heads:
            raise ValueError(f"kv_heads: got {self.kv_heads}; q_heads ({self.q_heads}) must be a multiple of it")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype: got {self.dtype!r}; allowed are {', '.join(DTYPES)}")
        if self.operation not in OPERATIONS:
            raise ValueError(f"operation: got {self.operation!r}; allowed are {', '.join(OPERATIONS)}")

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
    def window(self) -> int | None:
        """The window of a sliding-window mask; None for every other mask, causal included."""
        if isinstance(self.mask, bs.Band) and self.mask.right == 0 and self.mask.left is not None:
            return self.mask.left + 1
        return None

    @property
    def is_causal(self) -> bool:
        """Whether the mask is plain causal and torch's `is_causal` (top-left) means the same."""
        return self.mask == bs.causal() and self.first_position == 0

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)

    @property
    def element_bytes(self) -> int:
        return self.torch_dtype.itemsize

    @property
    def group(self) -> int:
        """Query heads to one key/value head."""
        return self.q_heads // self.kv_heads

    def axes(self) -> dict[str, Any]:
        """Flat and JSON-able; a mask that holds tensors has no text and is refused with ValueError."""
        spec = self.mask.spec()
        if not isinstance(spec, str):
            raise ValueError(f"mask: {self.mask!r} holds tensors or a function, and a run file holds text alone")
        return {
            "operation": self.operation, "q_len": self.q_len, "kv_len": self.keys, "mask": spec,
            "window": self.window, "batch": self.batch, "q_heads": self.q_heads, "kv_heads": self.kv_heads,
            "head_dim": self.head_dim, "dtype": self.dtype, "q_start": self.q_start,
        }  # fmt: skip

    @classmethod
    def from_axes(cls, axes: Mapping[str, Any]) -> Workload:
        """The workload that `axes()` described."""
        fields = {name: value for name, value in axes.items() if name != "window"}
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
        """Fresh q, k, v; the logits, with the default scale, have about the standard deviation asked for."""
        generator = torch.Generator("cpu").manual_seed(seed)

        def normal(heads: int, length: int, factor: float) -> torch.Tensor:
            values = torch.randn(self.batch, heads, length, self.head_dim, generator=generator)
            return (values * factor).to(device=device, dtype=self.torch_dtype)

        return (
            normal(self.q_heads, self.q_len, deviation),
            normal(self.kv_heads, self.keys, 1.0),
            normal(self.kv_heads, self.keys, 1.0),
        )


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


@lru_cache(maxsize=1)
def models() -> dict[str, HeadShape]:
    """Named layer shapes; the Gemma ones come from `data/models/gemma4-31b.json`, which names its source."""
    gemma = json.loads(data_path("models", "gemma4-31b.json").read_text(encoding="utf-8"))
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


MODELS = models()
