"""A weight in int4 or int8 with a scale for each group: the layouts, quantising, and back to floats."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from ..mask import integer

BITS = (4, 8)
GROUP_SIZES = (32, 64, 128)
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
BLOCK = 32
"""Weights that stand together in memory, and that meet one int8 step of the activations."""
METADATA = torch.bfloat16
"""Scales keep float32's range; zero points are integers below 256 and so exact."""
QUANTIZE_ELEMENTS = 1 << 22
"""Weights that are looked at together while quantising, dequantising, or measuring the error."""


@dataclass(frozen=True, eq=False, repr=False)
class QuantizedWeight:
    """A weight [N, K] whose value is (code - zero) * scale, with one scale and zero for a group of a row's weights.

    data: int4: uint8 [N, K / 2], byte j holds the codes 2j (low) and 2j + 1 (high), each 0..15.
        int8: int8 [N, 2, K / 32, 16]: of each block of 32 codes the first half in plane 0, the other in plane 1.
        Either way 16 contiguous bytes are what one load of the matvec takes.
    scale, zero: bfloat16 (or another float dtype) [N, K / group_size], row for row with the weights. zero is None for
        a symmetric weight: 8 for int4, 0 for int8.
    dtype: of the weight that was quantised, and of `dequantize()`.

    Everything is contiguous and on one device. Raises TypeError for dtypes and ValueError for shapes.
    """

    data: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor | None
    dtype: torch.dtype

    def __post_init__(self):
        if self.data.dtype not in (torch.uint8, torch.int8):
            raise TypeError(f"data: given {self.data.dtype}; uint8 (int4 codes) or int8 is needed")
        n, k = self.shape
        shape = (n, k // 2) if self.bits == 4 else (n, 2, k // BLOCK, 16)
        if tuple(self.data.shape) != shape or k % BLOCK or not k:
            raise ValueError(
                f"data: given shape {tuple(self.data.shape)}; [N, K / 2] uint8 or [N, 2, K / 32, 16] int8 is needed"
            )
        allowed = [(n, k // size) for size in GROUP_SIZES if k % size == 0]
        for name, t in (("scale", self.scale), ("zero", self.zero)):
            if t is None:
                continue
            if not t.is_floating_point():
                raise TypeError(f"{name}: given {t.dtype}; a float dtype is needed")
            if tuple(t.shape) not in allowed or t.shape != self.scale.shape:
                raise ValueError(f"{name}: given shape {tuple(t.shape)}; allowed are {', '.join(map(str, allowed))}")
            if t.device != self.data.device:
                raise ValueError(f"{name}: is on {t.device}; must be on data's {self.data.device}")
        if not all(t.is_contiguous() for t in self.tensors):
            raise ValueError("data: it, scale and zero must be contiguous; call .contiguous()")

    @property
    def bits(self) -> int:
        return 4 if self.data.dtype == torch.uint8 else 8

    @property
    def shape(self) -> torch.Size:
        """[N, K], as the weight of nn.Linear: out_features, in_features."""
        n = self.data.shape[0]
        return torch.Size((n, self.data[0].numel() * 8 // self.bits if n else 0))

    @property
    def group_size(self) -> int:
        return self.shape[1] // self.scale.shape[1]

    @property
    def symmetric(self) -> bool:
        return self.zero is None

    @property
    def device(self) -> torch.device:
        return self.data.device

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """data, scale and, if there is one, zero."""
        return tuple(t for t in (self.data, self.scale, self.zero) if t is not None)

    @property
    def nbytes(self) -> int:
        """Bytes of codes and metadata."""
        return sum(t.nbytes for t in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """Bits of codes and metadata for each weight; 5.0 for int4, group 32, asymmetric."""
        return self.nbytes * 8 / self.shape.numel()

    def to(self, device: torch.device | str) -> QuantizedWeight:
        """The same weight on another device."""
        return self._each(lambda t: t.to(device))

    def rows(self, start: int, stop: int) -> QuantizedWeight:
        """Rows start..stop-1, sharing memory."""
        return self._each(lambda t: t[start:stop])

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> QuantizedWeight:
        zero = None if self.zero is None else change(self.zero)
        return QuantizedWeight(change(self.data), change(self.scale), zero, self.dtype)

    def blocks(self, elements: int) -> Iterator[tuple[slice, QuantizedWeight]]:
        """Row ranges of at most `elements` weights each (one row at least), and their weights."""
        for rows in row_blocks(self.shape, elements):
            yield rows, self.rows(rows.start, rows.stop)

    def planes(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The codes as they lie in memory, [N, K / 2] each: low and high nibbles, or the halves of the blocks of 32."""
        if self.bits == 4:
            return self.data & 15, self.data >> 4
        return self.data[:, 0].flatten(1), self.data[:, 1].flatten(1)

    def codes(self) -> torch.Tensor:
        """The codes in their natural order: uint8 or int8 [N, K]."""
        run = 1 if self.bits == 4 else 16
        return torch.stack([plane.unflatten(1, (-1, run)) for plane in self.planes()], 2).flatten(1)

    def dequantize(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        """(code - zero) * scale as [N, K]: computed in float32, or float64 if that is asked for, and rounded once.

        dtype: any float dtype; None takes that of the weight that was quantised.
        """
        dtype = self.dtype if dtype is None else dtype
        out = torch.empty(self.shape, dtype=dtype, device=self.device)
        for rows, part in self.blocks(QUANTIZE_ELEMENTS):
            out[rows] = part._dequantize(torch.float64 if dtype == torch.float64 else torch.float32)
        return out

    def _dequantize(self, dtype: torch.dtype) -> torch.Tensor:
        return self.values(self.codes(), dtype)

    def values(self, codes: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """(code - zero) * scale in `dtype`, of `codes()` or of one of `planes()`."""
        zero = self.zero.to(dtype).unsqueeze(-1) if self.zero is not None else 8 if self.bits == 4 else 0
        grouped = codes.to(dtype).unflatten(1, (self.scale.shape[1], -1))
        return grouped.sub_(zero).mul_(self.scale.to(dtype).unsqueeze(-1)).flatten(1)

    def error(self, weight: torch.Tensor) -> float:
        """Signal-to-noise ratio in dB against the weight [N, K] that this stands for; inf where they are equal."""
        if tuple(weight.shape) != tuple(self.shape):
            raise ValueError(f"weight: given shape {tuple(weight.shape)}; must be {tuple(self.shape)}")
        signal = noise = 0.0
        for rows, part in self.blocks(QUANTIZE_ELEMENTS):
            truth = weight[rows].detach().to(self.device, torch.float64)
            signal += truth.square().sum().item()
            noise += (truth - part._dequantize(torch.float64)).square().sum().item()
        if noise == 0:
            return math.inf
        return 10 * math.log10(signal / noise) if signal else -math.inf

    def __repr__(self):
        kind = "symmetric" if self.symmetric else "asymmetric"
        size = "x".join(map(str, self.shape))
        return (
            f"QuantizedWeight({size}, int{self.bits}, groups of {self.group_size}, {kind}, "
            f"{self.bits_per_weight:g} bits a weight, {self.device})"
        )


def row_blocks(shape: torch.Size, elements: int) -> Iterator[slice]:
    """Row ranges of [N, K] with at most `elements` elements each, one row at least."""
    step = max(1, elements // shape[1])
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))


def quantize(weight: torch.Tensor, bits: int = 4, group_size: int = 32, symmetric: bool = False) -> QuantizedWeight:
    """A float weight [N, K] as int4 or int8 codes with a scale (and zero point) for each group of a row's weights.

    Min-max: the codes span each group's values and 0, so that 0 stays exactly 0. Scales are rounded up to bfloat16 and
    the codes found with the rounded scale: no weight is off by more than half a step. Gradients are not followed.

    weight: float16, bfloat16 or float32, all finite.  bits: 4 or 8.  group_size: 32, 64 or 128, a divisor of K.
    symmetric: no zero points (0.5 bits a weight less at group 32); the error is larger where values lean to one side.

    Raises TypeError for dtypes and kinds, ValueError for shapes, ranges and weights that are not finite.
    """
    check_choice("bits", bits, BITS)
    check_choice("group_size", group_size, GROUP_SIZES)
    if not isinstance(symmetric, bool):
        raise TypeError(f"symmetric: given {symmetric!r}; a bool is needed")
    _check_weight(weight, group_size)
    weight = weight.detach()
    parts = [
        _quantize(weight[rows], bits, group_size, symmetric) for rows in row_blocks(weight.shape, QUANTIZE_ELEMENTS)
    ]
    data, scale, zero = (torch.cat(column) for column in zip(*parts, strict=True))
    return QuantizedWeight(data, scale, None if symmetric else zero, weight.dtype)


def check_choice(name: str, value, allowed: tuple[int, ...]) -> None:
    """TypeError or ValueError where `value` is none of the ints `allowed`."""
    if integer(name, value) not in allowed:
        raise ValueError(f"{name}: given {value}; allowed are {', '.join(map(str, allowed))}")


def _check_weight(weight, group_size: int) -> None:
    if not isinstance(weight, torch.Tensor):
        raise TypeError(f"weight: given {type(weight).__name__}; a tensor is needed")
    if weight.dtype not in DTYPES:
        raise TypeError(f"weight: given {weight.dtype}; allowed are {', '.join(map(str, DTYPES))}")
    if weight.ndim != 2 or min(weight.shape) < 1:
        raise ValueError(f"weight: given shape {tuple(weight.shape)}; [N, K] with N, K >= 1 is needed")
    if weight.shape[1] % group_size:
        raise ValueError(f"weight: given K {weight.shape[1]}; must be a multiple of group_size {group_size}")


def _quantize(weight: torch.Tensor, bits: int, group_size: int, symmetric: bool):
    """data, scale and zero of some rows; zero is the fixed one if symmetric."""
    groups = weight.float().unflatten(1, (-1, group_size))  # [rows, groups, group_size]
    low, high = (x.clamp(max=0) if i == 0 else x.clamp(min=0) for i, x in enumerate(groups.aminmax(dim=-1)))
    if not (low.isfinite().all() and high.isfinite().all()):
        raise ValueError("weight: holds values that are not finite; they cannot be quantised")
    smallest, largest = (0, 15) if bits == 4 else (-128, 127)
    if symmetric:
        middle = (smallest + largest + 1) // 2
        scale = _round_up(torch.maximum(high / (largest - middle), low / (smallest - middle)))
        zero = torch.full_like(scale, middle)
    else:
        scale = _round_up(high / (largest - smallest) - low / (largest - smallest))
        zero = (smallest - low / _divisor(scale)).round().clamp(smallest, largest)
    codes = (groups / _divisor(scale).unsqueeze(-1)).round().add_(zero.float().unsqueeze(-1))
    return _pack(codes.clamp_(smallest, largest).flatten(1), bits), scale, zero.to(METADATA)


def _divisor(scale: torch.Tensor) -> torch.Tensor:
    """The scale in float32, 1 where it is 0: a group of zeros."""
    return scale.float().masked_fill(scale == 0, 1)


def _round_up(scale: torch.Tensor) -> torch.Tensor:
    """Positive float32 to the next bfloat16 that is not smaller; its bits count up with its value."""
    rounded = scale.to(METADATA)
    return (rounded.view(torch.int16) + (rounded.float() < scale).to(torch.int16)).view(METADATA)


def _pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes [N, K], whole numbers of any dtype, to `QuantizedWeight.data`."""
    if bits == 4:
        pairs = codes.to(torch.uint8)
        return pairs[:, ::2] | pairs[:, 1::2] << 4
    return codes.to(torch.int8).unflatten(1, (-1, 2, 16)).transpose(1, 2).contiguous()
