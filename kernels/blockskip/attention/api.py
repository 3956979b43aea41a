"""The public attention calls: the contract."""

from __future__ import annotations

from typing import Any

import torch

from ..arguments import flag, number, tensor
from ..autocast import without_autocast
from ..config import TileConfig
from ..mask import Mask, causal, mask_of
from ..mask import dense as dense_mask
from .caches import as_scale
from .call import AttentionArguments
from .checks import check_tensors
from .eager import attend, check
from .lengths import keys_from
from .ops import traced_attention
from .route import Plan, make_plan


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: Mask | None = None,
    *,
    scale: float | None = None,
    q_start: int | None = None,
    kv_len: int | torch.Tensor | None = None,
    skip: str = "auto",
    impl: str = "auto",
    config: TileConfig | tuple[int, int, int, int] | None = None,
    return_lse: bool = False,
    record: bool = False,
    ring: bool = False,
    route: str = "measured",
    sinks: torch.Tensor | None = None,
    softcap: float | None = None,
    kv_start: torch.Tensor | None = None,
    k_scale: torch.Tensor | float | None = None,
    v_scale: torch.Tensor | float | None = None,
) -> Any:
    """softmax(scale * q k^T, masked) v, computing only the tiles that `mask` leaves. Inference only.

    Shapes: q [B, Hq, Lq, D]; k, v [B, Hkv, Lkv, D]; Hq a multiple of Hkv (GQA); D from 8 to 512; any strides, 0 too.
    Dtypes: float16, bfloat16, float32, the same for all, or float8_e4m3fn for both k and v; scores, softmax and sums
    are float32. torch.autocast is off inside.

    mask: which keys a query sees; None is all. Query row i stands at position q_start + i.
    scale: a number of a size up to 2.358e38, D ** -0.5 by default.
    q_start: position of the first query, kv_len - Lq by default: the queries are the last positions (bottom-right).
    kv_len: how many keys are real: an int from 1 to Lkv (the default), or an int32 tensor [] or [B] on q's device,
        which is never read back, and must stay as it is until the call has ended on the device; its values are bounded
        to 0..Lkv in the kernel. Keys beyond may hold NaN, or anything.
    skip: how the Triton kernel leaves out empty tiles, never changing the result: none | mask | bounds | map; auto
        takes bounds for a band, map for any other mask, and mask where a kv_len tensor comes without q_start.
    impl: reference | tiled | triton; auto takes triton on CUDA, tiled elsewhere. An explicit one never falls back.
    config: TileConfig or (block_m, block_n, num_warps, num_stages) of the Triton kernel; None takes the table's.
    return_lse: also return lse float32 [B, Hq, Lq], the natural log of the sum of exponentials; -inf for a query that
        sees nothing. With sinks it includes the head's, which is then all that a query that sees nothing has.
    record: also return visits uint8 [B, programs' heads, rows, cols], written by the kernel inside the launch itself:
        0 left out, 1 computed masked, 2 computed unmasked (Triton alone).
    ring: k and v are a ring: of their R = Lkv slots, position p lies in slot p % R, where it overwrote p - R. kv_len is
        then how many keys have been written, up to 2**29 (R by default; a device tensor's values are bounded to that
        too). A mask that sees an overwritten key is a ValueError. A kv_len tensor leaves no key to look at: it needs a
        band whose window + Lq - 1 is at most R, no q_start, and skip auto or bounds. For a sliding layer's cache:

            slots = torch.arange(start, start + chunk) % k.shape[2]
            k[:, :, slots], v[:, :, slots] = k_new, v_new
            out = bs.attention(q, k, v, bs.sliding_window(750), kv_len=start + chunk, ring=True)

    route: which kernel takes up to 128 last queries under causal() or a sliding window: measured (split-K decode, whose
        programs share the keys: up to 8 queries from a number of keys on, more where prefill's programs would leave
        half of the multiprocessors idle, see `route.py`), executorch (that project's rule), prefill, or decode
        (ValueError where it cannot). A mask that is or holds dense or mask_mod, as of a tree of drafts, goes the same
        way as bits, wherever its queries stand; route decode asks no tile map for it. An explicit skip, config or
        record is the prefill kernel's. In PyTorch decode takes up to 8.

    sinks: [Hq], float32 or q's dtype, any stride: a learned logit a query head that joins the softmax's sum without a
        value (gpt-oss). -inf is no sink. It is neither scaled nor capped.
    softcap: a positive number c: scores become c * tanh(scale * q k^T / c) before masking (Gemma 2); float32 must hold
        scale / c.
    kv_start: int32 tensor [] or [B] on q's device: the slot of each row's first key, such as the first behind padding
        on the left; None is 0. Row b is then the call of k[b, :, kv_start[b]:] and v[b, :, kv_start[b]:]: positions,
        kv_len and q_start count from there. Read and bounded as kv_len is, of which an int is then the most; slots
        before kv_start may hold NaN, or anything. Not for a ring.
    k_scale, v_scale: what float8 keys and values are multiplied by, as `quantize_kv` returns it: float32 [] or [Hkv],
        any stride, on q's device, or a number, which each call puts there; None is 1. They are never read back:
        k_scale becomes part of the scores' scale, which float32 must hold, and v_scale multiplies the results.

    Returns out [B, Hq, Lq, D] in q's dtype, or a tuple (out, lse, visits) of those asked for; out is dense, in any
    order of its dimensions. A query that sees no key gets 0. Raises TypeError for dtypes and kinds, ValueError for
    shapes, ranges, unknown options and what an implementation or a device cannot do (a `config` that needs more shared
    memory than it has), and RuntimeError where skip none, mask or map meets a mask for the first time inside a CUDA
    graph capture, which cannot copy its tables to the device: make the same call once before capturing. A graph reads
    the mask's tables: keep the mask as long.
    """
    if kv_start is not None:
        kv_len = keys_from(kv_start, kv_len, k)
    if k_scale is not None or v_scale is not None:
        k_scale, v_scale = as_scale("k_scale", k_scale, q), as_scale("v_scale", v_scale, q)
    given = AttentionArguments(
        q, k, v, mask, scale, q_start, kv_len, skip, impl, config, return_lse, record, ring,
        route, sinks, softcap, kv_start, k_scale, v_scale,  # pyright: ignore[reportArgumentType] - they are tensors now
    )  # fmt: skip
    return traced_attention(given) if torch.compiler.is_compiling() else attend(given)


def explain(
    q, k, v, mask=None, *, scale=None, q_start=None, kv_len=None, skip="auto", impl="auto", config=None,
    return_lse=False, record=False, ring=False, route="measured", sinks=None, softcap=None, kv_start=None, k_scale=None,
    v_scale=None,
) -> Plan:  # fmt: skip
    """What `attention` with the same arguments will do, as a Plan whose str() is legible."""
    if kv_start is not None:
        kv_len = keys_from(kv_start, kv_len, k)
    if k_scale is not None or v_scale is not None:
        k_scale, v_scale = as_scale("k_scale", k_scale, q), as_scale("v_scale", v_scale, q)
    given = AttentionArguments(
        q, k, v, mask, scale, q_start, kv_len, skip, impl, config, return_lse, record, ring,
        route, sinks, softcap, kv_start, k_scale, v_scale,
    )  # fmt: skip
    return make_plan(check(given))


def scaled_dot_product_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """torch's scaled_dot_product_attention for 4-D inputs without dropout; is_causal is top-left, as torch's.

    attn_mask: bool (True is kept) or float, added to the scores; broadcastable to [B, Hq, Lq, Lkv].
    A query whose keys are all masked gets 0, where torch's own kernels give 0 or NaN. Raises ValueError for
    dropout_p > 0, for attn_mask together with is_causal, and for differing head counts without enable_gqa.
    """
    flag("is_causal", is_causal)
    flag("enable_gqa", enable_gqa)
    if number("dropout_p", dropout_p) != 0:
        raise ValueError(f"dropout_p: given {dropout_p}; only 0.0, this is for inference")
    if is_causal and attn_mask is not None:
        raise ValueError("is_causal: True together with an attn_mask; give one of them")
    check_tensors(query, key, value, ("query", "key", "value"))
    if not enable_gqa and query.shape[1] != key.shape[1]:
        raise ValueError(
            f"enable_gqa: False, but query has {query.shape[1]} heads and key {key.shape[1]}; "
            "set it True for grouped heads"
        )
    if attn_mask is None:
        return attention(query, key, value, causal() if is_causal else None, scale=scale, q_start=0)
    shape = (query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    tensor("attn_mask", attn_mask)
    if attn_mask.device != query.device:
        raise ValueError(f"attn_mask: is on {attn_mask.device}; must be on query's {query.device}")
    if attn_mask.dtype == torch.bool:
        return attention(query, key, value, _bool_mask(attn_mask, shape), scale=scale, q_start=0)
    if attn_mask.dtype not in (query.dtype, torch.float32):
        raise TypeError(f"attn_mask: given {attn_mask.dtype}; bool, float32 or query's {query.dtype}")
    if attn_mask.requires_grad and torch.is_grad_enabled():
        raise ValueError("attn_mask: requires grad; this is for inference: use torch.no_grad() or detach()")
    return _attention_with_bias(query, key, value, attn_mask, scale)


def _four_dims(mask: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """attn_mask as [B or 1, H or 1, Lq, Lkv]; ValueError where it does not broadcast to `shape`."""
    given = tuple(mask.shape)
    mask = mask[(None,) * max(0, 4 - mask.ndim)]
    if mask.ndim != 4 or any(m not in (1, s) for m, s in zip(mask.shape, shape, strict=True)):
        raise ValueError(f"attn_mask: given shape {given}; must broadcast to {shape}")
    return mask.expand(-1, -1, *shape[2:])


def _bool_mask(attn_mask: torch.Tensor, shape: tuple[int, ...]) -> Mask:
    """The same object for the same tensor, so that what was made of it serves the next layer's call."""
    wide = _four_dims(attn_mask, shape)
    return dense_mask(wide) if torch.compiler.is_compiling() else mask_of(attn_mask, "dense(0)", [wide])


@without_autocast
def _attention_with_bias(query, key, value, bias, scale) -> torch.Tensor:
    """An additive mask names no tile to skip: it is dense work, and torch's own kernel does it."""
    bias = _four_dims(bias, (query.shape[0], query.shape[1], query.shape[2], key.shape[2]))
    group = query.shape[1] != key.shape[1]
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, bias, scale=scale, enable_gqa=group)
