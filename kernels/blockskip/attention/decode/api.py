"""The public decode call: the contract."""

from __future__ import annotations

from typing import Any

import torch

from ..caches import as_scale
from ..call import DecodeArguments
from ..lengths import keys_from
from .eager import attend, check_decode
from .ops import traced_decode
from .plan import DecodePlan, make_decode_plan


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
    sinks: torch.Tensor | None = None,
    softcap: float | None = None,
    kv_start: torch.Tensor | None = None,
    k_scale: torch.Tensor | float | None = None,
    v_scale: torch.Tensor | float | None = None,
) -> Any:
    """softmax(scale * q k^T, causal) v for a few last queries of a long cache: split-K flash-decoding; inference only.

    Shapes: q [B, Hq, Lq, D], Lq from 1 to 16; k, v [B, Hkv, Lkv, D], the cache; Hq a multiple of Hkv (GQA); D from 8 to
    512; any strides, 0 too. Query row i stands at position kv_len - Lq + i and sees the keys up to its own.
    Dtypes: float16, bfloat16, float32, the same for all, or float8_e4m3fn for both k and v; scores, softmax and sums
    are float32. torch.autocast is off inside.

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
        sees nothing. With sinks it includes the head's, which is then all that a query that sees nothing has.
    ring: k and v are a ring: of their R = Lkv slots, position p lies in slot p % R, where it overwrote p - R. kv_len is
        then how many keys have been written, up to 2**29 (R by default; a device tensor's values are bounded to that
        too); window + Lq - 1 must be at most R unless an int kv_len is. For a sliding layer's cache:

            k[:, :, kv_len % k.shape[2]], v[:, :, kv_len % k.shape[2]] = k_new, v_new
            out = bs.decode(q, k, v, kv_len=kv_len + 1, window=1024, ring=True)

    sinks: [Hq], float32 or q's dtype, any stride: a learned logit a query head that joins the softmax's sum without a
        value. -inf is no sink. It is neither scaled nor capped.
    softcap: a positive number c: scores become c * tanh(scale * q k^T / c) before masking; float32 must hold scale / c.
    kv_start: int32 tensor [] or [B] on q's device: the slot of each row's first key, such as the first behind padding
        on the left; None is 0. Row b is then the call of k[b, :, kv_start[b]:] and v[b, :, kv_start[b]:]: positions
        and kv_len count from there. Read and bounded as kv_len is, of which an int is then the most; slots
        before kv_start may hold NaN, or anything. Not for a ring.
    k_scale, v_scale: what float8 keys and values are multiplied by, as `quantize_kv` returns it: float32 [] or [Hkv],
        any stride, on q's device, or a number, which each call puts there; None is 1. They are never read back:
        k_scale becomes part of the scores' scale, which float32 must hold, and v_scale multiplies the results.

    Returns out [B, Hq, Lq, D] in q's dtype, or (out, lse). A query that sees no key gets 0. Raises TypeError for dtypes
    and kinds, ValueError for shapes, ranges, unknown options and what an implementation cannot do.
    """
    if kv_start is not None:
        kv_len = keys_from(kv_start, kv_len, k)
    if k_scale is not None or v_scale is not None:
        k_scale, v_scale = as_scale("k_scale", k_scale, q), as_scale("v_scale", v_scale, q)
    given = DecodeArguments(
        q, k, v, kv_len, window, scale, splits, impl, return_lse, ring, sinks, softcap, kv_start,
        k_scale, v_scale,  # pyright: ignore[reportArgumentType] - they are tensors now
    )  # fmt: skip
    return traced_decode(given) if torch.compiler.is_compiling() else attend(given)


def explain_decode(
    q, k, v, *, kv_len=None, window=None, scale=None, splits="auto", impl="auto", return_lse=False, ring=False,
    sinks=None, softcap=None, kv_start=None, k_scale=None, v_scale=None,
) -> DecodePlan:  # fmt: skip
    """What `decode` with the same arguments will do, as a DecodePlan whose str() is legible."""
    if kv_start is not None:
        kv_len = keys_from(kv_start, kv_len, k)
    if k_scale is not None or v_scale is not None:
        k_scale, v_scale = as_scale("k_scale", k_scale, q), as_scale("v_scale", v_scale, q)
    given = DecodeArguments(
        q, k, v, kv_len, window, scale, splits, impl, return_lse, ring, sinks, softcap, kv_start, k_scale, v_scale
    )  # fmt: skip
    return make_decode_plan(check_decode(given))
