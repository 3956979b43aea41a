"""Linear calls outside torch.compile: their checks, and the way to an implementation."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import torch

from ..arguments import choice, tensor
from ..autocast import without_autocast
from ..launching.repeated import REPEATED, Kind, kind_of
from . import reference, tiled
from .activations import ACTIVATION_CHOICES, RoundedActivations, round_to_int8
from .known import known
from .plan import LinearPlan, make_plan
from .route import ROUTES, spelled
from .weight import BLOCK, DTYPES, QuantizedWeight

IMPLS = ("auto", "reference", "tiled", "triton")


class LinearArguments(NamedTuple):
    """The arguments of `linear`, as they were given."""

    x: Any
    w: Any
    bias: Any = None
    impl: Any = "auto"
    route: Any = "measured"
    activations: Any = "auto"


def multiply(x: Any, w: Any, bias: Any, impl: Any, route: Any, activations: Any) -> torch.Tensor:
    """`linear` outside torch.compile: by what is prepared for calls of this kind, or from the beginning."""
    kind = linear_kind(x, w, bias, impl, route, activations)
    prepared = REPEATED.get(kind)
    if prepared is None:
        return _multiply_anew(LinearArguments(x, w, bias, impl, route, activations), kind)
    return prepared(x, w, bias)


def linear_kind(x: Any, w: Any, bias: Any, impl: Any, route: Any, activations: Any) -> Kind | None:
    """Which calls share what is prepared for this one; None where nothing is to be kept."""
    if type(w) is not QuantizedWeight:
        return None
    if type(x) is RoundedActivations:
        tensors, name = (x.values, x.scales, bias), str(x.dtype)
    else:
        tensors, name = (x, bias), "linear"
    kind = kind_of(tensors, (name, impl, route, activations), impl)
    layout = None if kind is None else known(w).layout
    return None if kind is None or layout is None else ((layout, kind[0]), None)


@without_autocast
def _multiply_anew(given: LinearArguments, kind: Kind | None) -> torch.Tensor:
    check(given)
    return run(given, kind)


def check(given: LinearArguments) -> None:
    """TypeError or ValueError names the argument, what was given and what is allowed."""
    x, w, bias, impl, route, activations = given
    choices = ("impl", impl, IMPLS), ("route", spelled(route), ROUTES), ("activations", activations, ACTIVATION_CHOICES)
    for name, value, allowed in choices:
        choice(name, value, allowed)
    if not isinstance(w, QuantizedWeight):
        raise TypeError(f"w: given {type(w).__name__}; a QuantizedWeight, such as quantize(weight), is needed")
    _check_activations(given)
    if x.ndim < 1 or x.shape[-1] != w.shape[1]:
        raise ValueError(f"x: given shape {tuple(x.shape)}; [..., {w.shape[1]}] is needed, w's K")
    if bias is not None:
        _check_tensor("bias", bias, (x.dtype,), w)
        if tuple(bias.shape) != (w.shape[0],):
            raise ValueError(f"bias: given shape {tuple(bias.shape)}; [{w.shape[0]}] is needed, w's N")


def _check_activations(given: LinearArguments) -> None:
    x, w = given.x, given.w
    dtypes = (*DTYPES, torch.float64) if given.impl == "reference" else DTYPES
    if not isinstance(x, RoundedActivations):
        _check_tensor("x", x, dtypes, w)
        if x.is_nested:
            raise ValueError("x: is a nested tensor; give its parts one by one, or a QuantizedLinear the whole")
        return
    if given.activations == "float":
        raise ValueError("activations: given 'float' for x that is rounded to int8 already; use 'int8' or 'auto'")
    if x.dtype not in dtypes:
        raise TypeError(f"x: given activations of {x.dtype}; allowed are {', '.join(map(str, dtypes))}")
    if x.device != w.device:
        raise ValueError(f"x: is on {x.device}; must be on w's {w.device}")


def plan_of(given: LinearArguments) -> LinearPlan:
    """The plan of a checked call."""
    x, activations = given.x, given.activations
    if isinstance(x, RoundedActivations):
        activations = "int8"
    flat = x.reshape(-1, x.shape[-1])
    return make_plan(flat, given.w, choose_impl(x, given.impl), given.route, activations)


def _check_tensor(name: str, t, dtypes: tuple[torch.dtype, ...], w: QuantizedWeight) -> None:
    tensor(name, t, dtypes)
    if t.device != w.device:
        raise ValueError(f"{name}: is on {t.device}; must be on w's {w.device}")
    if t.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{name}: requires grad; this is for inference: use torch.no_grad() or detach()")


def choose_impl(x: torch.Tensor | RoundedActivations, impl: str) -> str:
    """The implementation that `impl` means for these tensors; ValueError where it cannot run."""
    on_gpu = x.device.type == "cuda"
    if impl == "auto":
        return "triton" if on_gpu else "tiled"
    if impl == "triton" and not on_gpu and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            f"impl: 'triton' needs CUDA tensors, these are on {x.device}; set TRITON_INTERPRET=1 before triton is "
            "imported to run the kernels in Triton's interpreter (correct, very slow), or use impl='tiled'"
        )
    return impl


def run(given: LinearArguments, kind: Kind | None = None) -> torch.Tensor:
    """A checked call by the implementation of its plan; kind: see `launch.linear`."""
    x, w, bias = given.x, given.w, given.bias
    plan = plan_of(given)
    flat = x.reshape(-1, x.shape[-1])
    if plan.impl == "triton" and flat.shape[0]:
        from . import launch

        for name, t in (("x", None if isinstance(x, RoundedActivations) else x), ("bias", bias)):
            if t is not None and t.is_neg():
                raise ValueError(f"{name}: is a negated view, which a kernel cannot tell; call .resolve_neg()")
        return launch.linear(x, w, bias, plan, kind)
    by = reference if plan.impl == "reference" else tiled
    out = by.linear(flat, w, bias, plan.activations == "int8", plan.batch_invariant)
    return out.view(*x.shape[:-1], w.shape[0])


@without_autocast
def round_activations(x: torch.Tensor) -> RoundedActivations:
    """`blockskip.round_activations` outside torch.compile; the kernel on a GPU gives the bits that PyTorch gives."""
    check_unrounded(x)
    flat = x.reshape(-1, x.shape[-1])
    if x.is_cuda and x.dtype != torch.float64 and flat.shape[0] and not x.is_neg():
        from . import launch

        values, scales = launch.round_activations(flat)
    else:
        codes, step = round_to_int8(flat)
        values, scales = codes.flatten(1).to(torch.int8), step.squeeze(-1)
    return RoundedActivations(values.view(x.shape), scales.view(*x.shape[:-1], x.shape[-1] // BLOCK), x.dtype)


def check_unrounded(x) -> None:
    tensor("x", x, (*DTYPES, torch.float64))
    if x.ndim < 1 or not x.shape[-1] or x.shape[-1] % BLOCK:
        raise ValueError(f"x: given shape {tuple(x.shape)}; [..., K], K a multiple of {BLOCK}, is needed")
    if x.requires_grad and torch.is_grad_enabled():
        raise ValueError("x: requires grad; this is for inference: use torch.no_grad() or detach()")
