"""The quantised linear layer in PyTorch, a block of weight rows at a time: the default on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .activations import MOST_ROWS, rounded
from .weight import QuantizedWeight

BLOCK_ELEMENTS = 1 << 18
"""Float weights that exist at a time: 1 MB in float32, so that they are multiplied out of the cache."""


def linear(x: torch.Tensor, w: QuantizedWeight, bias: torch.Tensor | None) -> torch.Tensor:
    """x [M, K] -> [M, N] in x's dtype."""
    out = torch.empty((x.shape[0], w.shape[0]), dtype=x.dtype, device=x.device)
    few = x.shape[0] <= MOST_ROWS
    # float16 products are slow on a CPU, and float32 ones of the same numbers are at least as good
    dtype = torch.float32 if few or (x.dtype == torch.float16 and not x.is_cuda) else x.dtype
    activations = rounded(x, dtype) if few else x.to(dtype)
    for rows, part in w.blocks(BLOCK_ELEMENTS):
        weight = part.dequantize(dtype if few else x.dtype).to(dtype)
        out[:, rows] = F.linear(activations, weight, None if bias is None else bias[rows].to(dtype))
    return out
