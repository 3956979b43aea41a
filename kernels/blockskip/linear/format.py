"""A quantised weight as kernels see it: its layout, a constant that they are compiled for, and its metadata."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from .weight import QuantizedWeight


@dataclass(frozen=True)
class Format:
    """A weight's layout as one constant of a kernel.

    in_features: K.
    centre: the code that is subtracted where there is no zero point.
    offset: whether the metadata's shift is added to (code - centre) * scale; else it is a zero point.
    packing: "rows" or "tiles".
    """

    in_features: int
    group_size: int
    bits: int
    centre: int
    offset: bool
    packing: str

    @classmethod
    def of(cls, w: QuantizedWeight) -> Format:
        return cls(w.shape[1], w.group_size, w.bits, w.centre, w.offset is not None, w.packing)


class Metadata(NamedTuple):
    """A weight's metadata as one kernel argument: shift is zero, minimum or middle. None where there is none."""

    scale: torch.Tensor
    scale_step: torch.Tensor | None
    shift: torch.Tensor | None
    shift_step: torch.Tensor | None

    @classmethod
    def of(cls, w: QuantizedWeight) -> Metadata:
        return cls(w.scale, w.scale_step, w.offset if w.zero is None else w.zero, w.minimum_step)
