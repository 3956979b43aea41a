"""Keys and values in 8 bits: how they are made, the checks of their scales, and what PyTorch computes with them.

A key or value is its float8_e4m3fn times its KV head's scale. Products with keys are multiplied by k_scale and results
by v_scale, so that no implementation but the reference multiplies the keys and values themselves.
"""

from __future__ import annotations

from typing import Any

import torch

from ..arguments import number, tensor
from ..autocast import without_autocast

FLOAT8 = torch.float8_e4m3fn
LARGEST_FLOAT8 = torch.finfo(FLOAT8).max
FLOAT8_CAPABILITY = (8, 9)
"""GPUs below it have no instruction that converts float8, and Triton compiles none for them."""


def quantize_kv(x: torch.Tensor, scale: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """(x / scale as float8_e4m3fn, scale float32 [H]): keys or values for caches in 8 bits, a scale a head.

    x [B, H, L, D], float16, bfloat16 or float32, finite. scale: float32, positive, [] or [H], such as what an earlier
    call returned, for tokens that join a cache; by default each head's largest size / 448 (1 for a head of zeros or of
    sizes that float32 holds only as subnormals). Sizes beyond 448 times a given scale become that number.

    An element is off by 1/16 of itself at most, or by 2**-10 scales where it is below 2**-6 scales. Of normal numbers
    keys and values keep 31.5 dB; attention over 1,024 of each, both in 8 bits, has a signal-to-noise ratio of 28.3 dB
    (`tests/kernels/test_float8.py` measures it).

        k8, k_scale = bs.quantize_kv(k)
        v8, v_scale = bs.quantize_kv(v)
        out = bs.decode(q, k8, v8, k_scale=k_scale, v_scale=v_scale)

    Raises TypeError for dtypes and kinds, ValueError for shapes.
    """
    tensor("x", x, (torch.float16, torch.bfloat16, torch.float32))
    if x.ndim != 4 or min(x.shape) < 1:
        raise ValueError(f"x: given shape {tuple(x.shape)}; [batch, heads, length, head_dim] is needed, none of them 0")
    if x.requires_grad and torch.is_grad_enabled():
        raise ValueError("x: requires grad; this is for inference: use torch.no_grad() or detach()")
    return _quantized(x, None if scale is None else _check_scale("scale", scale, x))


@without_autocast
def _quantized(x: torch.Tensor, scale: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    if scale is None:
        scale = x.abs().amax((0, 2, 3)).float() / LARGEST_FLOAT8
        scale = torch.where(scale < torch.finfo(torch.float32).tiny, 1.0, scale)
    scale = scale.expand(x.shape[1])
    # beyond its largest number float8_e4m3fn has NaN alone
    return (x / scale[:, None, None]).clamp_(-LARGEST_FLOAT8, LARGEST_FLOAT8).to(FLOAT8), scale


def as_scale(name: str, scale: Any, x: Any) -> Any:
    """A number as a float32 tensor [] on x's device; all else as it is, to be checked with the other arguments."""
    if scale is None or isinstance(scale, torch.Tensor) or not isinstance(x, torch.Tensor):
        return scale
    if not torch.compiler.is_compiling():  # there it may be a symbol
        scale = number(name, scale)
        if abs(scale) > torch.finfo(torch.float32).max:
            raise ValueError(f"{name}: given {scale:g}; float32 must hold it")
    return torch.full((), scale, dtype=torch.float32, device=x.device)


def check_kv_scale(name: str, scale: Any, x: torch.Tensor) -> torch.Tensor | None:
    """The scale of x, which is k or v: float32 [] or [Hkv], or None."""
    if scale is None:
        return None
    if x.dtype != FLOAT8:
        raise ValueError(f"{name}: given with {name[0]} of {x.dtype}; only keys and values of {FLOAT8} have scales")
    return _check_scale(name, scale, x)


def _check_scale(name: str, scale: Any, x: torch.Tensor) -> torch.Tensor:
    tensor(name, scale, (torch.float32,))
    if tuple(scale.shape) not in ((), (x.shape[1],)):
        raise ValueError(f"{name}: given shape {tuple(scale.shape)}; [] or [{x.shape[1]}] is needed, a scale a KV head")
    if scale.device != x.device:
        raise ValueError(f"{name}: is on {scale.device}; must be on {x.device}")
    if scale.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{name}: requires grad; this is for inference: use torch.no_grad() or detach()")
    return scale


def check_float8_capability(capability: tuple[int, int]) -> None:
    """ValueError for a device whose Triton kernels cannot read float8."""
    if capability < FLOAT8_CAPABILITY:
        raise ValueError(
            f"k: given {FLOAT8}; impl='triton' takes it from compute capability 8.9 on, this device has "
            f"{capability[0]}.{capability[1]}: use impl='tiled', or keys and values in q's dtype"
        )


def dequantized(x: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
    """x [B, Hkv, Lkv, D] times its scale, exact in float64."""
    return x.double() if scale is None else x.double() * scale.expand(x.shape[1])[:, None, None]


def times(x: torch.Tensor, scale: torch.Tensor | None, kv_heads: int) -> torch.Tensor:
    """x [B, Hq, Lq, D] times the scale of each head's KV head, in float32."""
    if scale is None:
        return x.float()
    return x.float() * scale.expand(kv_heads).repeat_interleave(x.shape[1] // kv_heads)[:, None, None]


def caches_line(k: torch.Tensor, k_scale: torch.Tensor | None, v_scale: torch.Tensor | None) -> str | None:
    """What `explain` says of float8 keys and values; None for others."""
    if k.dtype != FLOAT8:
        return None
    said = [f"{name} {'none' if s is None else 'a KV head' if s.ndim else 'for all'}" for name, s in
            (("k_scale", k_scale), ("v_scale", v_scale))]  # fmt: skip
    return f"caches  {FLOAT8}, converted to q's dtype tile by tile; {', '.join(said)}"
