"""From a float weight to codes: min-max over each group, with metadata rounded before the codes are found."""

from __future__ import annotations

import torch

from ..arguments import choice, flag, tensor
from ..autocast import without_autocast
from .metadata import METADATA, SPAN, all_finite, decode, divisor, encode, round_up
from .packing import settled
from .weight import DTYPES, GROUP_SIZES, QUANTIZE_ELEMENTS, QuantizedWeight, pack, row_blocks

BITS = (4, 8)
METADATA_KINDS = ("bfloat16", "uint8")


def quantize(
    weight: torch.Tensor, bits: int = 4, group_size: int = 32, symmetric: bool = False, metadata: str = "bfloat16"
) -> QuantizedWeight:
    """A float weight [N, K] as int4 or int8 codes with metadata for each group of a row's weights.

    Min-max: the codes span each group's values and 0. Metadata is rounded so that they still do, and the codes are
    found with what it was rounded to: no weight is off by more than half a step. Gradients are not followed.

    The result lies as its device prefers: on a Hopper GPU (compute capability 9.x) in tiles, where it can, elsewhere in
    rows; see `QuantizedWeight.packed`, which changes that, and `QuantizedWeight.to`, which does it anew.

    weight: float16, bfloat16 or float32, all finite, and so far from the dtype's end that they come back finite; on the
        meta device it gives a layout without numbers.  bits: 4 or 8.  group_size: 32, 64 or 128, a divisor of K.
    symmetric: a scale alone (0.5 bits a weight less at group 32); the error is larger where values lean to one side.
    metadata:
        bfloat16: value = (code - zero) * scale, the zero point an integer: 0 stays exactly 0. 5 bits a weight for int4
            in groups of 32.
        uint8: value = (code - smallest code) * scale + minimum, as GGUF's K-quants have it, both of them a uint8 code
            times a float16 step that 256 weights of a row share; K must be a multiple of 256. 4.625 bits a weight for
            int4 in groups of 32. A minimum that need not be a whole number of steps gains what the coarser scales lose:
            the error is about the same for int8 and smaller for int4. But 0 need not stay 0: take bfloat16 for pruned
            weights. float16 has no steps below 6e-8.

    Raises TypeError for dtypes and kinds, ValueError for shapes, ranges and weights that are not finite, or would not
    come back so.
    """
    bits, group_size = choice("bits", bits, BITS), choice("group_size", group_size, GROUP_SIZES)
    flag("symmetric", symmetric)
    choice("metadata", metadata, METADATA_KINDS)
    _check_weight(weight, group_size, metadata)
    return _quantized(weight.detach(), bits, group_size, symmetric, metadata)


@without_autocast
def _quantized(weight: torch.Tensor, bits: int, group_size: int, symmetric: bool, metadata: str) -> QuantizedWeight:
    quantized = _plain if metadata == "bfloat16" else _encoded
    parts = [
        quantized(weight[rows].float().unflatten(1, (-1, group_size)), bits, symmetric)
        for rows in row_blocks(weight.shape, QUANTIZE_ELEMENTS)
    ]
    tensors = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    w = QuantizedWeight(**{"zero": None, "dtype": weight.dtype, **tensors})
    _check_overflow(weight, w)
    return settled(w)


def _check_weight(weight, group_size: int, metadata: str) -> None:
    tensor("weight", weight, DTYPES)
    if weight.ndim != 2 or min(weight.shape) < 1:
        raise ValueError(f"weight: given shape {tuple(weight.shape)}; [N, K] with N, K >= 1 is needed")
    if weight.shape[1] % group_size:
        raise ValueError(f"weight: given K {weight.shape[1]}; must be a multiple of group_size {group_size}")
    if metadata == "uint8" and weight.shape[1] % SPAN:
        raise ValueError(f"weight: given K {weight.shape[1]}; must be a multiple of {SPAN} for metadata='uint8'")


def _check_overflow(weight: torch.Tensor, w: QuantizedWeight) -> None:
    """ValueError where a value comes back as infinity in the weight's dtype.

    A code stands for up to half a step more than the value that it is of.
    """
    if w.scale.is_meta:
        return
    largest, scale = torch.finfo(w.dtype).max, decode(w.scale, w.scale_step, torch.float32).amax().item()
    if scale * (2**w.bits - 1) <= largest:  # no code can mean more
        return
    if not all(all_finite(part.dequantize()) for _, part in w.blocks(QUANTIZE_ELEMENTS)):
        raise ValueError(
            f"weight: holds magnitudes up to {weight.abs().amax().item():g}, which come back from int{w.bits} as "
            f"infinity in {w.dtype}; scale the weight down, or give it in a dtype of a larger range"
        )


def _plain(groups: torch.Tensor, bits: int, symmetric: bool) -> dict[str, torch.Tensor]:
    """data, scale and, unless symmetric, an integer zero of some rows [rows, K / group_size, group_size]."""
    low, high, smallest, largest = _ranges(groups, bits)
    if symmetric:
        scale = round_up(_symmetric_scale(low, high, smallest, largest), METADATA)
        zero = torch.full_like(low, (smallest + largest + 1) // 2)
    else:
        scale = round_up(high / (largest - smallest) - low / (largest - smallest), METADATA)
        zero = (smallest - low / divisor(scale)).round().clamp(smallest, largest)
    codes = (groups / divisor(scale).unsqueeze(-1)).round().add_(zero.unsqueeze(-1))
    found = {"data": pack(codes.clamp_(smallest, largest).flatten(1), bits), "scale": scale}
    return found if symmetric else {**found, "zero": zero.to(METADATA)}


def _encoded(groups: torch.Tensor, bits: int, symmetric: bool) -> dict[str, torch.Tensor]:
    """data, scale and, unless symmetric, minimum of some rows, with their steps.

    The minimum comes first, rounded down, and the scale spans the rest from there, rounded up.
    """
    low, high, smallest, largest = _ranges(groups, bits)
    size = groups.shape[-1]
    if symmetric:
        codes, step = encode(_symmetric_scale(low, high, smallest, largest), size)
        minimum, first = {}, groups / divisor(decode(codes, step, torch.float32)).unsqueeze(-1)
        first += (smallest + largest + 1) // 2
    else:
        below, below_step = encode(-low, size)
        depth = decode(below, below_step, torch.float32)
        codes, step = encode(high / (largest - smallest) + depth / (largest - smallest), size)
        minimum = {"minimum": below, "minimum_step": -below_step}
        first = groups + depth.unsqueeze(-1)
        first /= divisor(decode(codes, step, torch.float32)).unsqueeze(-1)
        first += smallest
    data = pack(first.round_().clamp_(smallest, largest).flatten(1), bits)
    return {"data": data, "scale": codes, "scale_step": step, **minimum}


def _ranges(groups: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor, int, int]:
    """What each group spans, 0 included, and the smallest and largest code."""
    low, high = groups.aminmax(dim=-1)
    if not (all_finite(low) and all_finite(high)):
        raise ValueError("weight: holds values that are not finite; they cannot be quantised")
    smallest = 0 if bits == 4 else -128
    return low.clamp(max=0), high.clamp(min=0), smallest, smallest + 2**bits - 1


def _symmetric_scale(low: torch.Tensor, high: torch.Tensor, smallest: int, largest: int) -> torch.Tensor:
    middle = (smallest + largest + 1) // 2
    return torch.maximum(high / (largest - middle), low / (smallest - middle))
