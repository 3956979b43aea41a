"""QuantizedLinear in nn.Linear's place."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter, is_, itemgetter

import torch
from torch import nn

from .api import linear
from .metadata import SPAN
from .quantize import BITS, check_choice, check_metadata, quantize
from .weight import GROUP_SIZES, TENSORS, QuantizedWeight

_of_weight, _of_buffers = attrgetter(*TENSORS), itemgetter(*TENSORS)


class QuantizedLinear(nn.Module):
    """nn.Linear with a quantised weight, for inference; see `blockskip.linear`.

    The state_dict holds the tensors that the weight has, by their names there, and `bias` if there is one. A module
    whose weight has the same tensors, shapes and dtypes loads it, any other refuses it (RuntimeError): nothing is
    converted. Changing the module's dtype changes that of the bias alone.
    """

    _kept: QuantizedWeight | None = None

    def __init__(self, w: QuantizedWeight, bias: torch.Tensor | None = None):
        super().__init__()
        if not isinstance(w, QuantizedWeight):
            raise TypeError(f"w: given {type(w).__name__}; a QuantizedWeight, such as quantize(weight), is needed")
        if bias is not None and tuple(bias.shape) != (w.shape[0],):
            raise ValueError(f"bias: given shape {tuple(bias.shape)}; [{w.shape[0]}] is needed, w's N")
        self.dtype = w.dtype
        for name in TENSORS:
            self.register_buffer(name, getattr(w, name))
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    @property
    def weight(self) -> QuantizedWeight:
        """Of the module's tensors. It is made, and checked, anew where one of them has been put in another's place."""
        if torch.compiler.is_compiling():  # keeping it would be an effect of the traced code
            return self._made_weight()
        kept = self._kept
        if kept is None or not all(map(is_, _of_weight(kept), _of_buffers(self._buffers))):
            kept = self._kept = self._made_weight()
        return kept

    def _made_weight(self) -> QuantizedWeight:
        return QuantizedWeight(dtype=self.dtype, **{name: getattr(self, name) for name in TENSORS})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"{self.weight!r}, bias={self.bias is not None}"

    def _apply(self, fn, recurse=True):
        before = self.weight.named_tensors()
        super()._apply(fn, recurse)
        for name, t in before.items():  # .half() and the like are not meant for the metadata
            if getattr(self, name).dtype != t.dtype:
                setattr(self, name, t.to(getattr(self, name).device))
        self._kept = None  # else the memory that they left would be held
        return self

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing, unexpected, errors):
        given = {name: t for name in TENSORS if (t := state_dict.get(prefix + name)) is not None}
        if given and _layout(given) != _layout(self.weight.named_tensors()):
            errors.append(
                f"{prefix or 'the weight'}: given {_layout(given)}; this module holds "
                f"{_layout(self.weight.named_tensors())}: build it from a weight of the same layout"
            )
            return
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected, errors)
        self._kept = None


def _layout(tensors: dict[str, torch.Tensor]) -> str:
    return ", ".join(f"{name} {str(t.dtype).removeprefix('torch.')} {list(t.shape)}" for name, t in tensors.items())


def quantize_(
    module: nn.Module,
    bits: int = 4,
    group_size: int = 32,
    select: Callable[[str, nn.Linear], bool] | None = None,
    metadata: str = "bfloat16",
) -> nn.Module:
    """Puts a QuantizedLinear in the place of each nn.Linear inside `module`, and returns the module.

    bits, group_size, metadata: see `quantize`.
    select(name, linear): whether to quantise that one; None takes all. A module that stands at several places is
    quantised once. Subclasses of nn.Linear are left alone. If `module` is itself an nn.Linear, its QuantizedLinear is
    returned.

    Nothing is changed before every selected weight was found fit. Raises ValueError with the name of one that is not.
    """
    check_choice("bits", bits, BITS)
    check_choice("group_size", group_size, GROUP_SIZES)
    check_metadata(metadata)
    if not isinstance(module, nn.Module):
        raise TypeError(f"module: given {type(module).__name__}; an nn.Module is needed")
    chosen = {
        name: child
        for name, child in module.named_modules(remove_duplicate=False)
        if type(child) is nn.Linear and (select is None or select(name, child))
    }
    unit, of = (
        (SPAN, f"{SPAN}, for metadata='uint8'") if metadata == "uint8" else (group_size, f"group_size {group_size}")
    )
    for name, child in chosen.items():
        if child.in_features % unit:
            raise ValueError(
                f"module: {name or 'it'} has in_features {child.in_features}, no multiple of {of}; "
                "leave it out with select"
            )
    made: dict[nn.Linear, QuantizedLinear] = {}
    for name, child in chosen.items():
        if child not in made:
            w = quantize(child.weight, bits, group_size, metadata=metadata)
            made[child] = QuantizedLinear(w, child.bias).train(child.training)
        if not name:
            return made[child]
        module.set_submodule(name, made[child])
    return module
