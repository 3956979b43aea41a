"""`blockskip::linear` for torch.library: what torch.compile and torch.export put into their graphs.

The weight travels as its tensors. Eager calls do not come this way.
"""

from __future__ import annotations

import torch

from . import eager
from .weight import QuantizedWeight


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
) -> torch.Tensor:
    """`blockskip.linear` of a weight's tensors."""
    w = QuantizedWeight(data, scale, zero, x.dtype, minimum, middle, scale_step, minimum_step)
    return eager.multiply(x, w, bias, impl, route)


@linear_op.register_fake
def _(
    x, data, scale, zero, bias, impl, minimum=None, middle=None, scale_step=None, minimum_step=None, route="measured"
):
    w = QuantizedWeight(data, scale, zero, x.dtype, minimum, middle, scale_step, minimum_step)
    eager.check(x, w, bias, impl, route)
    return x.new_empty((*x.shape[:-1], w.shape[0]))


def traced_linear(x, w: QuantizedWeight, bias, impl: str, route: str) -> torch.Tensor:
    """`blockskip.linear` while torch.compile or torch.export traces."""
    tensors = w.data, w.scale, w.zero
    more = w.minimum, w.middle, w.scale_step, w.minimum_step
    return torch.ops.blockskip.linear(x, *tensors, bias, impl, *more, route)
