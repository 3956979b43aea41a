"""The quantised linear layer as its definition says it. The yardstick of the other implementations."""

from __future__ import annotations

import torch

from .activations import are_rounded, rounded
from .weight import QuantizedWeight


def linear(x: torch.Tensor, w: QuantizedWeight, bias: torch.Tensor | None) -> torch.Tensor:
    """x [M, K] -> [M, N] in x's dtype; computed in float64 for float64 x, in float32 for others."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    if are_rounded(x.shape[0], w):
        activations, weight = rounded(x, dtype), w.dequantize(dtype)
    else:
        activations, weight = x.to(dtype), w.dequantize(x.dtype).to(dtype)
    out = activations @ weight.T
    return (out if bias is None else out + bias.to(dtype)).to(x.dtype)
