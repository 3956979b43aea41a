"""The public quantised linear call: the contract, its checks, and the way to an implementation."""

from __future__ import annotations

import os
from operator import attrgetter

import torch

from ..arguments import choice, tensor
from ..autocast import without_autocast
from ..launching.repeated import REPEATED, Kind, kind_of
from . import reference, tiled
from .route import ROUTES, LinearPlan, make_plan
from .weight import DTYPES, TENSORS, QuantizedWeight

IMPLS = ("auto", "reference", "tiled", "triton")
_tensors_of = attrgetter(*TENSORS)


def linear(
    x: torch.Tensor,
    w: QuantizedWeight,
    bias: torch.Tensor | None = None,
    impl: str = "auto",
    route: str = "measured",
) -> torch.Tensor:
    """x @ w^T + bias for a quantised weight. Inference only.

    x: [..., K], float16, bfloat16 or float32 (float64 too for impl='reference'); any strides.
    w: `blockskip.quantize`'s result, [N, K], on x's device.
    bias: [N] in x's dtype, or None.
    impl: reference | tiled | triton; auto takes triton on CUDA, tiled elsewhere. An explicit one never falls back.
    route: the Triton kernel: matvec (up to 8 rows, and alone there), fused or dequantise (more rows; see `route.py`);
        measured takes the one that was the sooner when measured.

    Up to 8 rows (all of x's leading dimensions together), activations are rounded to int8, with a step for each 32 of
    them (the largest magnitude / 127), multiplied in integers (dp4a) and summed in float32. That rounding is part of
    the operation, whatever the implementation. With more rows activations stay as they are, and the weights are
    rounded to x's dtype. A row with a value that is not finite gives NaN, or what its products give with more rows.

    Returns [..., N] in x's dtype, the same bits each time; torch.autocast is off inside. Raises TypeError for dtypes
    and kinds, ValueError for shapes, devices, unknown words and what an implementation cannot do.
    """
    if torch.compiler.is_compiling():
        from .ops import traced_linear

        return traced_linear(x, w, bias, impl, route)
    return multiply(x, w, bias, impl, route)


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


def explain_linear(
    x: torch.Tensor,
    w: QuantizedWeight,
    bias: torch.Tensor | None = None,
    impl: str = "auto",
    route: str = "measured",
) -> LinearPlan:
    """What `linear` with the same arguments will do, as a LinearPlan whose str() is legible."""
    check(x, w, bias, impl, route)
    return make_plan(x.reshape(-1, x.shape[-1]), w, choose_impl(x, impl), route)


def check(x, w, bias, impl, route="measured") -> None:
    """TypeError or ValueError names the argument, what was given and what is allowed."""
    for name, word, allowed in (("impl", impl, IMPLS), ("route", route, ROUTES)):
        choice(name, word, allowed)
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

        out = launch.linear(flat, w, bias, plan=plan, kind=kind)
    else:
        out = (reference if impl == "reference" else tiled).linear(flat, w, bias)
    return out.view(*x.shape[:-1], w.shape[0])
