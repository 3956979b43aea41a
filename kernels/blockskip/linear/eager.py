"""Linear calls outside torch.compile: their checks, and the way to an implementation."""

from __future__ import annotations

import os
from operator import attrgetter

import torch

from ..arguments import choice, tensor
from ..autocast import without_autocast
from ..launching.repeated import REPEATED, Kind, kind_of
from . import reference, tiled
from .plan import make_plan
from .route import ROUTES, spelled
from .weight import DTYPES, TENSORS, QuantizedWeight

IMPLS = ("auto", "reference", "tiled", "triton")
_tensors_of = attrgetter(*TENSORS)


@without_autocast
def multiply(x, w, bias, impl, route) -> torch.Tensor:
    """`linear` outside torch.compile: by what is prepared for calls of this kind, or from the beginning."""
    is_weight = type(w) is QuantizedWeight
    kind = kind_of((x, bias, *_tensors_of(w)), ("linear", impl, route), impl) if is_weight else None
    prepared = REPEATED.get(kind)
    if prepared is not None:
        if x.ndim == 2:
            return prepared(x, w, bias)
        out = prepared(x.reshape(-1, x.shape[-1]), w, bias)
        return out.view(*x.shape[:-1], out.shape[1])
    check(x, w, bias, impl, route)
    return run(x, w, bias, choose_impl(x, impl), route, kind)


def check(x, w, bias, impl, route="measured") -> None:
    """TypeError or ValueError names the argument, what was given and what is allowed."""
    for name, value, allowed in (("impl", impl, IMPLS), ("route", spelled(route), ROUTES)):
        choice(name, value, allowed)
    if not isinstance(w, QuantizedWeight):
        raise TypeError(f"w: given {type(w).__name__}; a QuantizedWeight, such as quantize(weight), is needed")
    _check_tensor("x", x, (*DTYPES, torch.float64) if impl == "reference" else DTYPES, w)
    if x.is_nested:
        raise ValueError("x: is a nested tensor; give its parts one by one, or a QuantizedLinear the whole")
    if x.ndim < 1 or x.shape[-1] != w.shape[1]:
        raise ValueError(f"x: given shape {tuple(x.shape)}; [..., {w.shape[1]}] is needed, w's K")
    if bias is not None:
        _check_tensor("bias", bias, (x.dtype,), w)
        if tuple(bias.shape) != (w.shape[0],):
            raise ValueError(f"bias: given shape {tuple(bias.shape)}; [{w.shape[0]}] is needed, w's N")


def _check_tensor(name: str, t, dtypes: tuple[torch.dtype, ...], w: QuantizedWeight) -> None:
    tensor(name, t, dtypes)
    if t.device != w.device:
        raise ValueError(f"{name}: is on {t.device}; must be on w's {w.device}")
    if t.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{name}: requires grad; this is for inference: use torch.no_grad() or detach()")


def choose_impl(x: torch.Tensor, impl: str) -> str:
    """The implementation that `impl` means for these tensors; ValueError where it cannot run."""
    if impl == "auto":
        return "triton" if x.is_cuda else "tiled"
    if impl == "triton" and not x.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            f"impl: 'triton' needs CUDA tensors, these are on {x.device}; set TRITON_INTERPRET=1 before triton is "
            "imported to run the kernels in Triton's interpreter (correct, very slow), or use impl='tiled'"
        )
    return impl


def run(
    x: torch.Tensor,
    w: QuantizedWeight,
    bias: torch.Tensor | None,
    impl: str,
    route: str = "measured",
    kind: Kind | None = None,
) -> torch.Tensor:
    """A checked call by the implementation of that name; kind: see `launch.linear`."""
    flat = x.reshape(-1, x.shape[-1])
    plan = make_plan(flat, w, impl, route)
    if impl == "triton" and flat.shape[0]:
        from . import launch

        for name, t in (("x", x), ("bias", bias)):
            if t is not None and t.is_neg():
                raise ValueError(f"{name}: is a negated view, which a kernel cannot tell; call .resolve_neg()")

        out = launch.linear(flat, w, bias, plan, kind)
    else:
        out = (reference if impl == "reference" else tiled).linear(flat, w, bias)
    return out.view(*x.shape[:-1], w.shape[0])
