"""Numbers, doubled: x [rows, width]."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import blockskip as bs
import torch
from skiplab.workload.problem import Problem


@dataclass(frozen=True)
class ToyWorkload(Problem):
    width: int
    rows: int = 1
    manner: str = "plain"
    dtype: str = "float32"
    operation: ClassVar[str] = "toy"

    def __post_init__(self) -> None:
        self._check("width", "rows")

    @property
    def input_names(self) -> tuple[str, ...]:
        return ("x",)

    @property
    def size(self) -> str:
        return f"{self.width} numbers"

    @property
    def out_shape(self) -> tuple[int, ...]:
        return self.rows, self.width

    def axes(self) -> dict[str, Any]:
        return {"operation": self.operation, **asdict(self)}

    @classmethod
    def from_axes(cls, axes: Mapping[str, Any]) -> Self:
        return cls(**{name: value for name, value in axes.items() if name != "operation"})

    def key(self) -> str:
        return f"toy {self.rows}x{self.width} {self.manner} {self.dtype}"

    def work(self) -> bs.Work:
        flops = self.rows * self.width
        return bs.Work(flops, flops, flops, 2 * self.element_bytes * flops)

    def inputs(self, device: str, seed: int, deviation: float = 1.0) -> tuple[torch.Tensor, ...]:
        return (self._normal((self.rows, self.width), device, torch.Generator(device).manual_seed(seed), deviation),)
