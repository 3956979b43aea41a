"""The sweep of decode steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

from skiplab.store import Run
from skiplab.sweep.grid import AnySweep, interleaved
from skiplab.sweep.running import own_device, run_sweep
from skiplab.workload import DecodeWorkload


@dataclass(frozen=True)
class DecodeSweep(AnySweep):
    """Decode: every number of keys x every window x every contender, for one head shape, dtype and device.

    buffer: slots of the cache, None for as many as there are keys. A window of None sees all keys. interleave: as in
    `Sweep`. kv_dtype: those of keys and values, an axis; None for `dtype`. ragged: the share of kv_len that the
    shortest sequence of the batch has. ValueError names the field, what was given and what is allowed.
    """

    contenders: tuple[str, ...] = ("blockskip", "sdpa", "flex")
    kv_len: tuple[int, ...] = (256, 1024, 4096, 16384)
    window: tuple[int | None, ...] = (None, 1024)
    q_len: int = 1
    batch: int = 1
    q_heads: int = 8
    kv_heads: int = 8
    head_dim: int = 128
    dtype: str = "bfloat16"
    buffer: int | None = None
    device: str = "cpu"
    seed: int = 0
    budget_s: float = 5.0
    interleave: bool | None = None
    kv_dtype: tuple[str, ...] | None = None
    ragged: float | None = None
    operation: ClassVar[str] = "decode"
    verb: ClassVar[str] = "decode"

    def __post_init__(self) -> None:
        self._check_axis("kv_dtype")
        super().__post_init__()

    def workloads(self) -> list[DecodeWorkload]:
        return [
            DecodeWorkload(
                kv_len, window, self.q_len, self.batch, self.q_heads, self.kv_heads, self.head_dim, self.dtype,
                self.buffer, kv_dtype, self.ragged,
            )
            for kv_len, window, kv_dtype in product(self.kv_len, self.window, self.kv_dtype or (None,))
        ]  # fmt: skip


def sweep_decode(
    contenders: Sequence[str] = DecodeSweep.contenders,
    *,
    kv_len: Iterable[int] = DecodeSweep.kv_len,
    window: Iterable[int | None] = DecodeSweep.window,
    device: str | None = None,
    devices: Sequence[str] = (),
    cluster: str | None = None,
    gpu: str | None = None,
    path: Path | str | None = None,
    isolate: bool = True,
    progress: bool = True,
    interleave: bool | None = None,
    **shape: Any,
) -> Run:
    """As `sweep`, of decode steps over numbers of keys and windows. shape: the other fields of `DecodeSweep`."""
    device = own_device(device, devices, cluster)
    wanted = DecodeSweep(
        tuple(contenders), tuple(kv_len), tuple(window), device=device, interleave=interleaved(interleave, device),
        **shape,
    )  # fmt: skip
    return run_sweep(
        wanted, path, isolate=isolate, progress=progress, anew=True, devices=devices, cluster=cluster, gpu=gpu
    )


SWEEP = DecodeSweep
