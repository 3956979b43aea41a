"""The anatomy of decode's split-K kernel."""

from __future__ import annotations

from dataclasses import astuple, fields, replace
from typing import Any

import torch
from blockskip.attention.call import DecodeCall
from blockskip.attention.decode.plan import plan_decode_kernel
from blockskip.config import TileConfig
from blockskip.gpu import HOPPER, MULTIPROCESSORS_ASSUMED

from skiplab.anatomy.compiled import Anatomy
from skiplab.anatomy.launches import prepared_anatomy
from skiplab.machine.capability import capability_of
from skiplab.workload import DecodeWorkload

CONTENDER = "blockskip"
"""Whose kernel has tiles of one's own."""


def compiles(contender: str) -> bool:
    """Whether the contender has a kernel that is named here."""
    return contender == CONTENDER


def sizes(contender: str) -> tuple[str, ...]:
    """The names of a config's numbers; none for a contender whose kernel is not ours."""
    return tuple(field.name for field in fields(TileConfig)) if compiles(contender) else ()


def default(arch: Any, workload: DecodeWorkload, contender: str) -> tuple[int, ...]:
    """The config that a call takes where nothing was tuned."""
    config = plan_decode_kernel(empty_call(workload, "meta"), capability_of(arch), MULTIPROCESSORS_ASSUMED).config
    assert config is not None
    return astuple(config)


def anatomy(arch: Any, workload: DecodeWorkload, contender: str, config: tuple[int, ...]) -> Anatomy:
    """The anatomy of our split-K kernel for this workload."""
    return decode_anatomy(arch, workload, TileConfig.of(config))


def decode_anatomy(
    arch: Any,
    workload: DecodeWorkload,
    config: TileConfig,
    sinks: bool = False,
    softcap: float | None = None,
) -> Anatomy:
    """The split-K kernel of a decode step with these tiles, as in a CUDA graph on a GPU of this `arch`; not run."""
    from blockskip.attention.decode import launch

    capability = capability_of(arch)
    logits = torch.empty(workload.q_heads, dtype=workload.torch_dtype, device="cpu") if sinks else None
    call = replace(empty_call(workload, "cpu"), sinks=logits, softcap=softcap)
    chosen = replace(plan_decode_kernel(call, capability, MULTIPROCESSORS_ASSUMED, config=config), fused=False)
    parts = launch.allocate_parts(call, chosen)
    tensors = call.q, call.k, call.v, torch.empty_like(call.q)
    kernel, launched, options = launch.prepare(call, chosen, tensors, None, parts, capability >= HOPPER)
    return prepared_anatomy(capability, kernel, launched, **options)


def empty_call(w: DecodeWorkload, device: str) -> DecodeCall:
    """The step as decode takes it, by its kernel, of tensors without content."""

    def empty(*shape: int, dtype: torch.dtype = w.torch_dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    of_keys, scales = w.torch_dtype, (None, None)
    if w.kv_dtype is not None:
        of_keys = getattr(torch, w.kv_dtype)
        scales = tuple(empty(w.kv_heads, dtype=torch.float32) for _ in "kv")
    lengths = None if w.ragged is None else empty(w.batch, dtype=torch.int32)
    q = empty(w.batch, w.q_heads, w.q_len, w.head_dim)
    k, v = (empty(w.batch, w.kv_heads, w.slots, w.head_dim, dtype=of_keys) for _ in "kv")
    call = DecodeCall(q, k, v, w.head_dim**-0.5, w.kv_len, lengths, w.window, None, "triton", False)
    return replace(call, k_scale=scales[0], v_scale=scales[1])
