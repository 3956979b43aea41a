"""Tuned tiles of the prefill kernel: by head size, element size, kind of mask and length."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from ..arguments import choice, integer
from ..config import LENGTHS, TileConfig
from ..mask import Band, Mask


def mask_kind(mask: Mask) -> tuple[str, int | None]:
    """(kind, window) as the prefill kernel tells masks apart.

    window: a band that ends on both sides, and how many keys a query sees; causal: any other band, which has loop
    bounds too; other: what walks a tile map.
    """
    if not isinstance(mask, Band):
        return "other", None
    if mask.left is None or mask.right is None:
        return "causal", None
    return "window", max(1, mask.left + mask.right + 1)


MASK_KINDS = ("causal", "window", "other")
HEAD_DIMS = (64, 128, 256, 512)
"""Head sizes are tuned and tabled in classes, each up to one of these."""


def head_dim_class(head_dim: int) -> int:
    """The class of a head size: the least of `HEAD_DIMS` that is not below it."""
    return next(dim for dim in HEAD_DIMS if head_dim <= dim)


@dataclass(frozen=True)
class Entry:
    """A shape's tuned configuration.

    window: how many keys a query saw, None unless mask is `window`. workloads: over how many of its class it won. at:
    the slowest of them, where a call took median_us with it and table_us with the table's configuration (None where
    that one does not run).
    """

    head_dim: int
    element_bytes: int
    mask: str
    window: int | None
    length: str
    config: TileConfig
    workloads: int
    at: str
    median_us: float
    table_us: float | None

    def __post_init__(self):
        integer("head_dim", self.head_dim, 8, 512)
        for name, values in {"element_bytes": (2, 4), "mask": MASK_KINDS, "length": LENGTHS}.items():
            choice(name, getattr(self, name), values)
        if (self.mask == "window") != (self.window is not None):
            raise ValueError(f"window: given {self.window!r} with the mask {self.mask}; only `window` has one")
        if self.window is not None:
            integer("window", self.window, 1)

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Self:
        """The entry that `fields()` wrote."""
        return cls(**{**fields, "config": TileConfig.of(fields["config"])})

    @property
    def what(self) -> str:
        """What it is for, in words."""
        mask = self.mask if self.window is None else f"window {self.window}"
        return f"head size {self.head_dim}, {8 * self.element_bytes} bits, {mask}, {self.length}"

    def fields(self) -> dict[str, Any]:
        """What a file holds."""
        return {**asdict(self), "config": list(self.config)}


def find(
    entries: Iterable[Entry], head_dim: int, element_bytes: int, kind: str, window: int | None, length: str
) -> Entry | None:
    """The entry for such a call; None where none was tuned.

    It has the same element size, mask kind and length class. Among head sizes of one class the least that is not below
    `head_dim` is taken, among windows the nearest by ratio.
    """
    fitting = [
        entry
        for entry in entries
        if (entry.element_bytes, entry.mask, entry.length) == (element_bytes, kind, length)
        and head_dim <= entry.head_dim <= head_dim_class(head_dim)
    ]

    def distance(entry: Entry) -> tuple[int, float]:
        ratio = entry.window / window if entry.window and window else 1.0
        return entry.head_dim, max(ratio, 1 / ratio)

    return min(fitting, key=distance) if fitting else None
