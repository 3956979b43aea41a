"""Attention calls outside torch.compile: their checks, and the way to an implementation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from ..arguments import choice, flag, integer
from ..autocast import without_autocast
from ..config import TileConfig
from ..launching.guards import GuardedInt
from ..launching.repeated import REPEATED, Kind
from ..mask import Band, Mask, band
from . import reference
from . import ring as rings
from .caches import check_kv_scale
from .call import (
    IMPLS,
    AttentionArguments,
    AttentionCall,
    DecodeCall,
)
from .checks import check_scale, check_sinks, check_softcap, check_tensors
from .decode.eager import run_decode
from .lengths import LARGEST_POSITION, check_kv_len, check_kv_start, each_batch
from .prefill import tiled
from .prefill.mask_bits import bits_of
from .prefill.plan import SKIPS
from .route import ROUTES, Plan, as_decode, make_plan


def attend(given: AttentionArguments) -> Any:
    """`attention` outside torch.compile: by what is prepared for calls of this kind, or from the beginning."""
    kind, number = given.kind()
    prepared = REPEATED.get(kind, number)
    if prepared is None:
        found = _attend_anew(given, kind, number)
    else:
        lengths = each_batch(given.kv_len, given.q) if isinstance(given.kv_len, torch.Tensor) else None
        starts = None if given.kv_start is None else each_batch(given.kv_start, given.q)
        tensors = given.q, given.k, given.v, given.sinks, lengths, starts, given.k_scale, given.v_scale
        found = prepared(*tensors, number)
    if given.record:
        out, lse, visits = found
        return (out, lse, visits) if given.return_lse else (out, visits)
    return (found[0], found[1]) if given.return_lse else found[0]


@without_autocast
def _attend_anew(given: AttentionArguments, kind: Kind | None, number: int | None) -> tuple:
    """As `run`; what was prepared is kept for calls of this kind whose number of keys answers the same guards."""
    if kind is None:
        call = check(given)
        return run(call, make_plan(call))
    guarded = None if number is None else GuardedInt(number)
    call = check(given if guarded is None else given._replace(kv_len=guarded))  # pyright: ignore[reportArgumentType]
    plan = make_plan(call)
    prepared, keep = _prepare(call, plan)
    if keep:
        REPEATED.put(kind, prepared, () if guarded is None else guarded.guards)
    return prepared(*call.tensors, number)


def _prepare(call: AttentionCall, plan: Plan) -> tuple[Callable, bool]:
    """(f(*call.tensors, kv_len), whether it serves all calls of this one's kind) by the Triton kernels."""
    if plan.decode is not None:
        from .decode.launch import ready_decode

        # with lengths on the device a mask's bits are of this call alone
        return ready_decode(_decode_call(call, plan), plan.decode), call.lengths is None or isinstance(call.mask, Band)
    from .prefill.launch import ready_attention, serves_its_kind

    assert plan.prefill is not None
    return ready_attention(call, plan.prefill), serves_its_kind(call, plan.prefill)


def check(given: AttentionArguments) -> AttentionCall:
    """A checked call; TypeError or ValueError names the argument, what was given and what is allowed."""
    (
        q, k, v, mask, scale, q_start, kv_len, skip, impl, config, return_lse, record, ring, route, sinks, softcap,
        kv_start, k_scale, v_scale,
    ) = given  # fmt: skip
    for name, value, allowed in (("skip", skip, SKIPS), ("impl", impl, IMPLS), ("route", route, ROUTES)):
        choice(name, value, allowed)
    flag("return_lse", return_lse)
    flag("record", record)
    check_tensors(q, k, v, ("q", "k", "v"), float64=impl == "reference", float8=True)
    mask = band(None, None) if mask is None else mask
    if not isinstance(mask, Mask):
        raise TypeError(f"mask: given {type(mask).__name__}; a blockskip mask, such as causal(), or None is needed")
    if q_start is not None:
        q_start = integer("q_start", q_start)
        if abs(q_start) >= LARGEST_POSITION:
            raise ValueError(f"q_start: given {q_start}; its size must be below {LARGEST_POSITION}")
    starts = check_kv_start(kv_start, q, ring)
    kv_len, lengths = check_kv_len(kv_len, q, k, ring)
    if ring:
        _check_ring(mask, q, k, kv_len, lengths, q_start, record)
    _check_mask(mask, q, kv_len)
    scale = check_scale(scale, q.shape[3])
    call = AttentionCall(
        q, k, v, mask, scale, q_start, kv_len, lengths, skip, impl,
        None if config is None else TileConfig.of(config), return_lse, record, ring, route,
        check_sinks(sinks, q), check_softcap(softcap, scale), starts,
        check_kv_scale("k_scale", k_scale, k), check_kv_scale("v_scale", v_scale, v),
    )  # fmt: skip
    if record and make_plan(call).impl != "triton":
        raise ValueError("record: True needs impl='triton': visits are written by the kernel, not by a plan")
    return call


def run(call: AttentionCall, plan: Plan) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """(out, lse, visits) of a checked call; lse and visits may be None where they were not asked for."""
    if plan.decode is not None:
        return *run_decode(_decode_call(call, plan), plan.decode), None
    if plan.impl == "triton":
        prepared, _ = _prepare(call, plan)
        return prepared(*call.tensors, call.kv_len)
    call = call.from_first_keys()
    out, lse = _by_definition(call) if plan.impl == "reference" else call.by_float32(_by_tiles)
    return out, lse, None


def _decode_call(call: AttentionCall, plan: Plan) -> DecodeCall:
    """The call as decode takes it, with the bits of a mask that is no band."""
    step = as_decode(call, plan.impl)
    return step if step.visible is None else replace(step, bits=bits_of(call, call.planned_kv_len))


def _by_definition(call: AttentionCall) -> tuple[torch.Tensor, torch.Tensor]:
    call, bounded = call.dequantized(), call.bounded_lengths
    kv_len = call.kv_len if bounded is None else bounded
    q_start = kv_len - call.q.shape[2] if call.q_start is None else call.q_start
    return reference.attention(call.q, call.k, call.v, call.mask, q_start=q_start, kv_len=kv_len, **_options(call))


def _options(call: AttentionCall) -> dict[str, Any]:
    return {"scale": call.scale, "ring": call.ring, "sinks": call.sinks, "softcap": call.softcap}


def _by_tiles(call: AttentionCall) -> tuple[torch.Tensor, torch.Tensor]:
    options = {"return_lse": call.return_lse, **_options(call)}
    if call.lengths is not None:
        return _each_batch(call, call.lengths, options)
    sizes = {"q_start": call.planned_q_start, "kv_len": call.kv_len}
    return tiled.attention(call.q, call.k, call.v, call.mask, **sizes, **options)


def _each_batch(call: AttentionCall, lengths: torch.Tensor, options: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """`tiled` with a kv_len for each batch: on a CPU reading a tensor costs nothing."""
    outs, lses = [], []
    for b, length in enumerate(lengths.clamp(0, call.kv_len).tolist()):
        q, k, v = (t[b : b + 1] for t in (call.q, call.k, call.v))
        if length == 0:
            outs.append(torch.zeros_like(q))
            none = torch.full(q.shape[:3], -math.inf, dtype=torch.float32, device=q.device)
            lses.append(none if call.sinks is None else none.copy_(call.sinks[:, None]))
            continue
        q_start = length - q.shape[2] if call.q_start is None else call.q_start
        mask = call.mask.for_batch(b)
        out, lse = tiled.attention(q, k, v, mask, q_start=q_start, kv_len=length, **options)
        outs.append(out)
        lses.append(lse)
    return torch.cat(outs), torch.cat(lses)


def _check_ring(mask: Mask, q, k, kv_len: int, lengths, q_start: int | None, record: bool) -> None:
    """ValueError where a query may see an overwritten key, and for what a kv_len tensor leaves unknown."""
    q_len, slots = q.shape[2], k.shape[2]
    if lengths is None:
        mask.check_shape(q_len, kv_len)
        rings.check_int("mask", mask, q, kv_len, kv_len - q_len if q_start is None else q_start, slots)
        return
    if q_start is not None:
        raise ValueError(f"q_start: given {q_start}; ring=True with a kv_len tensor needs the queries last, so None")
    if record:
        raise ValueError("record: True needs an int kv_len where ring=True: visits have a column for every tile")
    rings.check_device("mask", mask, q_len, slots)


def _check_mask(mask: Mask, q, kv_len: int) -> None:
    mask.check_shape(q.shape[2], kv_len)
    for leaf in mask.leaves():
        for what, given, allowed in zip(("batches", "heads"), leaf.extent, q.shape[:2], strict=True):
            if given not in (1, allowed):
                raise ValueError(f"mask: {leaf!r} has {given} {what}; must be 1 or q's {allowed}")
