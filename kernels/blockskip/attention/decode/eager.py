"""Decode calls outside torch.compile: their checks, and the way to an implementation."""

from __future__ import annotations

from typing import Any

import torch

from ...arguments import choice, flag, integer
from ...autocast import without_autocast
from ...launching.guards import GuardedInt
from ...launching.repeated import REPEATED, Kind
from .. import reference
from .. import ring as rings
from ..caches import check_kv_scale
from ..call import (
    IMPLS,
    DecodeArguments,
    DecodeCall,
)
from ..checks import check_scale, check_sinks, check_softcap, check_tensors
from ..lengths import LARGEST_POSITION, check_kv_len, check_kv_start, each_batch
from . import tiled
from .plan import LONGEST_QUERY, DecodePlan, make_decode_plan

MOST_SPLITS = 65535
"""A CUDA grid's second and third dimensions end there; no device has as many programs at once."""


def attend(given: DecodeArguments) -> Any:
    """`decode` outside torch.compile: by what is prepared for calls of this kind, or from the beginning."""
    kind, number = given.kind()
    prepared = REPEATED.get(kind, number)
    if prepared is None:
        out, lse = _attend_anew(given, kind, number)
    else:
        lengths = each_batch(given.kv_len, given.q) if isinstance(given.kv_len, torch.Tensor) else None
        starts = None if given.kv_start is None else each_batch(given.kv_start, given.q)
        tensors = given.q, given.k, given.v, given.sinks, lengths, starts, given.k_scale, given.v_scale
        out, lse = prepared(*tensors, number)
    return (out, lse) if given.return_lse else out


@without_autocast
def _attend_anew(given: DecodeArguments, kind: Kind | None, number: int | None) -> tuple:
    """(out, lse); what was prepared is kept for calls of this kind whose number of keys answers the same guards."""
    if kind is None:
        call = check_decode(given)
        return run_decode(call, make_decode_plan(call))
    from .launch import ready_decode

    guarded = None if number is None else GuardedInt(number)
    call = check_decode(given if guarded is None else given._replace(kv_len=guarded))  # pyright: ignore[reportArgumentType]
    prepared = ready_decode(call, make_decode_plan(call))
    REPEATED.put(kind, prepared, () if guarded is None else guarded.guards)
    return prepared(*call.tensors, number)


def check_decode(given: DecodeArguments) -> DecodeCall:
    """A checked call; TypeError or ValueError names the argument, what was given and what is allowed."""
    (
        q, k, v, kv_len, window, scale, splits, impl, return_lse, ring, sinks, softcap, kv_start, k_scale, v_scale
    ) = given  # fmt: skip
    choice("impl", impl, IMPLS)
    flag("return_lse", return_lse)
    check_tensors(q, k, v, ("q", "k", "v"), float64=impl == "reference", float8=True)
    if q.shape[2] > LONGEST_QUERY:
        raise ValueError(f"q: given {q.shape[2]} queries; from 1 to {LONGEST_QUERY}, more of them are for attention")
    starts = check_kv_start(kv_start, q, ring)
    kv_len, lengths = check_kv_len(kv_len, q, k, ring)
    if kv_len >= LARGEST_POSITION and not ring:
        raise ValueError(f"k: given {kv_len} keys; there must be less than {LARGEST_POSITION}")
    window = None if window is None else integer("window", window, 1)
    scale = check_scale(scale, q.shape[3])
    call = DecodeCall(
        q, k, v, scale, kv_len, lengths, window, check_splits(splits), impl, return_lse, ring,
        check_sinks(sinks, q), check_softcap(softcap, scale), starts,
        check_kv_scale("k_scale", k_scale, k), check_kv_scale("v_scale", v_scale, v),
    )  # fmt: skip
    if ring and lengths is None:
        rings.check_int("window", call.mask, q, kv_len, kv_len - q.shape[2], k.shape[2])
    elif ring:
        rings.check_device("window", call.mask, q.shape[2], k.shape[2])
    return call


def run_decode(call: DecodeCall, plan: DecodePlan) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(out, lse) of a checked call; lse may be None where it was not asked for."""
    if plan.impl == "triton":
        from . import launch

        return launch.decode(call, plan)
    call = call.from_first_keys()
    return _by_definition(call) if plan.impl == "reference" else call.by_float32(_by_tiles)


def _by_definition(call: DecodeCall) -> tuple[torch.Tensor, torch.Tensor]:
    call, bounded = call.dequantized(), call.bounded_lengths
    kv_len = call.kv_len if bounded is None else bounded
    sizes = {"q_start": kv_len - call.q.shape[2], "kv_len": kv_len}
    return reference.attention(call.q, call.k, call.v, call.mask, **sizes, **_options(call))


def _options(call: DecodeCall) -> dict[str, Any]:
    return {"scale": call.scale, "ring": call.ring, "sinks": call.sinks, "softcap": call.softcap}


def _by_tiles(call: DecodeCall) -> tuple[torch.Tensor, torch.Tensor]:
    lengths = call.bounded_lengths  # on a CPU reading a tensor costs nothing
    kv_lens = [call.kv_len] * call.q.shape[0] if lengths is None else lengths.tolist()
    options = {"kv_lens": kv_lens, "return_lse": call.return_lse, **_options(call)}
    return tiled.decode(call.q, call.k, call.v, call.mask, **options)


def check_splits(splits) -> int | None:
    if isinstance(splits, str):
        if splits != "auto":
            raise ValueError(f"splits: given {splits!r}; an int from 1 to {MOST_SPLITS}, or 'auto', is needed")
        return None
    splits = integer("splits", splits, 1)
    if splits > MOST_SPLITS:
        raise ValueError(f"splits: given {splits}; must be from 1 to {MOST_SPLITS}, or 'auto'")
    return splits
