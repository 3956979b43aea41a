"""The attention function that transformers' layers call, on `blockskip.attention`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import blockskip as bs

from .masks import PreparedMask


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: PreparedMask | Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """query [B, Hq, Lq, D], key, value [B, Hkv, Lkv, D] -> (out [B, Lq, Hq, D], None: no attention weights).

    attention_mask: what `masks.prepare` made for this forward pass; a tensor [B, 1, Lq, Lkv] of the user's own, bool or
    added to the scores; or None, from modules without masks. s_aux: [Hq], attention sinks.
    """
    _check_supported(query, key, value, dropout, others)
    if isinstance(attention_mask, Tensor):
        if s_aux is not None or softcap is not None:
            raise _unsupported("a 4-D attention_mask with attention sinks or softcap", "a 2-D one, or none,")
        out = bs.scaled_dot_product_attention(query, key, value, attention_mask, scale=scaling, enable_gqa=True)
        return out.transpose(1, 2).contiguous(), None
    if attention_mask is None:
        causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
        attention_mask = _unprepared(query.shape[2], key.shape[2], causal, sliding_window)
    elif (attention_mask.q_len, attention_mask.keys) != (query.shape[2], key.shape[2]):
        raise ValueError(
            f"attention_mask: prepared for {attention_mask.q_len} queries and {attention_mask.keys} keys; "
            f"the layer has {query.shape[2]} and {key.shape[2]}"
        )
    out = _attention(query, key, value, attention_mask, scaling, s_aux, softcap)
    return out.transpose(1, 2).contiguous(), None


def _attention(q, k, v, prepared: PreparedMask, scale, sinks, softcap) -> Tensor:
    kv_len, kv_start = prepared.kv_len, prepared.kv_start
    # layers may be spread over devices
    kv_len = kv_len.to(k.device) if isinstance(kv_len, Tensor) else kv_len
    kv_start = None if kv_start is None else kv_start.to(k.device)
    return bs.attention(
        q, k, v, prepared.mask, scale=scale, q_start=prepared.q_start, kv_len=kv_len, sinks=sinks, softcap=softcap,
        kv_start=kv_start, ring=prepared.ring,
    )  # fmt: skip


def _unprepared(q_len: int, keys: int, causal: bool, window: int | None) -> PreparedMask:
    """Of a module that makes no mask: an encoder's, or causal attention within the prompt."""
    if not causal or (q_len == 1 and window is None):
        return PreparedMask(bs.band(None, None), q_len, keys)
    if q_len not in (1, keys):
        raise ValueError(f"attention_mask: None for {q_len} causal queries of {keys} keys; where do the queries stand?")
    return PreparedMask(bs.causal() if window is None else bs.sliding_window(window), q_len, keys)


def _check_supported(query: Tensor, key: Tensor, value: Tensor, dropout: float, others: dict[str, Any]) -> None:
    if dropout:
        raise _unsupported(f"dropout (given {dropout})", "model.eval(), or attention_dropout=0 in its config,")
    if torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad):
        raise _unsupported("gradients: it is for inference", "torch.no_grad()")
    if others.get("output_attentions"):
        raise _unsupported("output_attentions: no attention weights are ever made", "attn_implementation='eager'")
    if others.get("position_bias") is not None:
        raise _unsupported("position_bias", "attn_implementation='eager'")


def _unsupported(what: str, instead: str) -> ValueError:
    return ValueError(f"blockskip's attention in transformers does not support {what}; use {instead} instead")
