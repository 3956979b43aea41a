"""What measuring a decode step needs: awkward shapes, the truth, and the work by its plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

import blockskip as bs
import torch
from blockskip.attention.decode.plan import LONGEST_QUERY

from skiplab.contenders import Contender
from skiplab.measure.point import WorkDone
from skiplab.measure.rotated import timed
from skiplab.measure.truth import Truth, truth
from skiplab.workload import DecodeWorkload
from skiplab.workload.problem import FLOAT8

__all__ = ["awkward", "expected", "plan_and_work", "read_bytes", "timed"]

# (kv_len, window, q_len, q_heads, kv_heads, head_dim, buffer)
AWKWARD: tuple[tuple[int, int | None, int, int, int, int, int], ...] = (
    (1, None, 1, 2, 2, 64, 1),
    (70, None, 1, 4, 2, 64, 128),
    (100, 1, 1, 2, 1, 96, 100),
    (256, None, 1, 6, 2, 80, 300),
    (203, 64, 5, 4, 2, 128, 203),
    (640, None, 8, 4, 1, 40, 2048),
    (1023, 256, 1, 4, 4, 256, 1024),
    (1024, 1025, 2, 2, 2, 320, 1500),
    (2048, 1024, 1, 8, 2, 512, 4096),
    (777, None, 40, 6, 2, 64, 800),
    (640, 30, 100, 8, 1, 128, 640),
)
FLOAT8_OR_RAGGED: tuple[dict[str, Any], ...] = (
    {"kv_len": 203, "q_len": 3, "head_dim": 128, "kv_dtype": FLOAT8},
    {"kv_len": 640, "window": 100, "head_dim": 80, "buffer": 700, "kv_dtype": FLOAT8},
    {"kv_len": 300, "batch": 3, "q_len": 2, "head_dim": 64, "buffer": 333, "ragged": 0.25},
    {"kv_len": 300, "batch": 5, "window": 50, "head_dim": 128, "kv_dtype": FLOAT8, "ragged": 0.01},
)
"""As `AWKWARD`, 6 query heads and 2 of keys: for contenders that were made for them."""


def awkward(dtype: str) -> list[DecodeWorkload]:
    """Workloads that have caught bugs, in that dtype."""
    return [
        DecodeWorkload(kv_len, window, q_len, 1, q_heads, kv_heads, head_dim, dtype, buffer)
        for kv_len, window, q_len, q_heads, kv_heads, head_dim, buffer in AWKWARD
    ] + [DecodeWorkload(q_heads=6, kv_heads=2, dtype=dtype, **fields) for fields in FLOAT8_OR_RAGGED]


def expected(
    workload: DecodeWorkload,
    entry: Contender,
    device: str,
    seed: int,
    inputs: Sequence[torch.Tensor],
    deviation: float,
    sampled: bool | None,
) -> Truth:
    """The truth for these inputs, which are the workload's of that seed; every contender's is the same."""
    return truth(workload, device, seed, deviation, sampled)


def plan_and_work(
    entry: Contender, workload: DecodeWorkload, inputs: Sequence[torch.Tensor], arguments: Sequence[Any]
) -> tuple[dict[str, Any], WorkDone]:
    """The plan of our own decode ({} for peers), and the work of the call."""
    least = workload.work()
    facts: dict[str, Any] = {}
    moved = least.bytes
    if entry.name == "blockskip":
        given = {"kv_len": workload.kv_len, **dict(zip(workload.input_names, inputs, strict=True))}
        if workload.q_len > LONGEST_QUERY:
            chosen = bs.explain(**given, mask=workload.mask)
        else:
            chosen = bs.explain_decode(**given, window=workload.window)
        config = chosen.config and list(astuple(chosen.config))
        facts = {"impl": chosen.impl, "config": config, "splits": chosen.splits}
        if chosen.origin is not None:
            facts |= {"origin": chosen.origin.how, "tuned_on": chosen.origin.device}
        moved = workload.work(chosen.splits).bytes
    return facts, WorkDone(least.useful_flops, least.executed_flops, least.dense_flops, moved, least.bytes)


def read_bytes(entry: Contender, workload: DecodeWorkload, work: WorkDone) -> int | None:
    """The bytes of its arguments that a call reads, None for all of them.

    Of a cache with a window, the window's; of one whose sequences have different lengths, theirs.
    """
    part = workload.window is not None or workload.ragged is not None
    return work.minimal_bytes if part and not entry.whole_cache else None
