"""The quantised linear layer as its definition says it. The yardstick of the other implementations."""

from __future__ import annotations

import torch

from .activations import RoundedActivations, rounded
from .fixed_rows import blocks_of, products
from .weight import QuantizedWeight


def linear(
    x: torch.Tensor | RoundedActivations,
    w: QuantizedWeight,
    bias: torch.Tensor | None,
    int8: bool,
    batch_invariant: bool = False,
) -> torch.Tensor:
    """x [M, K] -> [M, N] in x's dtype; computed in float64 for float64 x, in float32 for others.

    int8: activations are rounded. batch_invariant: a row's bits do not depend on the other rows.
    """
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    if int8 or isinstance(x, RoundedActivations):
        activations, weight = rounded(x, dtype), w.dequantize(dtype)
    else:
        activations, weight = x.to(dtype), w.dequantize(x.dtype).to(dtype)
    if batch_invariant:
        out = products(blocks_of(activations), weight)[: x.shape[0]]
    else:
        out = activations @ weight.T
    return (out if bias is None else out + bias.to(dtype)).to(x.dtype)
