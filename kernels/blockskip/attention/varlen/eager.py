"""Calls of packed sequences outside torch.compile: the way to an implementation."""

from __future__ import annotations

import math
from typing import Any

import torch

from ...autocast import without_autocast
from ...launching.repeated import REPEATED, Kind
from .. import reference
from ..prefill import tiled
from .call import VarlenArguments, VarlenCall, batch_of, check
from .plan import VarlenPlan, make_varlen_plan


def attend(given: VarlenArguments) -> Any:
    """`attention_varlen` outside torch.compile: by what is prepared for calls of this kind, or from the beginning."""
    kind = given.kind()
    prepared = REPEATED.get(kind)
    out, lse = _attend_anew(given, kind) if prepared is None else prepared(*_contiguous(given.tensors))
    return (out, lse) if given.return_lse else out


def _contiguous(tensors: tuple) -> tuple:
    *others, cu_q, cu_k = tensors
    return *others, cu_q.contiguous(), cu_k.contiguous()


@without_autocast
def _attend_anew(given: VarlenArguments, kind: Kind | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """As `run`; what was prepared is kept for calls of this kind."""
    call = check(given)
    plan = make_varlen_plan(call)
    if kind is None or plan.impl != "triton":
        return run(call, plan)
    from .launch import ready_varlen

    prepared = ready_varlen(call, plan)
    REPEATED.put(kind, prepared)
    return prepared(*call.tensors)


def run(call: VarlenCall, plan: VarlenPlan) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(out, lse) of a checked call; lse may be None where it was not asked for."""
    if plan.impl != "triton":
        return _one_by_one(call, plan.impl)
    from .launch import ready_varlen

    return ready_varlen(call, plan)(*call.tensors)


def _one_by_one(call: VarlenCall, impl: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Sequence by sequence in PyTorch. Queries of none, and those of one without keys, see nothing."""
    attention = call.attention
    sinks, shape = attention.sinks, (call.q.shape[1], len(call.q))
    out = torch.zeros(call.q.shape, dtype=call.q.dtype, device=call.q.device)
    lse = torch.full(shape, -math.inf, dtype=torch.float32, device=call.q.device)
    if sinks is not None:
        lse.copy_(sinks[:, None])
    options = {"scale": attention.scale, "sinks": sinks, "softcap": attention.softcap}
    if impl == "tiled":
        options["return_lse"] = attention.return_lse
    attend_one = reference.attention if impl == "reference" else tiled.attention
    for q_first, q_end, k_first, k_end in call.extents():
        q_len, kv_len = q_end - q_first, k_end - k_first
        if q_len == 0 or kv_len == 0:
            continue
        q, k, v = batch_of(call.q[q_first:q_end]), batch_of(call.k[k_first:k_end]), batch_of(call.v[k_first:k_end])
        sizes = {"q_start": kv_len - q_len, "kv_len": kv_len}
        of_out, of_lse = attend_one(q, k, v, attention.mask, **sizes, **options)
        out[q_first:q_end], lse[:, q_first:q_end] = of_out[0].transpose(0, 1), of_lse[0]
    return out, lse
