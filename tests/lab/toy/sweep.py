"""The sweep of doublings."""

from dataclasses import dataclass
from itertools import product
from typing import ClassVar

from skiplab.sweep.grid import AnySweep
from skiplab.workload.toy import ToyWorkload


@dataclass(frozen=True)
class ToySweep(AnySweep):
    contenders: tuple[str, ...] = ("blockskip", "twice")
    width: tuple[int, ...] = (64,)
    rows: tuple[int, ...] = (1,)
    dtype: str = "float32"
    device: str = "cpu"
    seed: int = 0
    budget_s: float = 5.0
    operation: ClassVar[str] = "toy"
    verb: ClassVar[str] = "toy"

    def workloads(self):
        return [ToyWorkload(width, rows, dtype=self.dtype) for width, rows in product(self.width, self.rows)]


SWEEP = ToySweep
