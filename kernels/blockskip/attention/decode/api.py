"""The public decode call: the contract, its checks, and the way to an implementation."""

from __future__ import annotations

from typing import Any

import torch

from ...arguments import choice, flag, integer
from ...autocast import without_autocast
from ...launching.guards import GuardedInt
from ...launching.repeated import REPEATED, Kind
from .. import reference
from .. import ring as rings
from ..call import (
    IMPLS,
    LARGEST_POSITION,
    DecodeArguments,
    DecodeCall,
    check_kv_len,
    check_scale,
    check_tensors,
    each_batch,
)
from . import tiled
from .plan import LONGEST_QUERY, DecodePlan, make_decode_plan

MOST_SPLITS = 65535
"""A CUDA grid's second and third dimensions end there; no device has as many programs at once."""


def decode(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    kv_len: int | torch.Tensor | None = None,
    window: int | None = None,
    scale: float | None = None,
    splits: int | str = "auto",
    impl: str = "auto",
    return_lse: bool = False,
    ring: bool = False,
) -> Any:
    """softmax(scale * q k^T, causal) v for a few last queries of a long cache: split-K flash-decoding; inference only.

    Shapes: q [B, Hq, Lq, D], Lq from 1 to 8; k, v [B, Hkv, Lkv, D], the cache; Hq a multiple of Hkv (GQA); D from 8 to
    512; any strides, 0 too. Query row i stands at position kv_len - Lq + i and sees the keys up to its own.
    Dtypes: float16, bfloat16, float32, the same for all; scores, softmax and sums are float32. torch.autocast is off
    inside.

    kv_len: how many keys are real: an int from 1 to Lkv (the default), or an int32 tensor [] or [B] on q's device,
        which is never read back (a CUDA graph replays with new values); its values are bounded to 0..Lkv in the kernel.
        An int may grow from token to token: the call is planned anew only where its number of splits changes.
        Slots beyond it, and slots before every query's window, may hold NaN, or anything.
    window: a query sees that many keys, itself included; None is all. Slots before it are not read.
    scale: any finite number, D ** -0.5 by default.
    splits: how many programs share a KV head's keys: an int >= 1, or "auto" (see `splits.choose_splits`). Changes the
        order of sums, nothing else; `reference` and `tiled` ignore it.
    impl: reference | tiled | triton; auto takes triton on CUDA, tiled elsewhere. An explicit one never falls back.
    return_lse: also return lse float32 [B, Hq, Lq], the natural log of the sum of exponentials; -inf for a query that
        sees nothing.
    ring: k and v are a ring: of their R = Lkv slots, position p lies in slot p % R, where it overwrote p - R. kv_len is
        then how many keys have been written, up to 2**29 (R by default; a device tensor's values are bounded to that
        too); window + Lq - 1 must be at most R unless an int kv_len is. For a sliding layer's cache:

            k[:, :, kv_len % k.shape[2]], v[:, :, kv_len % k.shape[2]] = k_new, v_new
            out = bs.decode(q, k, v, kv_len=kv_len + 1, window=1024, ring=True)

    Returns out [B, Hq, Lq, D] in q's dtype, or (out, lse). A query that sees no key gets 0. Raises TypeError for dtypes
    and kinds, ValueError for shapes, ranges, unknown words and what an implementation cannot do.
    """
    given = DecodeArguments(q, k, v, kv_len, window, scale, splits, impl, return_lse, ring)
    if torch.compiler.is_compiling():
        from .ops import traced_decode

        return traced_decode(given)
    return attend(given)


@without_autocast
def attend(given: DecodeArguments) -> Any:
    """`decode` outside torch.compile: by what is prepared for calls of this kind, or from the beginning."""
    kind, number = given.kind()
    prepared = REPEATED.get(kind, number)
    if prepared is None:
        out, lse = _attend_anew(given, kind, number)
    else:
        lengths = given.kv_len if isinstance(given.kv_len, torch.Tensor) else None
        out, lse = prepared(given.q, given.k, given.v, each_batch(lengths, given.q), number)
    return (out, lse) if given.return_lse else out


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
    return prepared(call.q, call.k, call.v, call.lengths, number)


def explain_decode(
    q, k, v, *, kv_len=None, window=None, scale=None, splits="auto", impl="auto", return_lse=False, ring=False
) -> DecodePlan:  # fmt: skip
    """What `decode` with the same arguments will do, as a DecodePlan whose str() is legible."""
    given = DecodeArguments(q, k, v, kv_len, window, scale, splits, impl, return_lse, ring)
    return make_decode_plan(check_decode(given))


def check_decode(given: DecodeArguments) -> DecodeCall:
    """A checked call; TypeError or ValueError names the argument, what was given and what is allowed."""
    q, k, v, kv_len, window, scale, splits, impl, return_lse, ring = given
    choice("impl", impl, IMPLS)
    flag("return_lse", return_lse)
    check_tensors(q, k, v, ("q", "k", "v"), float64=impl == "reference")
    if q.shape[2] > LONGEST_QUERY:
        raise ValueError(f"q: given {q.shape[2]} queries; from 1 to {LONGEST_QUERY}, more of them are for attention")
    kv_len, lengths = check_kv_len(kv_len, q, k, ring)
    if kv_len >= LARGEST_POSITION and not ring:
        raise ValueError(f"k: given {kv_len} keys; there must be less than {LARGEST_POSITION}")
    window = None if window is None else integer("window", window, 1)
    scale = check_scale(scale, q.shape[3])
    call = DecodeCall(q, k, v, scale, kv_len, lengths, window, check_splits(splits), impl, return_lse, ring)
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
    lengths = None if call.lengths is None else call.lengths.clamp(0, call.kv_len)
    q, k, v, mask, scale = call.q, call.k, call.v, call.mask, call.scale
    if plan.impl == "reference":
        kv_len = call.kv_len if lengths is None else lengths
        return reference.attention(
            q, k, v, mask, scale=scale, q_start=kv_len - q.shape[2], kv_len=kv_len, ring=call.ring
        )
    # on a CPU reading a tensor costs nothing
    kv_lens = [call.kv_len] * q.shape[0] if lengths is None else lengths.tolist()
    return tiled.decode(q, k, v, mask, scale=scale, kv_lens=kv_lens, ring=call.ring, return_lse=call.return_lse)


def check_splits(splits) -> int | None:
    if isinstance(splits, str):
        if splits != "auto":
            raise ValueError(f"splits: given {splits!r}; an int from 1 to {MOST_SPLITS}, or 'auto', is needed")
        return None
    splits = integer("splits", splits, 1)
    if splits > MOST_SPLITS:
        raise ValueError(f"splits: given {splits}; must be from 1 to {MOST_SPLITS}, or 'auto'")
    return splits
