"""torchao's int4 weights, as QuantizedWeight: codes are moved, no value changes by a bit."""

from __future__ import annotations

import torch

from ..arguments import choice, tensor
from .packing import settled
from .weight import GROUP_SIZES, QuantizedWeight

TORCHAO_PACKINGS = {"int4": torch.int8, "tinygemm": torch.uint8}


def from_torchao(
    qdata: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor | None = None, packing: str = "int4"
) -> QuantizedWeight:
    """A torchao int4 weight from its plain tensors: value = (code - 8) * scale + zero_point, code from 0 to 15.

    qdata: [N, K / 2], two codes a byte.
        packing="int4", as torchao's Int4Tensor holds it: int8; a nibble is code - 8 with its sign, the low one first.
        packing="tinygemm", what `aten._convert_weight_to_int4pack` is given: uint8; a nibble is the code, the high one
        first.
    scale, zero_point: a float dtype, [K / group_size, N]: Int4Tensor's own, or `scales_and_zeros[..., 0]` and
        `[..., 1]` of tinygemm. zero_point is in the domain of the values, as both of these have it; None for 0.

    Group sizes of 32, 64, and multiples of 128, which are held in groups of 128. `dequantize(torch.float32)` gives the
    formula in float32, product first; torchao itself rounds the product to scale's dtype too.

    Refused, because it is not these tensors: what `_convert_weight_to_int4pack` returns (its order is the device's),
    preshuffled and sparse packings, integer zero points, and weights of three dimensions. An Int4Tensor's
    act_pre_scale belongs to the activations and is not imported. Raises TypeError for dtypes, ValueError for shapes.
    """
    choice("packing", packing, list(TORCHAO_PACKINGS))
    tensor("qdata", qdata)
    if qdata.dtype != TORCHAO_PACKINGS[packing]:
        raise TypeError(f"qdata: given {qdata.dtype}; {TORCHAO_PACKINGS[packing]} is needed for packing={packing!r}")
    if qdata.ndim != 2 or min(qdata.shape) < 1:
        raise ValueError(f"qdata: given shape {tuple(qdata.shape)}; [N, K / 2] is needed")
    metadata = {"scale": scale} if zero_point is None else {"scale": scale, "middle": zero_point}
    n, k = qdata.shape[0], qdata.shape[1] * 2
    repeats = _repeats(scale, n, k)
    for name, t in (("scale", scale), ("zero_point", zero_point)):
        if t is None:
            continue
        tensor(name, t)
        if not t.is_floating_point():
            raise TypeError(f"{name}: given {t.dtype}; a float dtype is needed")
        if t.shape != scale.shape:
            raise ValueError(f"{name}: given shape {tuple(t.shape)}; must be scale's {tuple(scale.shape)}")
    rows = {name: t.detach().T.repeat_interleave(repeats, 1).contiguous() for name, t in metadata.items()}
    nibbles = qdata.detach().view(torch.uint8)
    # code - 8 in four bits is code with the highest bit the other way
    data = nibbles ^ 0x88 if packing == "int4" else nibbles << 4 | nibbles >> 4
    return settled(QuantizedWeight(**{"data": data.contiguous(), "zero": None, "dtype": scale.dtype, **rows}))


def _repeats(scale, n: int, k: int) -> int:
    """How often each column of scale [K / group_size, N] stands in ours; ValueError where it cannot."""
    tensor("scale", scale)
    groups = scale.shape[0] if scale.ndim == 2 else 0
    size = k // groups if groups and k % groups == 0 else 0
    if tuple(scale.shape) != (groups, n) or not (size in GROUP_SIZES or (size and size % GROUP_SIZES[-1] == 0)):
        raise ValueError(
            f"scale: given shape {tuple(scale.shape)}; [K / group_size, N] of K {k}, N {n} is needed, with a "
            f"group_size of 32, 64 or a multiple of {GROUP_SIZES[-1]}"
        )
    return max(1, size // GROUP_SIZES[-1])
