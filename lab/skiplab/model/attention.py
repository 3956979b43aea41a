"""Who computes a decoder's attention over its caches: blockskip, or torch's SDPA, as peers and references have it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import blockskip as bs
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from skiplab.model.config import LayerSpec

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
    grouped = q.shape[1] != keys.k.shape[1]
    k, v = (t[:, :, : keys.filled] for t in (keys.k, keys.v))
    if keys.ends is not None:
        mask = _once(masks, (layer.window, k.shape[2]), lambda: _step_mask(q.shape[2], keys, layer.window))
    elif q.shape[2] == k.shape[2] and (layer.window is None or layer.window >= k.shape[2]):
        return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped, **options)
    else:
        sizes = q.shape[2], k.shape[2]
        mask = _once(masks, (layer.window, *sizes), lambda: layer.mask.dense(*sizes, device=q.device))
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped, **options)


def _once(masks: Masks, key: Any, make: Callable[[], Tensor]) -> Tensor:
    if key not in masks:
        masks[key] = make()
    return masks[key]


def _step_mask(tokens: int, keys: Keys, window: int | None) -> Tensor:
    """bool [B, 1, tokens, slots]: which slots the last `tokens` positions see; all of it stands on the device."""
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
    return seen[:, None]
