"""The public decode call: the contract, its checks, and the way to an implementation."""

from __future__ import annotations

from typing import Any

import torch

from ..arguments import choice, flag, integer
from ..autocast import without_autocast
from ..repeat import GROWING, ByKeys, place_of
from . import decode_tiled, reference
from . import ring as rings
from .checks import IMPLS, LARGEST_POSITION, check_kv_len, check_scale, check_tensors, each_batch
from .decode_plan import LONGEST_QUERY, DecodeCall, DecodePlan, make_decode_plan

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
    scale: a number of a size up to 2.358e38, D ** -0.5 by default.
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
    if torch.compiler.is_compiling():
        from .decode_ops import traced_decode

        return traced_decode(
            q,
            k,
            v,
            kv_len=kv_len,
            window=window,
            scale=scale,
            splits=splits,
            impl=impl,
            return_lse=return_lse,
            ring=ring,
        )
    return attend(q, k, v, kv_len, window, scale, splits, impl, return_lse, ring)


@without_autocast
def attend(q, k, v, kv_len, window, scale, splits, impl, return_lse, ring) -> Any:
    """`decode` outside torch.compile: by what was made ready for calls of this kind, or from the beginning."""
    word, lengths = (None, kv_len) if isinstance(kv_len, torch.Tensor) else (kv_len, None)
    number = None
    if type(kv_len) is int:
        word, number = GROWING, kv_len
    place = place_of((q, k, v, lengths), ("decode", word, window, scale, splits, impl, return_lse, ring), impl)
    ready = place[0].find(number) if place else None
    if ready is not None:
        out, lse = ready(q, k, v, each_batch(lengths, q), number)
    else:
        call = check_decode(q, k, v, kv_len, window, scale, splits, impl, return_lse, ring)
        out, lse = _decode(call, place, number)
    return (out, lse) if return_lse else out


def _decode(call: DecodeCall, place: list, number: int | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(out, lse or None) from the beginning; what is ready for calls of this kind goes where it is found next time."""
    plan, shelf = make_decode_plan(call), []
    found = launch_decode(call, plan, shelf, number)
    if shelf:
        from .decode_launch import sort_of

        if not place:
            place.append(ByKeys(sort_of(call, plan)))
        place[0].put(number, shelf[0])
    return found


def explain_decode(
    q,
    k,
    v,
    *,
    kv_len=None,
    window=None,
    scale=None,
    splits="auto",
    impl="auto",
    return_lse=False,
    ring=False,
) -> DecodePlan:
    """What `decode` with the same arguments will do, as a DecodePlan whose str() is legible."""
    return make_decode_plan(check_decode(q, k, v, kv_len, window, scale, splits, impl, return_lse, ring))


def check_decode(q, k, v, kv_len, window, scale, splits, impl, return_lse, ring=False) -> DecodeCall:
    """A checked call; TypeError or ValueError names the argument, what was given and what is allowed."""
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
    call = DecodeCall(q, k, v, scale, kv_len, lengths, window, _check_splits(splits), impl, return_lse, ring)
    if ring and lengths is None:
        rings.check_int("window", call.mask, q, kv_len, kv_len - q.shape[2], k.shape[2])
    elif ring:
        rings.check_device("window", call.mask, q.shape[2], k.shape[2])
    return call


def launch_decode(
    call: DecodeCall, plan: DecodePlan, shelf: list | None = None, number: int | None = None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(out, lse) of a checked call; lse may be None where it was not asked for.

    shelf, number: see `decode_launch.decode`.
    """
    if plan.impl == "triton":
        from . import decode_launch

        return decode_launch.decode(call, plan, shelf, number)
    lengths = None if call.lengths is None else call.lengths.clamp(0, call.kv_len)
    q, k, v, mask, scale = call.q, call.k, call.v, call.mask, call.scale
    if plan.impl == "reference":
        kv_len = call.kv_len if lengths is None else lengths
        return reference.attention(
            q, k, v, mask, scale=scale, q_start=kv_len - q.shape[2], kv_len=kv_len, ring=call.ring
        )
    # on a CPU reading a tensor costs nothing
    kv_lens = [call.kv_len] * q.shape[0] if lengths is None else lengths.tolist()
    return decode_tiled.decode(q, k, v, mask, scale=scale, kv_lens=kv_lens, ring=call.ring, return_lse=call.return_lse)


def _check_splits(splits) -> int | None:
    if isinstance(splits, str):
        if splits != "auto":
            raise ValueError(f"splits: given {splits!r}; an int from 1 to {MOST_SPLITS}, or 'auto', is needed")
        return None
    splits = integer("splits", splits, 1)
    if splits > MOST_SPLITS:
        raise ValueError(f"splits: given {splits}; must be from 1 to {MOST_SPLITS}, or 'auto'")
    return splits
