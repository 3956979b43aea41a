"""The public quantised linear call: the contract."""

from __future__ import annotations

import torch

from .eager import check, choose_impl, multiply
from .ops import traced_linear
from .plan import LinearPlan, make_plan
from .weight import FUNCTIONS, QuantizedWeight


def linear(
    x: torch.Tensor,
    w: QuantizedWeight,
    bias: torch.Tensor | None = None,
    impl: str = "auto",
    route: str = "measured",
) -> torch.Tensor:
    """x @ w^T + bias for a quantised weight. Inference only.

    x: [..., K], float16, bfloat16 or float32 (float64 too for impl='reference'); any strides.
    w: `blockskip.quantize`'s result, [N, K], on x's device.
    bias: [N] in x's dtype, or None.
    impl: reference | tiled | triton; auto takes triton on CUDA, tiled elsewhere. An explicit one never falls back.
    route: the Triton kernel: matvec (up to 8 rows, and alone there), fused or dequantize (more rows, or tiles; see
        `route.py`); measured takes the one that was the sooner when measured.

    Up to 8 rows (all of x's leading dimensions together), activations are rounded to int8, with a step for each 32 of
    them (the largest magnitude / 127), multiplied in integers (dp4a) and summed in float32. That rounding is part of
    the operation, whatever the implementation. With more rows, and at any number of them where w lies in tiles
    (`w.packed("tiles")`, for Hopper's kernel), activations stay as they are, and the weights are rounded to x's dtype.
    A row with a value that is not finite gives NaN, or what its products give where activations stay as they are.

    Returns [..., N] in x's dtype, the same bits each time; torch.autocast is off inside. Raises TypeError for dtypes
    and kinds, ValueError for shapes, devices, unknown options and what an implementation cannot do.
    """
    if torch.compiler.is_compiling():
        return traced_linear(x, w, bias, impl, route)
    return multiply(x, w, bias, impl, route)


def explain_linear(
    x: torch.Tensor,
    w: QuantizedWeight,
    bias: torch.Tensor | None = None,
    impl: str = "auto",
    route: str = "measured",
) -> LinearPlan:
    """What `linear` with the same arguments will do, as a LinearPlan whose str() is legible."""
    check(x, w, bias, impl, route)
    return make_plan(x.reshape(-1, x.shape[-1]), w, choose_impl(x, impl), route)


def _functional_linear(input, weight, bias=None):  # the names that torch gives them
    return linear(input, weight, bias)


FUNCTIONS[torch.nn.functional.linear] = _functional_linear
