"""Tuned tiles of the split-K decode kernel: by head size, element size and rows of a program."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from ..arguments import choice, integer
from ..config import TileConfig
from .attention import head_dim_class


@dataclass(frozen=True)
class DecodeEntry:
    """A shape's tuned configuration; its block_m are the rows (queries x grouped heads) that it was tuned for.

    workloads, at, median_us, table_us: as in `attention.Entry`.
    """

    head_dim: int
    element_bytes: int
    config: TileConfig
    workloads: int
    at: str
    median_us: float
    table_us: float | None

    def __post_init__(self):
        integer("head_dim", self.head_dim, 8, 512)
        choice("element_bytes", self.element_bytes, (2, 4))

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Self:
        """The entry that `fields()` wrote."""
        return cls(**{**fields, "config": TileConfig.of(fields["config"])})

    @property
    def what(self) -> str:
        """What it is for, in words."""
        return f"head size {self.head_dim}, {8 * self.element_bytes} bits, {self.config.block_m} rows"

    def fields(self) -> dict[str, Any]:
        """What a file holds."""
        return {**asdict(self), "config": list(self.config)}


def find(entries: Iterable[DecodeEntry], head_dim: int, element_bytes: int, block_m: int) -> DecodeEntry | None:
    """The entry for programs of so many rows; None where none was tuned.

    Of the same element size and block_m. Of head sizes that share a class the least that is not below is taken.
    """
    fitting = [
        entry
        for entry in entries
        if (entry.element_bytes, entry.config.block_m) == (element_bytes, block_m)
        and head_dim <= entry.head_dim <= head_dim_class(head_dim)
    ]
    return min(fitting, key=lambda entry: entry.head_dim) if fitting else None
