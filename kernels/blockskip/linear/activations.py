"""Activations in int8, a step for each 32: what `linear` means for up to eight rows, in PyTorch."""

from __future__ import annotations

import torch

from .weight import BLOCK, QuantizedWeight

MOST_ROWS = 8
"""Rows of activations up to which they are rounded to int8 and multiplied by dp4a, where the weight lies in rows."""


def are_rounded(rows: int, w: QuantizedWeight) -> bool:
    """Whether `linear` rounds so many rows of activations to int8: few rows, of a weight in rows.

    The kernel for tiles takes activations as they are at any number of rows, in less time than the dp4a products.
    """
    return rows <= MOST_ROWS and w.packing == "rows"


def round_to_int8(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes, whole numbers from -127 to 127, float32 [M, K / 32, 32], and steps float32 [M, K / 32, 1] of x [M, K].

    A block's step is its largest magnitude / 127, and a code x / step rounded to even; in float32, whatever x is in. A
    block that holds a value that is not finite has codes 0 and a step that is not finite: its products are NaN.
    """
    blocks = x.float().contiguous().unflatten(1, (-1, BLOCK))
    # a tensor, because CUDA multiplies with the reciprocal of a number, which rounds otherwise
    step = blocks.abs().amax(-1, keepdim=True) / torch.full((), 127.0, dtype=torch.float32, device=x.device)
    usable = step.isfinite() & (step > 0)
    codes = (blocks.where(usable, 0) / step.where(usable, 1)).round()
    return codes.clamp(-127, 127), step  # a subnormal step is too coarse for the quotient


def rounded(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """x [M, K] as int8 leaves it: codes * steps in `dtype`."""
    codes, step = round_to_int8(x)
    return (codes.to(dtype) * step.to(dtype)).flatten(1)


def planes(x: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """x [M, K] as two [M, K / 2], in the order of `QuantizedWeight.planes`."""
    if bits == 4:
        return x[:, ::2].contiguous(), x[:, 1::2].contiguous()
    halves = x.unflatten(1, (-1, 2, BLOCK // 2))
    return halves[:, :, 0].flatten(1), halves[:, :, 1].flatten(1)
