"""The checks of arguments that both operations share: q, k and v, the scale, sinks and soft caps.

Errors name the argument, what was given and what is allowed.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from ..arguments import number, tensor
from .caches import FLOAT8

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
LARGEST_SCALE = torch.finfo(torch.float32).max * math.log(2)
"""The largest |scale| that float32 still holds after the kernels' factor of log2 e."""
SMALLEST_FACTOR = torch.finfo(torch.float32).tiny
"""Factors below it would be 0 in a kernel that flushes what float32 holds with fewer digits."""


def check_tensors(q, k, v, names, float64: bool = False, float8: bool = False) -> None:
    """Kinds, dtypes, shapes and devices of query, key and value; float8: whether key and value may be float8."""
    dtypes = (*DTYPES, torch.float64) if float64 else DTYPES
    of_keys = (*dtypes, FLOAT8) if float8 else dtypes
    for name, t, allowed in zip(names, (q, k, v), (dtypes, of_keys, of_keys), strict=True):
        tensor(name, t, allowed)
        if t.ndim != 4:
            raise ValueError(f"{name}: given {t.ndim} dimensions; [batch, heads, length, head_dim] is needed")
        if min(t.shape) < 1:
            raise ValueError(f"{name}: given shape {tuple(t.shape)}; every size must be at least 1")
        if t.requires_grad and torch.is_grad_enabled():
            raise ValueError(f"{name}: requires grad; this is for inference: use torch.no_grad() or detach()")
    for name, t in zip(names[1:], (k, v), strict=True):
        if t.dtype != q.dtype and not k.dtype == v.dtype == FLOAT8:
            both = f", or {names[1]} and {names[2]} both {FLOAT8}" if float8 else ""
            raise TypeError(f"{name}: given {t.dtype}; must be {names[0]}'s {q.dtype}{both}")
        if t.device != q.device:
            raise ValueError(f"{name}: is on {t.device}; must be on {names[0]}'s {q.device}")
    if k.shape != v.shape:
        raise ValueError(f"{names[2]}: given shape {tuple(v.shape)}; must be {names[1]}'s {tuple(k.shape)}")
    for what, i in (("batch", 0), ("head_dim", 3)):
        if q.shape[i] != k.shape[i]:
            raise ValueError(f"{names[1]}: given {what} {k.shape[i]}; must be {names[0]}'s {q.shape[i]}")
    if q.shape[1] % k.shape[1]:
        raise ValueError(f"{names[0]}: given {q.shape[1]} heads; must be a multiple of {names[1]}'s {k.shape[1]}")
    if not 8 <= q.shape[3] <= 512:
        raise ValueError(f"{names[0]}: given head_dim {q.shape[3]}; must be from 8 to 512")


def check_scale(scale, head_dim: int) -> float:
    if scale is None:
        return head_dim**-0.5
    scale = number("scale", scale)
    if abs(scale) > LARGEST_SCALE:
        raise ValueError(
            f"scale: given {scale:g}; its size must be at most {LARGEST_SCALE:.4g}, for scores are float32"
        )
    return scale


def check_sinks(sinks: Any, q: torch.Tensor) -> torch.Tensor | None:
    """A logit for each query head."""
    if sinks is None:
        return None
    tensor("sinks", sinks, (torch.float32, *{q.dtype} - {torch.float32}))
    if tuple(sinks.shape) != (q.shape[1],):
        raise ValueError(f"sinks: given shape {tuple(sinks.shape)}; [{q.shape[1]}] is needed, a logit a query head")
    if sinks.device != q.device:
        raise ValueError(f"sinks: is on {sinks.device}; must be on q's {q.device}")
    if sinks.requires_grad and torch.is_grad_enabled():
        raise ValueError("sinks: requires grad; this is for inference: use torch.no_grad() or detach()")
    return sinks


def check_softcap(softcap: Any, scale: float) -> float | None:
    """A cap whose quotients with the scale, and products with log2 e, float32 holds: the kernels' two factors."""
    if softcap is None:
        return None
    softcap, size = number("softcap", softcap), abs(scale)
    least, most = SMALLEST_FACTOR, LARGEST_SCALE
    if size >= SMALLEST_FACTOR:  # a smaller scale is 0
        least, most = max(least, 2 * size / LARGEST_SCALE), min(most, size / SMALLEST_FACTOR)
    if not least <= softcap <= most:
        raise ValueError(
            f"softcap: given {softcap:g}; must be positive, from {least:.4g} to {most:.4g} at a scale of {scale:g}, "
            "for scores are float32"
        )
    return softcap
