"""The quantised linear layer in PyTorch, a block of weight rows at a time: the default on a CPU."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from .activations import RoundedActivations, planes, rounded
from .fixed_rows import blocks_of, products
from .weight import QuantizedWeight

BLOCK_ELEMENTS = 1 << 20
"""Float weights that exist at a time, 4 MB in float32: few enough for the caches, enough to keep threads busy."""


def linear(
    x: torch.Tensor | RoundedActivations,
    w: QuantizedWeight,
    bias: torch.Tensor | None,
    int8: bool,
    batch_invariant: bool = False,
    dequantize: Callable[[QuantizedWeight, torch.dtype], torch.Tensor] = QuantizedWeight.dequantize,
) -> torch.Tensor:
    """x [M, K] -> [M, N] in x's dtype.

    int8: activations are rounded. batch_invariant: a row's bits do not depend on the other rows. dequantize: what turns
    weights to floats for activations that are not.
    """
    if int8 or isinstance(x, RoundedActivations):
        return _of_rounded(x, w, bias, batch_invariant)
    return _of_floats(x, w, bias, batch_invariant, dequantize)


def _of_rounded(x, w: QuantizedWeight, bias, batch_invariant: bool) -> torch.Tensor:
    """The halves of the weights as they lie, so that none is moved: unpacking is most of the time here."""
    out = torch.empty((x.shape[0], w.shape[0]), dtype=torch.float32, device=x.device)
    activations = planes(rounded(x, torch.float32), f"int{w.bits}")
    if batch_invariant:
        activations = tuple(map(blocks_of, activations))
    for rows, part in w.blocks(BLOCK_ELEMENTS):
        weights = part.plane_values(torch.float32)
        if batch_invariant:
            first, second = map(products, activations, weights)
            out[:, rows] = (first + second)[: x.shape[0]]
        else:
            first, second = (a @ weight.T for a, weight in zip(activations, weights, strict=True))
            out[:, rows] = first + second
    return (out if bias is None else out + bias).to(x.dtype)


def _of_floats(x: torch.Tensor, w: QuantizedWeight, bias, batch_invariant: bool, dequantize) -> torch.Tensor:
    out = torch.empty((x.shape[0], w.shape[0]), dtype=x.dtype, device=x.device)
    # float16 products are slow on a CPU, and float32 ones of the same numbers are at least as good
    dtype = torch.float32 if x.dtype == torch.float16 and not x.is_cuda else x.dtype
    given = blocks_of(x.to(dtype)) if batch_invariant else x.to(dtype)
    for rows, part in w.blocks(BLOCK_ELEMENTS):
        weight, added = dequantize(part, x.dtype).to(dtype), None if bias is None else bias[rows].to(dtype)
        columns = products(given, weight, added)[: x.shape[0]] if batch_invariant else F.linear(given, weight, added)
        out[:, rows] = columns
    return out
