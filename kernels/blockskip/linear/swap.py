"""quantize_: replaces each nn.Linear of a module by a QuantizedLinear."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeGuard

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from ..arguments import choice
from .activations import ACTIVATION_CHOICES
from .metadata import SPAN
from .module import QuantizedLinear
from .quantize import BITS, METADATA_KINDS, quantize
from .weight import GROUP_SIZES, QuantizedWeight

CALL_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)
"""nn.Module's hooks on a call: they are the new module's, by the same dicts, so that their handles go on to work."""
OTHER_HOOKS = {
    "_backward_hooks": "backward hooks, and there is no gradient",
    "_backward_pre_hooks": "backward hooks, and there is no gradient",
    "_state_dict_hooks": "hooks on the state_dict of an nn.Linear",
    "_state_dict_pre_hooks": "hooks on the state_dict of an nn.Linear",
    "_load_state_dict_pre_hooks": "hooks on the state_dict of an nn.Linear",
    "_load_state_dict_post_hooks": "hooks on the state_dict of an nn.Linear",
}


def quantize_(
    module: nn.Module,
    bits: int = 4,
    group_size: int = 32,
    select: Callable[[str, nn.Linear], bool] | None = None,
    metadata: str = "bfloat16",
    activations: str = "auto",
) -> nn.Module:
    """Replaces each nn.Linear inside `module` by a QuantizedLinear, and returns the module.

    bits, group_size, metadata: see `quantize`. activations: of each QuantizedLinear, see `linear`.
    select(name, linear): whether to quantise that one; None takes all. A module that stands at several places, and a
    weight that several of them share, is quantised once. Other subclasses of nn.Linear than torch's own lazy and
    parametrized ones are left alone. If `module` is itself an nn.Linear, its QuantizedLinear is returned. On the meta
    device the layout is made, for `load_state_dict(assign=True)`.

    Forward hooks and pre-hooks go along, and their handles still remove them. Raises TypeError or ValueError with the
    name of a linear that cannot be quantised, and what to do: a weight that is computed (a parametrization, weight
    norm, pruning), lazy, of a tensor subclass, or shared with a module that keeps it in floats, such as an embedding;
    other hooks; a `forward` of its own; more than a weight and a bias. Nothing is changed before all are quantised.
    """
    bits, group_size = choice("bits", bits, BITS), choice("group_size", group_size, GROUP_SIZES)
    choice("metadata", metadata, METADATA_KINDS)
    choice("activations", activations, ACTIVATION_CHOICES)
    if not isinstance(module, nn.Module):
        raise TypeError(f"module: given {type(module).__name__}; an nn.Module is needed")
    if select is not None and not callable(select):
        raise TypeError(f"select: given {type(select).__name__}; a function select(name, linear) or None is needed")
    chosen = {
        name: child
        for name, child in module.named_modules(remove_duplicate=False)
        if _is_linear(child) and (select is None or select(name, child))
    }
    unit = (SPAN, f"{SPAN}, for metadata='uint8'") if metadata == "uint8" else (group_size, f"group_size {group_size}")
    for name, child in chosen.items():
        if (reason := _hindrance(child, *unit)) is not None:
            raise ValueError(f"module: {name or 'it'} {reason}; or leave it out with select")
    _check_ties(module, chosen)
    made = _quantized(chosen, lambda weight: quantize(weight, bits, group_size, metadata=metadata), activations)
    if "" in chosen:
        return made[chosen[""]]
    for name, child in chosen.items():
        module.set_submodule(name, made[child])
    return module


def _is_linear(child: nn.Module) -> TypeGuard[nn.Linear]:
    """An nn.Linear, or what torch makes of one: lazy, or with parametrizations, for which it makes a class."""
    kind = type(child)
    return kind in (nn.Linear, nn.LazyLinear) or (is_parametrized(child) and kind.__bases__ == (nn.Linear,))


def _hindrance(child: nn.Module, unit: int, unit_words: str) -> str | None:
    """Why a linear cannot be quantised, and what to do about it; None where it can."""
    if is_parametrized(child):
        return "has parametrizations; call torch.nn.utils.parametrize.remove_parametrizations first"
    if type(child) is nn.LazyLinear:
        return "is lazy and has no weight yet; call it once first"
    parameters = child._parameters
    if "weight" not in parameters:
        return (
            "computes its weight before each call; make it a parameter first, by torch.nn.utils.remove_weight_norm, "
            "remove_spectral_norm, prune.remove or whatever undoes what computes it"
        )
    if type(weight := parameters["weight"]) is not nn.Parameter:
        return f"has a weight of {type(weight).__name__}; make it a plain nn.Parameter"
    more = [*(parameters.keys() - {"weight", "bias"}), *child._buffers, *child._modules]
    if more:
        return f"holds {', '.join(sorted(more))} besides a weight and a bias, which would be lost; remove it first"
    if "forward" in vars(child):
        return "has a forward of its own, which would be lost; remove what put it there first"
    for name, what in OTHER_HOOKS.items():
        # torch.nn.utils leaves hooks of its own behind when it undoes a parametrization
        if not all(_is_of_torch_utils(hook) for hook in getattr(child, name).values()):
            return f"has {what}; remove them first"
    if weight.shape[-1] % unit:
        return f"has in_features {weight.shape[-1]}, no multiple of {unit_words}; choose another size"
    return None


def _is_of_torch_utils(hook: Callable) -> bool:
    return (getattr(hook, "__module__", None) or "").startswith("torch.nn.utils.")


def _check_ties(module: nn.Module, chosen: dict[str, nn.Linear]) -> None:
    """ValueError where a weight is shared with a module that is not quantised along with it."""
    owners = {id(child.weight): name for name, child in reversed(chosen.items())}
    quantised = set(chosen.values())
    for name, other in module.named_modules():
        for key, parameter in () if other in quantised else other._parameters.items():
            owner = owners.get(id(parameter))
            if parameter is None or owner is None:
                continue
            holder = f"{name}.{key}" if name else key
            raise ValueError(
                f"module: {owner} shares its weight with {holder} ({type(other).__name__}), which stays in floats; "
                f"part them first, by {owner}.weight = nn.Parameter({owner}.weight.detach()), or leave {owner} out "
                "with select"
            )


def _quantized(
    chosen: dict[str, nn.Linear], quantized: Callable[[torch.Tensor], QuantizedWeight], activations: str
) -> dict[nn.Linear, QuantizedLinear]:
    """The new module of each old one; a weight that several share is one weight of the new ones, too."""
    weights: dict[int, QuantizedWeight] = {}
    made: dict[nn.Linear, QuantizedLinear] = {}
    for name, child in chosen.items():
        if child in made:
            continue
        try:
            if id(child.weight) not in weights:
                weights[id(child.weight)] = quantized(child.weight)
            new = QuantizedLinear(weights[id(child.weight)], child.bias, activations)
        except (TypeError, ValueError) as error:
            raise type(error)(f"module: {name or 'it'}: {error}; or leave it out with select") from error
        made[child] = new.train(child.training)
        for hooks in CALL_HOOKS:
            setattr(new, hooks, getattr(child, hooks))
    return made
