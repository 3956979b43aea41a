"""One product for the linear layers of a module that share its input: query, key and value; gate and up.

The module's own forward stays: a pre-hook computes the product and hands its parts to the forward in the input's place,
and where a linear layer stood a `ProductPart` takes its own out of them. Nothing is kept between calls.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import blockskip as bs

QKV, GATE_UP = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")
NAMES = {QKV: "qkv_proj", GATE_UP: "gate_up_proj"}
SHARING = {
    "Gemma2Attention": QKV,
    "Gemma3Attention": QKV,
    "Gemma4TextAttention": QKV,
    "GptOssAttention": QKV,
    "LlamaAttention": QKV,
    "MistralAttention": QKV,
    "Qwen3Attention": QKV,
    "Gemma2MLP": GATE_UP,
    "Gemma3MLP": GATE_UP,
    "Gemma4TextMLP": GATE_UP,
    "LlamaMLP": GATE_UP,
    "MistralMLP": GATE_UP,
    "Qwen3MLP": GATE_UP,
}
"""transformers' classes whose forward gives its input to these linear layers and asks it for nothing but its shape."""
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")


class FusedProduct(NamedTuple):
    """What a fused module knows of its product. name: of the linear layer; parts, rows: its parts' names and sizes."""

    name: str
    parts: tuple[str, ...]
    rows: tuple[int, ...]


class Projected(NamedTuple):
    """What a fused module's forward is given as its input. shape: the input's, [..., K]; parts: [..., rows] by name."""

    shape: torch.Size
    parts: dict[str, Tensor]


class ProductPart(nn.Module):
    """Stands where a linear layer stood, and gives its part of the product that the module around it computed."""

    def __init__(self, name: str, product: str, out_features: int) -> None:
        super().__init__()
        self.name, self.product, self.out_features = name, product, out_features

    def forward(self, projected: Projected) -> Tensor:
        if not isinstance(projected, Projected):
            raise TypeError(
                f"{self.name}: given {type(projected).__name__} by itself; after fuse_ it is a part of "
                f"{self.product}, which the module around it calls"
            )
        return projected.parts[self.name]

    def extra_repr(self) -> str:
        return f"of {self.product}, out_features={self.out_features}"


def fuse(model: nn.Module) -> nn.Module:
    """See `fuse_`."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: given {type(model).__name__}; an nn.Module is needed")
    known = {name: module for name, module in model.named_modules() if type(module).__name__ in SHARING}
    if not known:
        raise ValueError(
            f"model: given {type(model).__name__}, without a module that can be fused; known are {', '.join(SHARING)}"
        )
    chosen = {name: module for name, module in known.items() if not hasattr(module, "_blockskip_product")}
    for name, module in chosen.items():
        _check_alike(name, {part: getattr(module, part) for part in _parts(module)})
    for module in chosen.values():
        if len(parts := _parts(module)) > 1:
            _fuse_module(module, parts)
    return model


def _parts(module: nn.Module) -> tuple[str, ...]:
    """The linear layers that the module has: a layer whose values are its keys, or that shares keys, lacks some."""
    return tuple(name for name in SHARING[type(module).__name__] if getattr(module, name, None) is not None)


def _check_alike(name: str, linears: dict[str, Any]) -> None:
    if len(linears) < 2:
        return
    first_name, first = next(iter(linears.items()))
    for part, linear in linears.items():
        at = f"{name}.{part}"
        if type(linear) not in (nn.Linear, bs.QuantizedLinear):
            raise ValueError(f"model: {at} is {type(linear).__name__}; nn.Linear or QuantizedLinear can be fused")
        if "forward" in vars(linear) or any(getattr(linear, hooks) for hooks in HOOKS):
            raise ValueError(f"model: {at} has hooks or a forward of its own, which would be lost; remove them first")
        if type(linear) is nn.Linear and type(linear.weight) is not nn.Parameter:
            raise ValueError(
                f"model: {at} has a weight of {type(linear.weight).__name__}; a plain nn.Parameter is needed"
            )
        if _kind(linear) != _kind(first):
            raise ValueError(
                f"model: {at} has {_kind(linear)}, {first_name} {_kind(first)}; linear layers that are alike can be "
                "fused: quantise all of them or none, in one format"
            )


def _kind(linear: nn.Linear | bs.QuantizedLinear) -> str:
    """What linear layers must have in common to become one."""
    bias = "no bias" if linear.bias is None else f"a bias of {linear.bias.dtype}"
    if isinstance(linear, nn.Linear):
        return f"a weight of {linear.weight.dtype} on {linear.weight.device}, {bias}"
    w = linear.weight
    tensors = ", ".join(f"{name} {t.dtype}" for name, t in w.named_tensors().items())
    return (
        f"a weight of int{w.bits} in groups of {w.group_size} ({tensors}) for {w.dtype} on {w.device}, "
        f"activations {linear.activations!r}, {bias}"
    )


def _fuse_module(module: nn.Module, parts: tuple[str, ...]) -> None:
    linears = [getattr(module, part) for part in parts]
    name = NAMES[SHARING[type(module).__name__]]
    product = FusedProduct(name, parts, tuple(linear.out_features for linear in linears))
    module.register_module(name, _joined(linears).train(module.training))
    for part, rows in zip(parts, product.rows, strict=True):
        setattr(module, part, ProductPart(part, name, rows).train(module.training))
    module._blockskip_product = product  # pyright: ignore[reportArgumentType] - no module
    module.register_forward_pre_hook(_project, with_kwargs=True)
    module.register_state_dict_post_hook(_split_state)
    module.register_load_state_dict_pre_hook(_join_state)


def _joined(linears: list[Any]) -> nn.Module:
    """One linear layer with the outputs of all, in their order."""
    first = linears[0]
    bias = None if first.bias is None else torch.cat([linear.bias.detach() for linear in linears])
    if isinstance(first, bs.QuantizedLinear):
        stacked = bs.QuantizedWeight.stacked([linear.weight for linear in linears])
        return bs.QuantizedLinear(stacked, bias, first.activations)
    weight = torch.cat([linear.weight.detach() for linear in linears])
    made = nn.Linear(*weight.shape[::-1], bias=bias is not None, device="meta", dtype=weight.dtype)
    made.weight = nn.Parameter(weight, first.weight.requires_grad)
    if first.bias is not None and bias is not None:
        made.bias = nn.Parameter(bias, first.bias.requires_grad)
    return made


def _project(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """The forward's arguments with the parts of the product in the place of the input, the first of them."""
    product: Any = module._blockskip_product
    x = args[0] if args else kwargs["hidden_states"]
    found = getattr(module, product.name)(x).split(product.rows, -1)
    projected = Projected(x.shape, dict(zip(product.parts, found, strict=True)))
    if args:
        return (projected, *args[1:]), kwargs
    return args, kwargs | {"hidden_states": projected}


def _split_state(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """A state_dict as before: the product's tensors under its parts' names, sharing memory where they can."""
    product: Any = module._blockskip_product
    tensors = _popped(state, f"{prefix}{product.name}.")
    start, w = 0, None
    if "data" in tensors:
        own = getattr(module, product.name).weight
        w = replace(own, **{name: tensors.pop(name) for name in own.named_tensors()})
    for part, rows in zip(product.parts, product.rows, strict=True):
        stop = start + rows
        of_part = {} if w is None else w.rows(start, stop).named_tensors()
        of_part |= {name: t[start:stop] for name, t in tensors.items()}
        state.update({f"{prefix}{part}.{name}": t for name, t in of_part.items()})
        start = stop


def _join_state(
    module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any, strict: bool, missing: Any, unexpected: Any,
    errors: list[str],
) -> None:  # fmt: skip
    """From a state_dict with the parts' names, as every one has, to the product's."""
    product: Any = module._blockskip_product
    found = {part: _popped(state, f"{prefix}{part}.") for part in product.parts}
    names = {part: sorted(tensors) for part, tensors in found.items()}
    first, *others = names.values()
    if any(other != first for other in others):
        said = "; ".join(f"of {part} {', '.join(held) or 'none'}" for part, held in names.items())
        errors.append(f"{prefix}{product.name}: given tensors {said}; all parts need the same ones")
        return
    try:
        joined = _stacked(list(found.values()), getattr(module, product.name))
    except (TypeError, ValueError) as error:
        errors.append(f"{prefix}{product.name}: {error}")
        return
    state.update({f"{prefix}{product.name}.{name}": t for name, t in joined.items()})


def _stacked(parts: list[dict[str, Tensor]], linear: Any) -> dict[str, Tensor]:
    joined: dict[str, Tensor] = {}
    if "data" in parts[0] and isinstance(linear, bs.QuantizedLinear):
        kept = {"zero": None, "dtype": linear.weight.dtype}
        quantised = [name for name in parts[0] if name != "bias"]
        given: list[dict[str, Any]] = [kept | {name: part.pop(name) for name in quantised} for part in parts]
        weights = [bs.QuantizedWeight(**fields) for fields in given]
        joined = bs.QuantizedWeight.stacked(weights).named_tensors()
    return joined | {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _popped(state: dict[str, Any], prefix: str) -> dict[str, Tensor]:
    """The tensors under a prefix, which are taken out of the state_dict."""
    names = [name for name in state if name.startswith(prefix)]
    return {name.removeprefix(prefix): state.pop(name) for name in names}
