"""A quantised linear layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import blockskip as bs
import torch
from blockskip.arguments import choice, flag

from skiplab.workload.problem import Problem

WEIGHT_DEVIATION = 0.02
"""Standard deviation of a linear layer's weights: what training leaves, about."""


def bits_per_weight(bits: Any, group_size: Any, symmetric: Any) -> Any:
    """Bits of codes and metadata for each weight: a bfloat16 scale for a group, and a zero point unless symmetric.

    Of numbers, or of arrays as a frame has them.
    """
    return bits + (32 - 16 * symmetric) / group_size


@dataclass(frozen=True)
class LinearWorkload(Problem):
    """A linear layer: x [rows, in_features] and a weight [out_features, in_features] in `bits` with groups' metadata.

    bits 4 or 8, group_size 32, 64 or 128. TypeError or ValueError names the field, what was given and what is allowed.
    """

    out_features: int
    in_features: int
    rows: int = 1
    bits: int = 4
    group_size: int = 32
    symmetric: bool = False
    dtype: str = "bfloat16"
    operation: ClassVar[str] = "linear"

    def __post_init__(self) -> None:
        self._check("out_features", "in_features", "rows")
        for name, allowed in (("bits", (4, 8)), ("group_size", (32, 64, 128))):
            object.__setattr__(self, name, choice(name, getattr(self, name), allowed))
        flag("symmetric", self.symmetric)
        if self.in_features % self.group_size:
            raise ValueError(
                f"in_features: got {self.in_features}; allowed are multiples of group_size, {self.group_size}"
            )

    @property
    def input_names(self) -> tuple[str, ...]:
        return "x", "weight"

    @property
    def size(self) -> str:
        """The size in words, for a line of progress."""
        return f"{self.out_features}x{self.in_features}, {self.rows} rows"

    @property
    def out_shape(self) -> tuple[int, ...]:
        """The result's shape."""
        return self.rows, self.out_features

    @property
    def bits_per_weight(self) -> float:
        """The function `bits_per_weight` of this layer."""
        return bits_per_weight(self.bits, self.group_size, self.symmetric)

    @property
    def weight_bytes(self) -> int:
        return round(self.out_features * self.in_features * self.bits_per_weight / 8)

    def axes(self) -> dict[str, Any]:
        """Flat and JSON-able."""
        return {"operation": self.operation, **asdict(self)}

    @classmethod
    def from_axes(cls, axes: Mapping[str, Any]) -> Self:
        """The workload that `axes()` described."""
        return cls(**{name: value for name, value in axes.items() if name != "operation"})

    def key(self) -> str:
        """A stable, readable key, the same for equal workloads, by which a run file finds a point."""
        kind = " symmetric" if self.symmetric else ""
        return (
            f"linear {self.out_features}x{self.in_features} rows {self.rows} int{self.bits} "
            f"groups of {self.group_size}{kind} {self.dtype}"
        )

    def work(self) -> bs.Work:
        """2 FLOPs a weight and row; bytes of the packed weight, activations and output, once each."""
        flops = 2 * self.rows * self.out_features * self.in_features
        return bs.Work(flops, flops, flops, self.moved(self.weight_bytes))

    def moved(self, weight_bytes: int) -> int:
        """Bytes of activations, output and a weight of `weight_bytes` bytes."""
        return weight_bytes + self.element_bytes * self.rows * (self.in_features + self.out_features)

    def inputs(self, device: str, seed: int, deviation: float = 1.0) -> tuple[torch.Tensor, ...]:
        """Fresh x of that standard deviation and float weight of 0.02, drawn on the device."""
        generator = torch.Generator(device).manual_seed(seed)
        x = self._normal((self.rows, self.in_features), device, generator, deviation)
        return x, self._normal((self.out_features, self.in_features), device, generator, WEIGHT_DEVIATION)
