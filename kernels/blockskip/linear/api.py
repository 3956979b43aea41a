"""The public quantised linear call: the contract."""

from __future__ import annotations

import torch

from . import eager
from .activations import RoundedActivations
from .eager import LinearArguments, check, multiply, plan_of
from .ops import traced_linear, traced_round_activations
from .plan import LinearPlan
from .weight import FUNCTIONS, QuantizedWeight


def linear(
    x: torch.Tensor | RoundedActivations,
    w: QuantizedWeight,
    bias: torch.Tensor | None = None,
    impl: str = "auto",
    route: str = "measured",
    activations: str = "auto",
) -> torch.Tensor:
    """x @ w^T + bias for a quantised weight. Inference only.

    x: [..., K], float16, bfloat16 or float32 (float64 too for impl='reference'); any strides. Or what
        `round_activations` made of such activations, so that layers which share them do not round them again.
    w: `blockskip.quantize`'s result, [N, K], on x's device; in rows or in tiles (`QuantizedWeight.packed`).
    bias: [N] in x's dtype, or None.
    impl: reference | tiled | triton; auto takes triton on CUDA, tiled elsewhere. An explicit one never falls back.
    route: the Triton kernel: matvec (activations in int8, and alone there), fused or dequantize (floats; see
        `route.py`); measured takes the one that was measured to be faster.
    activations: what x is multiplied as, whatever the implementation.
        int8: rounded, with a step for each 32 of a row (the largest magnitude / 127), multiplied in integers (dp4a) and
            summed in float32: the same bits in either packing.
        float: as they are, and the weights rounded to x's dtype.
        auto: up to 8 rows (all of x's leading dimensions together) are rounded to int8 where the weight lies in rows;
            more rows, and for a weight in tiles any number of them, are taken as they are. Rounded ones stay so.

    With int8 or float named, a row's result has the same bits whatever other rows the call holds (on one device, with
    one route). float then has one kernel and one tile size for any number of rows, so many rows take longer than with
    auto, which turns the weight to floats once for all of them.

    A row with a value that is not finite gives NaN, or what its products give where activations stay as they are.

    Returns [..., N] in x's dtype, the same bits each time; torch.autocast is off inside. Raises TypeError for dtypes
    and kinds, ValueError for shapes, devices, unknown options and what an implementation cannot do.
    """
    if torch.compiler.is_compiling():
        return traced_linear(LinearArguments(x, w, bias, impl, route, activations))
    return multiply(x, w, bias, impl, route, activations)


def explain_linear(
    x: torch.Tensor | RoundedActivations,
    w: QuantizedWeight,
    bias: torch.Tensor | None = None,
    impl: str = "auto",
    route: str = "measured",
    activations: str = "auto",
) -> LinearPlan:
    """What `linear` with the same arguments will do, as a LinearPlan whose str() is legible."""
    given = LinearArguments(x, w, bias, impl, route, activations)
    check(given)
    return plan_of(given)


def round_activations(x: torch.Tensor) -> RoundedActivations:
    """x [..., K] rounded to int8 as `linear` with activations="int8" rounds it: once, for all layers that take it.

    x: float16, bfloat16, float32 or float64; K a multiple of 32; any strides. `linear` of the result has the bits of
    `linear(x, ..., activations="int8")`. A block of 32 with a value that is not finite gives NaN. Raises TypeError for
    dtypes and kinds, ValueError for shapes and for x that requires grad.
    """
    return traced_round_activations(x) if torch.compiler.is_compiling() else eager.round_activations(x)


def _functional_linear(input, weight, bias=None):  # the names that torch gives them
    return linear(input, weight, bias)


FUNCTIONS[torch.nn.functional.linear] = _functional_linear
