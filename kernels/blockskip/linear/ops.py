"""`blockskip::linear` and its like for torch.library: what torch.compile and torch.export put into their graphs.

The weight, and activations that are rounded already, travel as their tensors. Eager calls do not come this way.
"""

from __future__ import annotations

import torch

from . import eager
from .activations import RoundedActivations
from .eager import LinearArguments
from .weight import BLOCK, QuantizedWeight


@torch.library.custom_op("blockskip::linear", mutates_args=())
def linear_op(
    x: torch.Tensor,
    data: torch.Tensor,
    scale: torch.Tensor,
    zero: torch.Tensor | None,
    bias: torch.Tensor | None,
    impl: str,
    minimum: torch.Tensor | None = None,
    middle: torch.Tensor | None = None,
    scale_step: torch.Tensor | None = None,
    minimum_step: torch.Tensor | None = None,
    route: str = "measured",
    activations: str = "auto",
) -> torch.Tensor:
    """`blockskip.linear` of a weight's tensors."""
    w = QuantizedWeight(data, scale, zero, x.dtype, minimum, middle, scale_step, minimum_step)
    return eager.multiply(x, w, bias, impl, route, activations)


@linear_op.register_fake
def _(
    x, data, scale, zero, bias, impl, minimum=None, middle=None, scale_step=None, minimum_step=None,
    route="measured", activations="auto",
):  # fmt: skip
    w = QuantizedWeight(data, scale, zero, x.dtype, minimum, middle, scale_step, minimum_step)
    eager.check(LinearArguments(x, w, bias, impl, route, activations))
    return x.new_empty((*x.shape[:-1], w.shape[0]))


@torch.library.custom_op("blockskip::linear_of_rounded", mutates_args=())
def linear_of_rounded_op(
    values: torch.Tensor,
    scales: torch.Tensor,
    dtype: torch.dtype,
    data: torch.Tensor,
    scale: torch.Tensor,
    zero: torch.Tensor | None,
    bias: torch.Tensor | None,
    impl: str,
    minimum: torch.Tensor | None = None,
    middle: torch.Tensor | None = None,
    scale_step: torch.Tensor | None = None,
    minimum_step: torch.Tensor | None = None,
    route: str = "measured",
    activations: str = "auto",
) -> torch.Tensor:
    """`blockskip.linear` of the tensors of `RoundedActivations` and of a weight."""
    w = QuantizedWeight(data, scale, zero, dtype, minimum, middle, scale_step, minimum_step)
    x = RoundedActivations(values, scales, dtype)
    return eager.multiply(x, w, bias, impl, route, activations)


@linear_of_rounded_op.register_fake
def _(
    values, scales, dtype, data, scale, zero, bias, impl, minimum=None, middle=None, scale_step=None,
    minimum_step=None, route="measured", activations="auto",
):  # fmt: skip
    w = QuantizedWeight(data, scale, zero, dtype, minimum, middle, scale_step, minimum_step)
    eager.check(LinearArguments(RoundedActivations(values, scales, dtype), w, bias, impl, route, activations))
    return values.new_empty((*values.shape[:-1], w.shape[0]), dtype=dtype)


@torch.library.custom_op("blockskip::round_activations", mutates_args=())
def round_activations_op(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(values, scales) of `blockskip.round_activations`."""
    made = eager.round_activations(x)
    return made.values, made.scales


@round_activations_op.register_fake
def _(x):
    eager.check_unrounded(x)
    scales = x.new_empty((*x.shape[:-1], x.shape[-1] // BLOCK), dtype=torch.float32)
    return x.new_empty(x.shape, dtype=torch.int8), scales


def traced_linear(given: LinearArguments) -> torch.Tensor:
    """`blockskip.linear` while torch.compile or torch.export traces."""
    x, w, bias, impl, route, activations = given
    tensors = w.data, w.scale, w.zero
    more = w.minimum, w.middle, w.scale_step, w.minimum_step
    if isinstance(x, RoundedActivations):
        rounded = x.values, x.scales, x.dtype
        return torch.ops.blockskip.linear_of_rounded(*rounded, *tensors, bias, impl, *more, route, activations)
    return torch.ops.blockskip.linear(x, *tensors, bias, impl, *more, route, activations)


def traced_round_activations(x: torch.Tensor) -> RoundedActivations:
    """`blockskip.round_activations` while torch.compile or torch.export traces."""
    values, scales = torch.ops.blockskip.round_activations(x)
    return RoundedActivations(values, scales, x.dtype)
