"""What measuring a prompt's attention needs: awkward shapes, the truth, and the work by its plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from typing import TYPE_CHECKING, Any

import blockskip as bs
import torch

from skiplab.contenders import Contender
from skiplab.measure.point import WorkDone
from skiplab.measure.rotated import timed
from skiplab.measure.truth import Truth, truth
from skiplab.workload import Workload
from skiplab.workload.problem import FLOAT8

if TYPE_CHECKING:
    from blockskip.attention.route import Plan

__all__ = ["awkward", "expected", "plan_and_work", "read_bytes", "timed"]

# Shapes that have caught bugs in other kernels: (q_len, kv_len, q_heads, kv_heads, head_dim, mask).
AWKWARD: tuple[tuple[int, int, int, int, int, bs.Mask], ...] = (
    (1, 1, 2, 2, 64, bs.causal()),
    (239, 239, 2, 2, 64, bs.causal()),
    (113, 203, 4, 2, 64, bs.causal()),
    (108, 256, 6, 2, 80, bs.sliding_window(64)),
    (384, 256, 4, 1, 128, bs.causal()),
    (640, 640, 4, 4, 40, bs.sliding_window(1)),
    (1023, 1024, 2, 1, 96, bs.sliding_window(256)),
    (1024, 1023, 2, 2, 128, bs.sliding_window(1024)),
    (300, 300, 2, 2, 320, bs.band(70, 30)),
    (500, 500, 2, 1, 64, bs.sliding_window(96) | (bs.sink(4) & bs.causal())),
    (257, 257, 2, 2, 64, bs.document((100, 57, 100))),
    (200, 200, 2, 2, 64, bs.prefix_lm(70)),
)
FLOAT8_OR_SINKS: tuple[dict[str, Any], ...] = (
    {"kv_dtype": FLOAT8},
    {"sinks": True},
    {"kv_dtype": FLOAT8, "sinks": True},
)
"""As `AWKWARD`, one shape: for contenders that were made for them."""


def awkward(dtype: str) -> list[Workload]:
    """Workloads that have caught bugs, in that dtype."""
    more = [Workload(130, 203, bs.sliding_window(64), 2, 6, 2, 80, dtype, **fields) for fields in FLOAT8_OR_SINKS]
    return more + [
        Workload(q_len, kv_len, mask, 1, q_heads, kv_heads, head_dim, dtype)
        for q_len, kv_len, q_heads, kv_heads, head_dim, mask in AWKWARD
    ]


def expected(
    workload: Workload,
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
    entry: Contender, workload: Workload, inputs: Sequence[torch.Tensor], arguments: Sequence[Any]
) -> tuple[dict[str, Any], WorkDone]:
    """The plan of our own attention ({} for peers), and the work of the call."""
    plan = plan_of(entry, workload, inputs)
    return _plan_facts(plan), work_done(entry, workload, plan)


def read_bytes(entry: Contender, workload: Workload, work: WorkDone) -> int | None:
    """The bytes of its arguments that a call reads: all of them."""
    return None


def work_done(entry: Contender, workload: Workload, plan: Plan | None) -> WorkDone:
    """The FLOPs and bytes of the contender's call on this workload; our own kernels' tiles are those of their plan."""
    least = workload.work("bounds")  # reads no mask and no map
    skip, tile = entry.skip, entry.tile
    if plan is not None and plan.config is not None:
        skip, tile = plan.skip, (plan.queries_per_tile, plan.config.block_n)
    if skip is None or tile is None:
        return WorkDone(least.useful_flops, None, least.dense_flops, least.bytes, least.bytes)
    work = workload.work(skip, *tile)
    mask = entry.mask_bytes(workload)
    moved = full_bytes(workload, entry.repeats_heads) + mask if mask else work.bytes
    return WorkDone(work.useful_flops, work.executed_flops, work.dense_flops, moved, least.bytes)


def plan_of(entry: Contender, workload: Workload, inputs: Sequence[torch.Tensor]) -> Plan | None:
    """The plan of our own attention; None for peers."""
    if entry.skip is None or entry.tile is not None:
        return None
    config: Any = entry.config
    how = {"q_start": workload.q_start, "skip": entry.skip, "config": config}
    return bs.explain(**dict(zip(workload.input_names, inputs, strict=True)), mask=workload.mask, **how)


def _plan_facts(plan: Plan | None) -> dict[str, Any]:
    if plan is None:
        return {}
    config = plan.config and list(astuple(plan.config))
    return {
        "impl": plan.impl, "skip": plan.skip, "config": config, "packed": plan.packed, "kernel": plan.kernel,
        "splits": plan.splits, **({"origin": plan.origin.how, "tuned_on": plan.origin.device} if plan.origin else {}),
    }  # fmt: skip


def full_bytes(workload: Workload, repeats_heads: bool = False) -> int:
    """Bytes of q, k, v and out, each once, with all keys; with repeated heads, keys for each query head."""
    key_heads = workload.q_heads if repeats_heads else workload.kv_heads
    queries, keys = workload.q_len * workload.q_heads, workload.keys * key_heads
    bytes_moved = queries * workload.element_bytes + keys * workload.kv_element_bytes
    return 2 * workload.batch * workload.head_dim * bytes_moved
