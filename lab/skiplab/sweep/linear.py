"""The sweep of quantised linear layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

from blockskip.arguments import flag

from skiplab.store import Run
from skiplab.sweep.grid import AnySweep, interleaved
from skiplab.sweep.running import own_device, run_sweep
from skiplab.workload import LinearWorkload


@dataclass(frozen=True)
class LinearSweep(AnySweep):
    """Linear layers: every shape x rows x bits x group size x contender, for one dtype and device.

    shape: (out_features, in_features). interleave: as in `Sweep`. TypeError or ValueError names the field, what was
    given and what is allowed.
    """

    contenders: tuple[str, ...] = ("blockskip", "dequantize", "bf16", "tinygemm")
    shape: tuple[tuple[int, int], ...] = ((2048, 2048), (8192, 2048))
    rows: tuple[int, ...] = (1,)
    bits: tuple[int, ...] = (4,)
    group_size: tuple[int, ...] = (32,)
    symmetric: bool = False
    dtype: str = "bfloat16"
    device: str = "cpu"
    seed: int = 0
    budget_s: float = 5.0
    interleave: bool | None = None
    operation: ClassVar[str] = "linear"
    verb: ClassVar[str] = "linear"

    def __post_init__(self) -> None:
        for one in self.shape if isinstance(self.shape, tuple) else ():
            if not isinstance(one, tuple) or len(one) != 2:
                raise TypeError(f"shape: given {one!r}; a pair (out_features, in_features) is needed")
        flag("symmetric", self.symmetric)
        super().__post_init__()

    def workloads(self) -> list[LinearWorkload]:
        return [
            LinearWorkload(n, k, rows, bits, group_size, self.symmetric, self.dtype)
            for (n, k), rows, bits, group_size in product(self.shape, self.rows, self.bits, self.group_size)
        ]


def sweep_linear(
    contenders: Sequence[str] = LinearSweep.contenders,
    *,
    shape: Iterable[tuple[int, int]] = LinearSweep.shape,
    rows: Iterable[int] = LinearSweep.rows,
    device: str | None = None,
    devices: Sequence[str] = (),
    cluster: str | None = None,
    gpu: str | None = None,
    path: Path | str | None = None,
    isolate: bool = True,
    progress: bool = True,
    interleave: bool | None = None,
    **fields: Any,
) -> Run:
    """As `sweep`, of quantised linear layers over shapes (out_features, in_features) and rows of activations.

    shape: of a model's layers `model_of("gemma4-31b").chosen(fused=True)`, or of some `.chosen(("qkv", "down"))`.
    fields: the other fields of `LinearSweep`.
    """
    layers = tuple((int(n), int(k)) for n, k in shape)
    device = own_device(device, devices, cluster)
    wanted = LinearSweep(
        tuple(contenders), layers, tuple(rows), device=device, interleave=interleaved(interleave, device), **fields
    )
    return run_sweep(
        wanted, path, isolate=isolate, progress=progress, anew=True, devices=devices, cluster=cluster, gpu=gpu
    )


SWEEP = LinearSweep
