"""The prefill kernel's anatomy."""

from __future__ import annotations

from dataclasses import astuple, fields
from typing import Any

import blockskip as bs
import torch
from blockskip.config import TileConfig, prefill_config

from skiplab.anatomy.compiled import Anatomy
from skiplab.anatomy.launches import prepared_anatomy
from skiplab.machine.capability import capability_of
from skiplab.workload import Workload

SKIPS = {"blockskip": "auto", **{f"blockskip-{skip}": skip for skip in ("none", "mask", "bounds", "map")}}
"""How each of our contenders skips."""


def compiles(contender: str) -> bool:
    """Whether the contender has a kernel that is named here."""
    return contender in SKIPS


def sizes(contender: str) -> tuple[str, ...]:
    """The names of a config's numbers; none for a contender whose kernel is not ours."""
    return tuple(field.name for field in fields(TileConfig)) if compiles(contender) else ()


def default(arch: Any, workload: Workload, contender: str) -> tuple[int, ...]:
    """The config that a call takes where nothing was tuned."""
    return astuple(prefill_config(capability_of(arch), workload.head_dim, workload.torch_dtype, workload.q_len))


def anatomy(arch: Any, workload: Workload, contender: str, config: tuple[int, ...]) -> Anatomy:
    """The anatomy of a contender's kernel for this workload."""
    w = workload
    return attention_anatomy(
        arch, head_dim=w.head_dim, dtype=w.torch_dtype, mask=w.mask, skip=SKIPS[contender], q_heads=w.q_heads,
        kv_heads=w.kv_heads, length=w.q_len, config=config,
    )  # fmt: skip


def attention_anatomy(
    arch: Any,
    *,
    head_dim: int = 128,
    dtype: torch.dtype = torch.bfloat16,
    mask: bs.Mask | None = None,
    skip: str = "auto",
    q_heads: int = 8,
    kv_heads: int = 8,
    length: int = 4096,
    config=None,
    record: bool = False,
    return_lse: bool = False,
    sinks: bool = False,
    softcap: float | None = None,
) -> Anatomy:
    """The prefill kernel as `blockskip.attention` would launch it on a GPU of this `arch`, compiled and not run.

    Where the kernel depends on the number of work items of a program, one program has all of them.

    Raises ValueError where TRITON_INTERPRET is set (nothing is compiled then) or the device is not supported.
    """
    from blockskip.attention.call import AttentionCall
    from blockskip.attention.prefill import launch, plan

    capability = capability_of(arch)
    mask = bs.sliding_window(1024) if mask is None else mask
    q, out = (torch.empty((1, q_heads, length, head_dim), dtype=dtype, device="cpu") for _ in range(2))
    k, v = (torch.empty((1, kv_heads, length, head_dim), dtype=dtype, device="cpu") for _ in range(2))
    scale = head_dim**-0.5
    config = prefill_config(capability, head_dim, dtype) if config is None else TileConfig.of(config)
    logits = torch.empty(q_heads, dtype=dtype, device="cpu") if sinks else None
    call = AttentionCall(
        q, k, v, mask, scale, None, length, None, skip, "triton", config, return_lse, record,
        sinks=logits, softcap=softcap,
    )  # fmt: skip
    chosen = plan.plan_kernel(call, config, use_tma=plan.reads_by_tma(call, capability), capability=capability)
    heads, rows = kv_heads if chosen.packed else q_heads, -(-length // chosen.queries_per_tile)
    lse = torch.empty((1, q_heads, length), dtype=torch.float32, device="cpu") if return_lse else None
    visits = torch.empty((1, heads, 1, 1), dtype=torch.uint8, device="cpu") if record else None
    kernel, launched, options = launch.prepare(call, chosen, (q, k, v, out), lse, visits, (rows, heads, 1))
    return prepared_anatomy(capability, kernel, launched, **options)
