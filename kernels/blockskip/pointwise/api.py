"""The steps between a decoder's products, for inference: one launch each on a GPU, PyTorch elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..arguments import choice, number, tensor
from ..launching.repeated import REPEATED, kind_of
from . import reference
from .call import HeadLayout, HeadNorms, Rotation, Targets

if TYPE_CHECKING:
    from ..launching.ready import Ready  # imports triton

IMPLS = ("auto", "reference", "triton")
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
MOST_COLUMNS = 32768
"""Of a row that one program holds in its registers."""


def residual_norm(
    x: Tensor,
    update: Tensor | None,
    weight: Tensor,
    update_weight: Tensor | None = None,
    scalar: Tensor | None = None,
    eps: float = 1e-6,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    """What a layer's part adds to the residual stream, and the norm that the next part reads.

    out = (x + norm(update)) * scalar, normed = norm(out); norm(t) = t / sqrt(mean(t ** 2) + eps) * weight, over the
    last dimension (Zhang and Sennrich, 2019).

    x, update: [..., K], contiguous, K at most 32,768; update None: out is x itself. weight, update_weight: [K];
    update_weight None: update is added as it is. scalar: one element, or None. All of one dtype and device. On Hopper
    weights and scalar are read before the kernel ahead has ended: it must not be what writes them.
    impl: reference (PyTorch, which rounds after each step) | triton (one launch, which computes in float32 and rounds
        out and normed once each) | auto: triton on CUDA for float16, bfloat16 and float32 where no gradient is asked
        for and torch.compile is not at work; else reference.

    Returns (out, normed), [..., K]. Raises TypeError for dtypes, ValueError for shapes, devices and strides.
    """
    given = x, update, weight, update_weight, scalar
    check = partial(_check_norm, *given, eps)
    ready = _ready(given, ("residual_norm", eps), impl, check, lambda launch: launch.ready_norm(given, float(eps)))
    if ready is None:
        return reference.residual_norm(*given, eps)
    normed, *out = ready(*given)
    return (out[0] if out else x), normed


def rotated_heads(
    qkv: Tensor,
    heads: HeadLayout,
    rotation: Rotation,
    norms: HeadNorms,
    targets: Targets,
    impl: str = "auto",
) -> Tensor:
    """From the fused product of queries, keys and values to attention: head norms, rotary embedding, cache.

    qkv: [B, T, (Hq + 2 Hkv) D], contiguous; (Hq + Hkv) D where keys are the values. heads, rotation, norms, targets:
    see their classes. impl: see `residual_norm`. The rotation is Su et al.'s (2021), of dimension i with i + D / 2.

    Returns the queries [B, Hq, T, D]; keys and values are written into the targets. Raises TypeError for dtypes,
    ValueError for shapes, devices and strides; slots are not looked at: they must lie in the targets.
    """
    given = qkv, *rotation, norms.query, norms.key, *targets
    options = "rotated_heads", *heads, norms.value, norms.eps
    check = partial(_check_heads, qkv, heads, rotation, norms, targets)
    ready = _ready(
        given, options, impl, check, lambda launch: launch.ready_heads(given, heads, norms.value, float(norms.eps))
    )
    if ready is None:
        return reference.rotated_heads(qkv, heads, rotation, norms, targets)
    return ready(*given)[0]


def gated(gate_up: Tensor, activation: str, impl: str = "auto") -> Tensor:
    """activation(gate) * up of the fused product [..., 2 F] of both, gate first; contiguous.

    activation: silu | gelu_tanh. impl: see `residual_norm`. Returns [..., F]. Raises as the others do.
    """
    given = (gate_up,)
    check = partial(_check_gate, gate_up, activation)
    ready = _ready(given, ("gated", activation), impl, check, lambda launch: launch.ready_gate(given, activation))
    return reference.gated(gate_up, activation) if ready is None else ready(*given)[0]


def _ready(
    given: Sequence[Tensor | None],
    options: tuple,
    impl: str,
    check: Callable[[], None],
    make: Callable[[Any], Ready],
) -> Callable[..., list[Any]] | None:
    """The launch that is prepared for calls of this kind, checked when it is new; None where PyTorch computes them."""
    kind = None if torch.compiler.is_compiling() else kind_of(given, options, impl)
    ready = REPEATED.get(kind)
    if ready is None:
        check()
        if _by_triton(impl, given):
            from . import launch

            ready = make(launch)
            REPEATED.put(kind, ready)
    return ready


def _by_triton(impl: str, given: Sequence[Tensor | None]) -> bool:
    """Whether the kernel runs for these tensors."""
    choice("impl", impl, IMPLS)
    if impl == "reference":
        return False
    first, tensors = given[0], [t for t in given if t is not None]
    assert first is not None
    graded = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    fits = bool(first.numel()) and first.dtype in DTYPES and not graded and not any(t.is_neg() for t in tensors)
    if impl == "auto":
        return fits and first.is_cuda and not torch.compiler.is_compiling()
    if not fits:
        raise ValueError(
            "impl: given 'triton', which takes nothing empty, no float64, no gradients and no negated views; use 'auto'"
        )
    if not first.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            f"impl: 'triton' needs CUDA tensors, these are on {first.device}; set TRITON_INTERPRET=1 before triton is "
            "imported to run the kernels in Triton's interpreter, or use impl='reference'"
        )
    return True


def _check_norm(
    x: Tensor, update: Tensor | None, weight: Tensor, update_weight: Tensor | None, scalar: Tensor | None, eps: float
) -> None:
    _check_rows("x", x, x)
    columns = x.shape[-1]
    if columns > MOST_COLUMNS:
        raise ValueError(f"x: given {columns} columns; at most {MOST_COLUMNS} are taken")
    for name, one, shape in (
        ("update", update, tuple(x.shape)),
        ("weight", weight, (columns,)),
        ("update_weight", update_weight, (columns,)),
    ):
        if one is not None:
            _check_rows(name, one, x)
            _check_shape(name, one, shape)
    if scalar is not None:
        _check_rows("scalar", scalar, x)
        if scalar.numel() != 1:
            raise ValueError(f"scalar: given shape {tuple(scalar.shape)}; one element is needed")
    if update is None and (update_weight is not None or scalar is not None):
        raise ValueError("update: None, with an update_weight or a scalar, which are for it")
    number("eps", eps)


def _check_heads(qkv: Tensor, heads: HeadLayout, rotation: Rotation, norms: HeadNorms, targets: Targets) -> None:
    _check_rows("qkv", qkv, qkv)
    if qkv.ndim != 3 or qkv.shape[2] != heads.width:
        raise ValueError(f"qkv: given shape {tuple(qkv.shape)}; [B, T, {heads.width}] is needed")
    batch, tokens, _ = qkv.shape
    for name, one in (("targets.keys", targets.keys), ("targets.values", targets.values)):
        _check_alike(name, one, qkv)
        if one.ndim != 4 or (one.shape[0], one.shape[1], one.shape[3]) != (batch, heads.kv, heads.dim):
            allowed = f"[{batch}, {heads.kv}, slots, {heads.dim}]"
            raise ValueError(f"{name}: given shape {tuple(one.shape)}; {allowed} is needed")
        if targets.slots is None and one.shape[2] != tokens:
            raise ValueError(f"{name}: given {one.shape[2]} slots and none by name; {tokens} are needed, one a token")
    if targets.slots is not None:
        _check_table("targets.slots", targets.slots, torch.int64, qkv, (tokens,))
    for name, one in (("rotation.cos", rotation.cos), ("rotation.sin", rotation.sin)):
        _check_table(name, one, torch.float32, qkv, (tokens, 1, heads.dim // 2))
    for name, one in (("norms.query", norms.query), ("norms.key", norms.key)):
        if one is not None:
            _check_rows(name, one, qkv)
            _check_shape(name, one, (heads.dim,))
    number("norms.eps", norms.eps)


def _check_gate(gate_up: Tensor, activation: str) -> None:
    _check_rows("gate_up", gate_up, gate_up)
    choice("activation", activation, tuple(reference.ACTIVATIONS))
    if gate_up.shape[-1] % 2:
        raise ValueError(f"gate_up: given shape {tuple(gate_up.shape)}; an even number of columns is needed")


def _check_alike(name: str, given: Tensor, like: Tensor) -> None:
    tensor(name, given, (like.dtype,))
    if given.device != like.device:
        raise ValueError(f"{name}: is on {given.device}; must be on {like.device}, as the rest")


def _check_rows(name: str, given: Tensor, like: Tensor) -> None:
    tensor(name, given, (*DTYPES, torch.float64) if given is like else (like.dtype,))
    if given.device != like.device:
        raise ValueError(f"{name}: is on {given.device}; must be on {like.device}, as the rest")
    if given.ndim < 1 or not given.is_contiguous():
        raise ValueError(f"{name}: given strides {tuple(given.stride())}; must be contiguous, of one dimension or more")


def _check_shape(name: str, given: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(given.shape) != shape:
        raise ValueError(f"{name}: given shape {tuple(given.shape)}; {list(shape)} is needed")


def _check_table(name: str, given: Tensor, dtype: torch.dtype, like: Tensor, shape: tuple[int, ...]) -> None:
    """Of a row for each batch entry, or one for all."""
    tensor(name, given, (dtype,))
    if given.device != like.device:
        raise ValueError(f"{name}: is on {given.device}; must be on {like.device}, as the rest")
    if given.ndim < 1 or given.shape[0] not in (1, like.shape[0]) or tuple(given.shape[1:]) != shape:
        allowed = f"[{like.shape[0]} or 1, {', '.join(map(str, shape))}]"
        raise ValueError(f"{name}: given shape {tuple(given.shape)}; {allowed} is needed")
    if not given.is_contiguous():
        raise ValueError(f"{name}: given strides {tuple(given.stride())}; must be contiguous")
