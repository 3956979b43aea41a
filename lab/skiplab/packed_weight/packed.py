"""A packed weight by its sizes: its arrays, its bits and bytes, and the least time to move them."""

from __future__ import annotations

from dataclasses import dataclass

from blockskip.arguments import choice, flag, integer

from skiplab.machine import Machine
from skiplab.machine.roofline import Bound, bound_of

BLOCK, SPAN = 32, 256
"""Weights that one lane multiplies a step; weights of a row that share the step of uint8 metadata."""
GROUP_SIZES = (32, 64, 128)
METADATA = ("bfloat16", "uint8")


@dataclass(frozen=True)
class Packed:
    """The layout in memory of a quantised weight [out_features, in_features]: sizes alone, no tensor.

    `strided`: metadata lies [groups, out_features] instead of row for row with the weights. ValueError names the field,
    what was given and what is allowed.
    """

    out_features: int = 21504
    in_features: int = 5376
    bits: int = 4
    group_size: int = 32
    symmetric: bool = False
    metadata: str = "bfloat16"
    strided: bool = False

    def __post_init__(self) -> None:
        for name, allowed in (("bits", (4, 8)), ("group_size", GROUP_SIZES), ("metadata", METADATA)):
            choice(name, getattr(self, name), allowed)
        flag("symmetric", self.symmetric)
        flag("strided", self.strided)
        integer("out_features", self.out_features, 1)
        integer("in_features", self.in_features, 1)
        unit = SPAN if self.metadata == "uint8" else self.group_size
        if self.in_features < unit or self.in_features % unit:
            why = "256, the span of uint8 metadata's steps" if unit == SPAN else f"group_size, {unit}"
            raise ValueError(f"in_features: got {self.in_features}; must be a multiple of {why}")

    @property
    def tables(self) -> tuple[MetadataTable, ...]:
        """The arrays of metadata, in the order in which the kernel loads them."""
        if self.metadata == "bfloat16":
            names = ("scales",) if self.symmetric else ("scales", "zero points")
            return tuple(MetadataTable(name, 2, self.group_size) for name in names)
        names = ("scale",) if self.symmetric else ("scale", "minimum")
        return tuple(
            table
            for name in names
            for table in (MetadataTable(f"{name} codes", 1, self.group_size), MetadataTable(f"{name} steps", 2, SPAN))
        )

    @property
    def bits_per_weight(self) -> float:
        """Bits of codes and metadata for each weight: 5.0 for int4, group 32, asymmetric."""
        return self.bits + sum(8 * table.element_bytes / table.span for table in self.tables)

    @property
    def nbytes(self) -> int:
        """Bytes of codes and metadata."""
        return round(self.out_features * self.in_features * self.bits_per_weight / 8)

    @property
    def needs_sums(self) -> bool:
        """Whether the kernel reads the sums of activations' codes: not if code 0 stands for 0."""
        return not (self.symmetric and self.bits == 8)

    @property
    def description(self) -> str:
        """`int4, groups of 32, asymmetric`, and how metadata is stored."""
        kind = "symmetric" if self.symmetric else "asymmetric"
        codes = ", uint8 metadata" if self.metadata == "uint8" else ""
        return f"int{self.bits}, groups of {self.group_size}, {kind}{codes}"


@dataclass(frozen=True)
class MetadataTable:
    """One array of metadata: an element of so many bytes for each `span` weights of a row."""

    name: str
    element_bytes: int
    span: int


def floor(packed: Packed, machine: Machine, rows: int = 1, element_bytes: int = 2) -> Bound:
    """The least time of one product there: codes and metadata read once, activations and output moved once."""
    elements = packed.out_features * packed.in_features
    moved = packed.nbytes + rows * element_bytes * (packed.in_features + packed.out_features)
    return bound_of(2 * rows * elements, moved, machine)


def float_floor(packed: Packed, machine: Machine, rows: int = 1, element_bytes: int = 2) -> Bound:
    """The same for the float weight before quantising."""
    elements = packed.out_features * packed.in_features
    moved = element_bytes * (elements + rows * (packed.in_features + packed.out_features))
    return bound_of(2 * rows * elements, moved, machine)
