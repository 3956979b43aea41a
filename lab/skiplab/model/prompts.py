"""A batch of prompts of different lengths: padded on the left by the caller, and on the right while they are read.

With padding on the right a token's column is its position, and causal attention hides the padding from real tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from blockskip.arguments import integer
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Prompts:
    """ids: int64 [B, L], padding on the right. counts: the real tokens of each row."""

    ids: Tensor
    counts: list[int]

    @classmethod
    def of(cls, ids: Tensor, lengths: Sequence[int] | Tensor | None) -> Prompts:
        """Prompts from ids with padding on the left (lengths None: none). ValueError for lengths that do not fit."""
        batch, width = ids.shape
        if lengths is None:
            return cls(ids, [width] * batch)
        counts = [integer("lengths", count, 1, width) for count in lengths]
        if len(counts) != batch:
            raise ValueError(f"lengths: given {len(counts)}; {batch} are needed, one a row")
        return cls(_rolled(ids, [count - width for count in counts]), counts)

    @property
    def lengths(self) -> Tensor | None:
        """The counts as int32 [B] on the device; None without padding."""
        if min(self.counts) == self.ids.shape[1]:
            return None
        return torch.tensor(self.counts, dtype=torch.int32, device="cpu").to(self.ids.device)

    def chunks(self, size: int) -> Iterator[tuple[int, Tensor]]:
        """(position of the first column, ids) of each chunk of `size` columns."""
        for start in range(0, self.ids.shape[1], size):
            yield start, self.ids[:, start : start + size]

    def last_of(self, start: int, columns: int) -> Iterator[tuple[int, int]]:
        """(row, column of the chunk) of each row's last token, if the chunk from `start` on holds it."""
        for row, count in enumerate(self.counts):
            if start < count <= start + columns:
                yield row, count - 1 - start

    def padded(self, computed: Tensor) -> Tensor:
        """What was computed of the prompts, [B, L, ..], with the padding back on the left, as zeros."""
        width = self.ids.shape[1]
        for row, count in enumerate(self.counts):
            computed[row, count:] = 0
        return _rolled(computed, [width - count for count in self.counts])


def _rolled(rows: Tensor, by: list[int]) -> Tensor:
    return torch.stack([row.roll(shift, 0) for row, shift in zip(rows, by, strict=True)]) if any(by) else rows
