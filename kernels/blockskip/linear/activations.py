"""Activations in int8, a step for each 32: in PyTorch, and as a value that several layers can share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from ..arguments import tensor
from .packing import tile_order
from .weight import BLOCK, DTYPES, QuantizedWeight

MOST_ROWS = 8
"""Rows of activations up to which activations="auto" rounds them to int8, where the weight lies in rows; where it lies
in tiles it never does."""
ACTIVATION_CHOICES = ("auto", "int8", "float")
"""What `linear` takes as `activations`."""


@dataclass(frozen=True, eq=False, repr=False)
class RoundedActivations:
    """Activations [..., K] in int8, as `round_activations` makes them: a value is a code times its block's scale.

    values: int8 [..., K], codes from -127 to 127.
    scales: float32 [..., K / 32], one for each 32 activations of a row.
    dtype: of the activations that were rounded, and so of a product's result.

    Both are contiguous and on one device. Raises TypeError for dtypes and ValueError for shapes.
    """

    values: torch.Tensor
    scales: torch.Tensor
    dtype: torch.dtype

    def __post_init__(self):
        tensor("values", self.values, (torch.int8,))
        tensor("scales", self.scales, (torch.float32,))
        if self.dtype not in (*DTYPES, torch.float64):
            raise TypeError(f"dtype: given {self.dtype!r}; allowed are float16, bfloat16, float32, float64")
        shape = self.values.shape
        if not shape or not shape[-1] or shape[-1] % BLOCK:
            raise ValueError(f"values: given shape {tuple(shape)}; [..., K], K a multiple of {BLOCK}, is needed")
        if tuple(self.scales.shape) != (*shape[:-1], shape[-1] // BLOCK):
            raise ValueError(f"scales: given shape {tuple(self.scales.shape)}; [..., K / {BLOCK}] of values' is needed")
        if self.scales.device != self.values.device:
            raise ValueError(f"scales: is on {self.scales.device}; must be on values' {self.values.device}")
        for name, t in (("values", self.values), ("scales", self.scales)):
            if not t.is_contiguous():
                raise ValueError(f"{name}: is not contiguous; call .contiguous()")

    @property
    def shape(self) -> torch.Size:
        """[..., K]."""
        return self.values.shape

    @property
    def ndim(self) -> int:
        return self.values.ndim

    @property
    def is_cuda(self) -> bool:
        return self.values.is_cuda

    @property
    def is_cpu(self) -> bool:
        return self.values.is_cpu

    @property
    def device(self) -> torch.device:
        return self.values.device

    def reshape(self, *shape: int) -> RoundedActivations:
        """The same activations in another shape that ends in K."""
        values = self.values.view(*shape)
        scales = self.scales.view(*values.shape[:-1], values.shape[-1] // BLOCK)
        return RoundedActivations(values, scales, self.dtype)

    def dequantize(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        """codes * scales in `dtype`; None takes that of the activations that were rounded."""
        dtype = self.dtype if dtype is None else dtype
        blocks = self.values.to(dtype).unflatten(-1, (-1, BLOCK))
        return (blocks * self.scales.to(dtype).unsqueeze(-1)).flatten(-2)

    def for_matvec(self, order: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Codes int32 [rows, 2, K / 8] in this order (`order_of`), scales and code sums float32 [rows, K / 32].

        Made once, and kept for the layers that share these activations.
        """
        if order not in self._orders:
            self._orders[order] = self._laid_out(order), self._row_scales, self._totals
        return self._orders[order]

    @cached_property
    def _orders(self) -> dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        return {}

    def _laid_out(self, order: str) -> torch.Tensor:
        return torch.stack(planes(self.values.view(-1, self.shape[-1]), order), 1).view(torch.int32)

    @property
    def _row_scales(self) -> torch.Tensor:
        return self.scales.view(-1, self.shape[-1] // BLOCK)

    @cached_property
    def _totals(self) -> torch.Tensor:
        blocks = self.values.view(-1, self.shape[-1] // BLOCK, BLOCK)
        return blocks.sum(-1, dtype=torch.float32)

    def __repr__(self):
        size = "x".join(map(str, self.shape))
        return f"RoundedActivations({size}, of {str(self.dtype).removeprefix('torch.')}, {self.device})"


def are_rounded(rows: int, w: QuantizedWeight, activations: str = "auto") -> bool:
    """Whether `linear` rounds so many rows of activations to int8; auto: few rows, of a weight in rows.

    The kernel for tiles takes activations as they are at any number of rows, in less time than the dp4a products.
    """
    if activations == "auto":
        return rows <= MOST_ROWS and w.packing == "rows"
    return activations == "int8"


def round_to_int8(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes, whole numbers from -127 to 127, float32 [M, K / 32, 32], and steps float32 [M, K / 32, 1] of x [M, K].

    A block's step is its largest magnitude / 127, and a code x / step rounded to even; in float32, whatever x is in. A
    block that holds a value that is not finite has codes 0 and a step that is not finite: its products are NaN.
    """
    blocks = x.float().contiguous().unflatten(1, (-1, BLOCK))
    # a tensor, because CUDA multiplies with the reciprocal of a number, which rounds otherwise
    step = blocks.abs().amax(-1, keepdim=True) / torch.full((), 127.0, dtype=torch.float32, device=x.device)
    usable = step.isfinite() & (step > 0)
    codes = (blocks.where(usable, 0) / step.where(usable, 1)).round()
    return codes.clamp(-127, 127), step  # a subnormal step is too coarse for the quotient


def rounded(x: torch.Tensor | RoundedActivations, dtype: torch.dtype) -> torch.Tensor:
    """x [M, K] as int8 leaves it: codes * steps in `dtype`."""
    if isinstance(x, RoundedActivations):
        return x.dequantize(dtype)
    codes, step = round_to_int8(x)
    return (codes.to(dtype) * step.to(dtype)).flatten(1)


def order_of(w: QuantizedWeight) -> str:
    """The order in which the weight's codes, as they lie in memory, meet activations: int4, int8 or tiles."""
    return "tiles" if w.packing == "tiles" else f"int{w.bits}"


def planes(x: torch.Tensor, order: str) -> tuple[torch.Tensor, torch.Tensor]:
    """x [M, K] as two [M, K / 2]: int4 and int8 in the order of `QuantizedWeight.planes`, tiles in `packing`'s."""
    if order == "tiles":
        x = x.unflatten(1, (-1, BLOCK))[..., tile_order(x.device)].flatten(1)
    if order != "int8":
        return x[:, ::2].contiguous(), x[:, 1::2].contiguous()
    halves = x.unflatten(1, (-1, 2, BLOCK // 2))
    return halves[:, :, 0].flatten(1), halves[:, :, 1].flatten(1)
