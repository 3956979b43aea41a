"""What is kept of a weight between calls: its tensors as kernels take them, and its layout's number."""

from __future__ import annotations

from functools import cached_property
from operator import attrgetter

import torch

from ..launching.repeated import ALIGNMENT, REPEATED
from ..launching.repeated import TENSORS as KINDS_OF_TENSORS
from .format import Metadata
from .weight import TENSORS, QuantizedWeight

_tensors_of = attrgetter(*TENSORS)
ADDRESS = torch.Tensor.data_ptr


class Known:
    """What is kept of a weight, valid while its tensors' memory stays in place. It refers to the tensors alone.

    layout: a number that stands for dtypes, shapes, strides, alignments and device of all tensors; None where one is of
    a subclass of torch's. tensors: those of `TENSORS` in their order, None where there is none.
    """

    def __init__(self, w: QuantizedWeight) -> None:
        self.tensors: tuple[torch.Tensor | None, ...] = _tensors_of(w)
        self.given = [t for t in self.tensors if t is not None]
        self.addresses = [*map(ADDRESS, self.given)]
        self._metadata, self._parts = Metadata.of(w), dict[int, list[tuple[slice, QuantizedWeight]]]()
        self.layout = _layout_of(self.tensors)

    @cached_property
    def kernel_tensors(self) -> tuple[torch.Tensor | None, ...]:
        """The codes as int32, four bytes each, and the numbers of `Metadata`."""
        data = self.given[0]
        return data.view(torch.int32), *self._metadata

    def parts(self, w: QuantizedWeight, rows: int) -> list[tuple[slice, QuantizedWeight]]:
        """The weight in parts of so many rows, which share its memory; rows: fewer than it has."""
        if rows not in self._parts:
            cuts = [slice(start, min(start + rows, w.shape[0])) for start in range(0, w.shape[0], rows)]
            self._parts[rows] = [(cut, w.rows(cut.start, cut.stop)) for cut in cuts]
        return self._parts[rows]


def known(w: QuantizedWeight) -> Known:
    """The weight's `Known`, which the weight holds: it is freed with the weight, and neither saved nor copied.

    To find a call's kind it is looked up; after that `w._known` is there and up to date.
    """
    kept = w.__dict__.get("_known")
    if kept is None or [*map(ADDRESS, kept.given)] != kept.addresses:  # `t.data =` gives it other memory
        kept = w.__dict__["_known"] = Known(w)
    return kept


def _layout_of(tensors: tuple[torch.Tensor | None, ...]) -> int | None:
    if not all(t is None or type(t) in KINDS_OF_TENSORS for t in tensors):
        return None
    return REPEATED.number_of(
        None if t is None else (t.dtype, t.device, t.shape, t.stride(), t.data_ptr() % ALIGNMENT == 0) for t in tensors
    )
