"""QuantizedLinear, which replaces nn.Linear."""

from __future__ import annotations

from dataclasses import replace
from operator import attrgetter, is_, itemgetter

import torch
from torch import nn

from ..arguments import choice, tensor
from ..autocast import autocasts
from .activations import ACTIVATION_CHOICES, RoundedActivations
from .api import linear
from .eager import multiply
from .packing import preferred_packing, settled, why_no_tiles
from .weight import TENSORS, QuantizedWeight

_of_weight, _of_buffers = attrgetter(*TENSORS), itemgetter(*TENSORS)


class QuantizedLinear(nn.Module):
    """nn.Linear with a quantised weight, for inference; see `blockskip.linear`.

    The state_dict holds the tensors that the weight has, by their names there, and `bias` if there is one. A module
    whose weight has the same tensors, shapes and dtypes loads it, any other refuses it (RuntimeError): nothing is
    converted but the packing. int4 codes of four dimensions lie in tiles, of two in rows; either loads into a module of
    either, which keeps its own, but where the weight that comes cannot lie in tiles, or takes the place of one on the
    meta device: that one lies as its new device prefers. So does the weight of a module that moves to another device.

    Changing the module's dtype changes that of the bias alone. Under torch.autocast the bias is cast to the result's
    dtype, which is that of the activations; the activations are not cast.

    activations: see `linear`; an attribute that may be changed, and no part of the state_dict. What `round_activations`
    made may be given in the place of a tensor.
    """

    _kept: QuantizedWeight | None = None

    def __init__(self, w: QuantizedWeight, bias: torch.Tensor | None = None, activations: str = "auto"):
        super().__init__()
        self.activations = choice("activations", activations, ACTIVATION_CHOICES)
        if not isinstance(w, QuantizedWeight):
            raise TypeError(f"w: given {type(w).__name__}; a QuantizedWeight, such as quantize(weight), is needed")
        if bias is not None:
            _check_bias(bias, w)
        self.dtype = w.dtype
        for name in TENSORS:
            self.register_buffer(name, getattr(w, name))
        self.bias = None if bias is None else nn.Parameter(bias.detach().contiguous(), requires_grad=False)

    @property
    def in_features(self) -> int:
        return self.weight.shape[1]

    @property
    def out_features(self) -> int:
        return self.weight.shape[0]

    @property
    def weight(self) -> QuantizedWeight:
        """Of the module's tensors. It is made, and checked, anew where one of them has been put in another's place."""
        if torch.compiler.is_compiling():  # keeping it would be an effect of the traced code
            return self._made_weight()
        return self._kept_weight()

    def _kept_weight(self) -> QuantizedWeight:
        kept = self._kept
        if kept is None or not all(map(is_, _of_weight(kept), _of_buffers(self._buffers))):
            kept = self._kept = self._made_weight()
        return kept

    def _made_weight(self) -> QuantizedWeight:
        return QuantizedWeight(dtype=self.dtype, **{name: getattr(self, name) for name in TENSORS})

    def forward(self, x: torch.Tensor | RoundedActivations) -> torch.Tensor:
        if isinstance(x, torch.Tensor) and x.is_nested:  # as nn.TransformerEncoder makes of padded sequences
            return torch.nested.as_nested_tensor([self.forward(part) for part in x.unbind()], layout=x.layout)
        bias = self.bias
        if bias is not None and bias.dtype != x.dtype and autocasts(x):
            bias = bias.to(x.dtype)
        if torch.compiler.is_compiling():
            return linear(x, self._made_weight(), bias, activations=self.activations)
        return multiply(x, self._kept_weight(), bias, "auto", "measured", self.activations)

    def extra_repr(self) -> str:
        named = "" if self.activations == "auto" else f", activations={self.activations!r}"
        return f"{self.weight!r}, bias={self.bias is not None}{named}"

    def _hold(self, w: QuantizedWeight) -> None:
        for name in TENSORS:
            setattr(self, name, getattr(w, name))
        self._kept = None  # else the memory that they left would be held

    def _apply(self, fn, recurse=True):
        before = self.weight
        super()._apply(fn, recurse)
        self._hold(_as_applied(before, {name: getattr(self, name) for name in before.named_tensors()}))
        return self

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing, unexpected, errors):
        given = {name: t for name in TENSORS if (t := state_dict.get(prefix + name)) is not None}
        assign = local_metadata.get("assign_to_params_buffers", False)
        given, holder = _in_one_packing(given, self.weight, assign)
        if given and _layout(given) != _layout(holder.named_tensors()):
            errors.append(
                f"{prefix or 'the weight'}: given {_layout(given)}; this module holds "
                f"{_layout(holder.named_tensors())}: build it from a weight of the same layout"
            )
            return
        self._hold(holder)
        state_dict = state_dict | {prefix + name: t for name, t in given.items()}
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected, errors)
        self._kept = None


def _check_bias(bias, w: QuantizedWeight) -> None:
    tensor("bias", bias)
    if not bias.is_floating_point():
        raise TypeError(f"bias: given {bias.dtype}; a float dtype is needed")
    if tuple(bias.shape) != (w.shape[0],):
        raise ValueError(f"bias: given shape {tuple(bias.shape)}; [{w.shape[0]}] is needed, w's N")
    if bias.device != w.device:
        raise ValueError(f"bias: is on {bias.device}; must be on w's {w.device}")


def _as_applied(before: QuantizedWeight, now: dict[str, torch.Tensor]) -> QuantizedWeight:
    """The weight after nn.Module has moved or cast its tensors: its dtypes stay, its packing is its device's."""
    device = now["data"].device
    if before.device.type == "meta" != device.type:  # to_empty: there are no numbers yet that could be packed
        return before.packed(preferred_packing(before, device)).each(lambda t: torch.empty_like(t, device=device))
    # .half() and .to(memory_format=) are not meant for the packed tensors
    same = {
        name: now[name].contiguous() if now[name].dtype == t.dtype else t.to(device)
        for name, t in before.named_tensors().items()
    }
    after = replace(before, **same)
    return after if before.device == device else settled(after)


def _in_one_packing(
    given: dict[str, torch.Tensor], own: QuantizedWeight, assign: bool
) -> tuple[dict[str, torch.Tensor], QuantizedWeight]:
    """A state_dict's tensors and the weight whose tensors they are loaded into, in one packing.

    Where they differ in more than that, both are returned as they are.
    """
    try:
        found = QuantizedWeight(**{"zero": None, "dtype": own.dtype, **given})
    except (TypeError, ValueError):  # who asks says what is wrong
        return given, own
    if _layout_in_rows(found) != _layout_in_rows(own):
        return given, own
    packing = own.packing
    if assign and own.device.type == "meta":
        packing = preferred_packing(found, found.device)
    elif packing == "tiles" and why_no_tiles(found) is not None:
        packing = "rows"
    if packing != found.packing and own.device.type == "cuda":  # which packs in a hundredth of the time
        found = found.each(lambda t: t.to(own.device))
    return found.packed(packing).named_tensors(), own.packed(packing)


def _layout_in_rows(w: QuantizedWeight) -> str:
    return _layout(w.each(lambda t: t.to("meta")).packed("rows").named_tensors())


def _layout(tensors: dict[str, torch.Tensor]) -> str:
    return ", ".join(f"{name} {str(t.dtype).removeprefix('torch.')} {list(t.shape)}" for name, t in tensors.items())
