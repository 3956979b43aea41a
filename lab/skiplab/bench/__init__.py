"""Benchmarks that are no sweep: `skiplab bench NAME`, a file each, whose `main(arguments)` reads its own options."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

BENCHMARKS = {
    "tilemap": "building tile maps, beside create_block_mask",
    "prefill_cpu": "prefill on this CPU, beside FlexAttention and dense + mask",
    "host": "what a call costs the host",
    "store": "reading a large run file",
    "decode": "decode in its variants, beside torch",
    "transformers": "a model inside transformers, with SDPA and with our attention and int4 weights",
}


def run(name: str, arguments: Sequence[str]) -> None:
    """Run a benchmark with these options; ValueError lists the names."""
    if name not in BENCHMARKS:
        raise ValueError(f"NAME: got {name!r}; allowed are {', '.join(BENCHMARKS)}")
    import_module(f"skiplab.bench.{name}").main(arguments)
