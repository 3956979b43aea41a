"""Layers of models by name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import blockskip as bs

from skiplab.paths import data_path
from skiplab.workload.attention import Workload
from skiplab.workload.decode import DecodeWorkload


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
