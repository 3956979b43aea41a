"""Who computes a decoder's attention over its caches: blockskip, or torch's SDPA, as peers and references have it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import blockskip as bs
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from skiplab.model.config import LayerSpec

FLASH_HEAD_DIM = 256
"""The largest that torch's FlashAttention takes."""
Masks = dict[Any, Tensor]
"""Masks that all layers of one window share in a call, by what tells them apart."""


@dataclass(frozen=True)
class Keys:
    """Keys and values of a layer that queries attend to: k, v [B, Hkv, slots, D].

    filled: slots of them that hold something, the host's number; None where all do. ends: int32 [B], the lengths with
    the queries, on the device (a step). ring: whether position p lies in slot p % slots.
    """

    k: Tensor
    v: Tensor
    filled: int | None = None
    ends: Tensor | None = None
    ring: bool = False


Attend = Callable[[Tensor, Keys, LayerSpec, dict[str, Any], Masks], Tensor]
"""attend(q [B, Hq, T, D], keys, layer, options of `blockskip.attention`, masks) -> [B, Hq, T, D]."""


def by_blockskip(q: Tensor, keys: Keys, layer: LayerSpec, options: dict[str, Any], masks: Masks) -> Tensor:
    """`blockskip.attention` for a prompt, `decode` for a step."""
    if keys.ends is not None:
        return bs.decode(q, keys.k, keys.v, kv_len=keys.ends, window=layer.window, ring=keys.ring, **options)
    return bs.attention(q, keys.k, keys.v, layer.mask, kv_len=keys.filled, **options)


def by_sdpa(q: Tensor, keys: Keys, layer: LayerSpec, options: dict[str, Any], masks: Masks) -> Tensor:
    """torch's SDPA: `is_causal` where that means the same, else a mask of bools, made once for all layers of a window.

    options: the scale alone, for SDPA knows no sinks and no soft cap. A step reads all slots of its cache.
    """
    if keys.ends is not None:
        return _step(q, keys, layer, options, masks)
    group, tokens = q.shape[1] // keys.k.shape[1], q.shape[2]
    k, v = (t[:, :, : keys.filled] for t in (keys.k, keys.v))
    seen: dict[str, Any] = {"is_causal": True}
    if tokens != k.shape[2] or (layer.window is not None and layer.window < tokens):
        sizes = tokens, k.shape[2]
        make = partial(layer.mask.dense, *sizes, device=q.device)
        seen = {"attn_mask": _once(masks, (layer.window, *sizes), make)}
    if group > 1 and must_repeat(q.is_cuda, "attn_mask" in seen, layer.head_dim):
        k, v = (t.repeat_interleave(group, 1) for t in (k, v))
        group = 1
    return scaled_dot_product_attention(q, k, v, **seen, enable_gqa=group > 1, **options)


def must_repeat(cuda: bool, masked: bool, head_dim: int) -> bool:
    """Whether torch has no fused kernel that takes grouped heads, so that keys are repeated, as transformers does."""
    return cuda and (masked or head_dim > FLASH_HEAD_DIM)


def _step(q: Tensor, keys: Keys, layer: LayerSpec, options: dict[str, Any], masks: Masks) -> Tensor:
    """The queries of a group of heads are rows of one head: so nothing is repeated, and any kernel takes them."""
    heads, tokens = keys.k.shape[1], q.shape[2]
    rows = q.unflatten(1, (heads, -1)).flatten(2, 3)  # [B, Hkv, group * tokens, D]
    group = rows.shape[2] // tokens
    make = partial(_step_mask, tokens, group, keys, layer.window)
    mask = _once(masks, (layer.window, keys.k.shape[2], group), make)
    out = scaled_dot_product_attention(rows, keys.k, keys.v, attn_mask=mask, **options)
    return out.unflatten(2, (group, tokens)).flatten(1, 2)


def _once(masks: Masks, key: Any, make: Callable[[], Tensor]) -> Tensor:
    if key not in masks:
        masks[key] = make()
    return masks[key]


def _step_mask(tokens: int, group: int, keys: Keys, window: int | None) -> Tensor:
    """bool [B, 1, group * tokens, slots]: which slots the last positions see; all of it stands on the device."""
    assert keys.ends is not None
    slots, device = keys.k.shape[2], keys.k.device
    end = keys.ends[:, None, None].long()  # [B, 1, 1]
    query = end - tokens + torch.arange(tokens, dtype=torch.int64, device=device)[:, None]  # [B, tokens, 1]
    position = torch.arange(slots, dtype=torch.int64, device=device)
    if keys.ring:
        position = end - 1 - (end - 1 - position) % slots  # the last one that the slot was written for
    seen = (position <= query) & (position >= 0)
    if window is not None:
        seen &= position > query - window
    return seen.repeat(1, group, 1)[:, None]
