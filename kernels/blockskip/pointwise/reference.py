"""The steps between products in PyTorch: each of them rounds to the dtype of what it is given."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from .call import HeadLayout, HeadNorms, Rotation, Targets

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
}


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """x [..., K] over the root of the mean of its squares, times the weight [K]."""
    return functional.rms_norm(x, x.shape[-1:], weight, eps)


def residual_norm(
    x: Tensor, update: Tensor | None, weight: Tensor, update_weight: Tensor | None, scalar: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """See `api.residual_norm`."""
    if update is not None:
        x = x + (update if update_weight is None else rms_norm(update, update_weight, eps))
        x = x if scalar is None else x * scalar
    return x, rms_norm(x, weight, eps)


def rotated_heads(qkv: Tensor, heads: HeadLayout, rotation: Rotation, norms: HeadNorms, targets: Targets) -> Tensor:
    """See `api.rotated_heads`."""
    q, k, v = _divided(qkv, heads)  # [B, T, H, D]
    if norms.query is not None:
        q = rms_norm(q, norms.query, norms.eps)
    if norms.key is not None:
        k = rms_norm(k, norms.key, norms.eps)
    if norms.value:
        v = rms_norm(v, None, norms.eps)
    q, k, v = (t.transpose(1, 2) for t in (rotated(q, rotation), rotated(k, rotation), v))  # [B, H, T, D]
    for target, new in ((targets.keys, k), (targets.values, v)):
        if targets.slots is None:
            target.copy_(new)
        else:
            index = targets.slots[:, None, :, None].expand(new.shape)
            target.scatter_(2, index, new)
    return q


def gated(gate_up: Tensor, activation: str) -> Tensor:
    """See `api.gated`."""
    gate, up = gate_up.chunk(2, -1)
    return ACTIVATIONS[activation](gate) * up


def rotated(x: Tensor, rotation: Rotation) -> Tensor:
    """x [B, T, H, D]: dimension i turned with dimension i + D / 2, in float32, and rounded once."""
    first, second = x.to(torch.promote_types(x.dtype, torch.float32)).chunk(2, -1)
    cos, sin = rotation
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(x.dtype)


def _divided(qkv: Tensor, heads: HeadLayout) -> tuple[Tensor, Tensor, Tensor]:
    """[B, T, (Hq + Hkv + Hkv) D] as [B, T, H, D] each; the keys are the values, too, where there are none."""
    each = qkv.unflatten(-1, (-1, heads.dim))
    if heads.key_is_value:
        q, k = each.split((heads.query, heads.kv), 2)
        return q, k, k
    q, k, v = each.split((heads.query, heads.kv, heads.kv), 2)
    return q, k, v
