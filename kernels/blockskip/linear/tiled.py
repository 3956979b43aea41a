"""The quantised linear layer in PyTorch, a block of weight rows at a time: the default on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .activations import are_rounded, planes, rounded
from .weight import QuantizedWeight

BLOCK_ELEMENTS = 1 << 20
"""Float weights that exist at a time, 4 MB in float32: few enough for the caches, enough to keep threads busy."""


def linear(x: torch.Tensor, w: QuantizedWeight, bias: torch.Tensor | None) -> torch.Tensor:
    """x [M, K] -> [M, N] in x's dtype."""
    return _few_rows(x, w, bias) if are_rounded(x.shape[0], w) else _many_rows(x, w, bias)


def _few_rows(x, w: QuantizedWeight, bias) -> torch.Tensor:
    """The halves of the weights as they lie, so that none is moved: unpacking is most of the time here."""
    out = torch.empty((x.shape[0], w.shape[0]), dtype=torch.float32, device=x.device)
    activations = planes(rounded(x, torch.float32), w.bits)
    for rows, part in w.blocks(BLOCK_ELEMENTS):
        first, second = (a @ v.T for a, v in zip(activations, part.plane_values(torch.float32), strict=True))
        out[:, rows] = first + second
    return (out if bias is None else out + bias).to(x.dtype)


def _many_rows(x, w: QuantizedWeight, bias) -> torch.Tensor:
    out = torch.empty((x.shape[0], w.shape[0]), dtype=x.dtype, device=x.device)
    # float16 products are slow on a CPU, and float32 ones of the same numbers are at least as good
    dtype = torch.float32 if x.dtype == torch.float16 and not x.is_cuda else x.dtype
    for rows, part in w.blocks(BLOCK_ELEMENTS):
        weight = part.dequantize(x.dtype).to(dtype)
        out[:, rows] = F.linear(x.to(dtype), weight, None if bias is None else bias[rows].to(dtype))
    return out
