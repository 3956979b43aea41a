"""QuantizedLinear in nn.Linear's place."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from .api import linear
from .weight import BITS, GROUP_SIZES, QuantizedWeight, check_choice, quantize


class QuantizedLinear(nn.Module):
    """nn.Linear with a quantised weight, for inference; see `blockskip.linear`.

    The state_dict holds `data`, `scale`, `zero` (unless symmetric) and `bias` (if there is one), all tensors. Changing
    the module's dtype changes that of the bias alone.
    """

    data: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor | None

    def __init__(self, w: QuantizedWeight, bias: torch.Tensor | None = None):
        super().__init__()
        if not isinstance(w, QuantizedWeight):
            raise TypeError(f"w: given {type(w).__name__}; a QuantizedWeight, such as quantize(weight), is needed")
        if bias is not None and tuple(bias.shape) != (w.shape[0],):
            raise ValueError(f"bias: given shape {tuple(bias.shape)}; [{w.shape[0]}] is needed, w's N")
        self.dtype = w.dtype
        self.register_buffer("data", w.data)
        self.register_buffer("scale", w.scale)
        self.register_buffer("zero", w.zero)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    @property
    def weight(self) -> QuantizedWeight:
        return QuantizedWeight(self.data, self.scale, self.zero, self.dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"{self.weight!r}, bias={self.bias is not None}"

    def _apply(self, fn, recurse=True):
        scale, zero = self.scale, self.zero
        super()._apply(fn, recurse)
        # .half() and the like are not meant for the metadata
        if self.scale.dtype != scale.dtype:
            self.scale = scale.to(self.scale.device)
            self.zero = None if zero is None else zero.to(self.scale.device)
        return self


def quantize_(
    module: nn.Module,
    bits: int = 4,
    group_size: int = 32,
    select: Callable[[str, nn.Linear], bool] | None = None,
) -> nn.Module:
    """Puts a QuantizedLinear in the place of each nn.Linear inside `module`, and returns the module.

    select(name, linear): whether to quantise that one; None takes all. A module that stands at several places is
    quantised once. Subclasses of nn.Linear are left alone. If `module` is itself an nn.Linear, its QuantizedLinear is
    returned.

    Nothing is changed before every selected weight was found fit. Raises ValueError with the name of one that is not.
    """
    check_choice("bits", bits, BITS)
    check_choice("group_size", group_size, GROUP_SIZES)
    if not isinstance(module, nn.Module):
        raise TypeError(f"module: given {type(module).__name__}; an nn.Module is needed")
    chosen = {
        name: child
        for name, child in module.named_modules(remove_duplicate=False)
        if type(child) is nn.Linear and (select is None or select(name, child))
    }
    for name, child in chosen.items():
        if child.in_features % group_size:
            raise ValueError(
                f"module: {name or 'it'} has in_features {child.in_features}, no multiple of group_size {group_size}; "
                "leave it out with select"
            )
    made: dict[nn.Linear, QuantizedLinear] = {}
    for name, child in chosen.items():
        if child not in made:
            made[child] = QuantizedLinear(quantize(child.weight, bits, group_size), child.bias).train(child.training)
        if not name:
            return made[child]
        module.set_submodule(name, made[child])
    return module
