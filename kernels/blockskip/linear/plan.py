"""Every choice about a linear call, made in one place: implementation, kernel, tiles, splits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..gpu import Gpu, capability_of
from .activations import MOST_ROWS, RoundedActivations, are_rounded
from .hopper.plan import HopperConfig, choose_config
from .route import choose_kernel, choose_kernel_for_tiles, spelled
from .weight import BLOCK, QuantizedWeight

FEW_ROWS = 32
"""Up to here two programs a multiprocessor pay, beyond one: their tiles take more registers and more of the time."""
FIXED_ROWS = 64
"""Rows of activations of a program, or of a product of torch's, where activations are named float: the same for any
number of rows, so that a row is summed alike. Fewer would unpack the weight more often, more would do idle work."""
LEAST_STEPS = 8
"""Steps along K that a split has at least: fewer do not fill the pipeline."""


@dataclass(frozen=True)
class MatvecConfig:
    """block_n weight rows a program; blocks of 32 weights a step, 4 or more; num_warps warps a program.

    block_n * blocks = 32 * num_warps gives each thread one block of 32 weights a step: a 16-byte load of int4.
    registers: how many a thread may have, a multiple of 8; None leaves that to the compiler.
    """

    block_n: int
    blocks: int
    num_warps: int
    registers: int | None = None

    def options(self, overlap: bool) -> dict[str, int | bool]:
        """What Triton compiles with; overlap: launched before the activations are rounded."""
        options: dict[str, int | bool] = {"num_warps": self.num_warps}
        if self.registers is not None:
            options["maxnreg"] = self.registers
        return options | ({"launch_pdl": True} if overlap else {})


@dataclass(frozen=True)
class FusedConfig:
    """block_m rows of activations x block_n of weights a program; blocks of 32 along K a step; warps; stages."""

    block_m: int
    block_n: int
    blocks: int
    num_warps: int
    num_stages: int


@dataclass(frozen=True)
class LinearPlan:
    """What `linear` will do. kernel: matvec, fused or dequantize; None for `reference` and `tiled`.

    config: the kernel's, None where it has none; splits: shares along K that are summed in a launch of their own.
    activations: int8 or float, what they are multiplied as. batch_invariant: a row's bits do not depend on how many
    other rows there are, nor on what they hold.
    """

    impl: str
    kernel: str | None
    config: MatvecConfig | FusedConfig | HopperConfig | None
    splits: int
    reason: str
    activations: str = "float"
    batch_invariant: bool = False

    def __str__(self):
        rows = "rounded to int8" if self.activations == "int8" else "multiplied as floats"
        rows += ", each with the same bits whatever the others are" if self.batch_invariant else ""
        lines = [f"impl    {self.impl}", f"rows    {rows}"]
        if self.kernel is not None:
            lines.append(f"kernel  {self.kernel}: {self.reason}")
        if self.config is not None:
            lines.append(f"config  {self.config}, {self.splits} split{'s' if self.splits > 1 else ''} along K")
        return "\n".join(lines)


def make_plan(
    x: torch.Tensor | RoundedActivations, w: QuantizedWeight, impl: str, route: str, activations: str = "auto"
) -> LinearPlan:
    """The plan of a checked call that `impl` (never auto) does; x is [rows, K]."""
    route, rows = spelled(route), x.shape[0]
    multiplied, named = "int8" if are_rounded(rows, w, activations) else "float", activations != "auto"
    if impl != "triton":
        if route != "measured":
            raise ValueError(f"route: given {route!r} with impl={impl!r}, which has one way; use impl='triton'")
        return LinearPlan(impl, None, None, 1, "asked for", multiplied, named)
    gpu = Gpu.of(x.device)
    if w.packing == "tiles":
        kernel, reason = choose_kernel_for_tiles(rows, x.dtype, w, route, capability_of(x.device), activations)
    else:
        kernel, reason = choose_kernel(rows, x.dtype, w, route, gpu.capability, activations)
    config, splits = _sizes(kernel, FIXED_ROWS if named else rows, w, gpu.sms, rows)
    return LinearPlan(impl, kernel, config, splits, reason, multiplied, named or kernel == "matvec")


def _sizes(kernel: str, planned_rows: int, w: QuantizedWeight, multiprocessors: int, rows: int) -> tuple[Any, int]:
    """(config, splits) of a kernel; planned_rows: how many rows sums may depend on."""
    if kernel == "dequantize":
        return None, 1
    if kernel == "matvec":
        return matvec_config(rows_together(rows)), 1
    if w.packing == "tiles":
        return choose_config(planned_rows, w.shape[0], w.shape[1], multiprocessors), 1
    config = fused_config(planned_rows, w)
    return config, fused_splits(planned_rows, w, config, multiprocessors)


def rows_together(rows: int) -> int:
    """Rows of activations that a program of the matvec multiplies, 8 at most: equally many in all programs."""
    return -(-rows // -(-rows // MOST_ROWS)) if rows else 1


def matvec_config(rows: int) -> MatvecConfig:
    """The configuration for this many rows of activations a program: a warp for a weight row.

    What runs last is one warp's work then, not four's; measured, see data/TUNING.md. From 5 rows on the compiler, left
    alone, spills.
    """
    return MatvecConfig(1, 32, 1, registers=136 if rows > 4 else None)


def fused_config(rows: int, w: QuantizedWeight) -> FusedConfig:
    """Tiles as high as the activations, up to 128; up to 64 for int8 and encoded metadata, which would spill beyond."""
    highest = 128 if w.bits == 4 and not w.encoded else 64
    block_m = min(highest, max(16, 1 << (rows - 1).bit_length()))
    return FusedConfig(block_m, 64, 4 if w.bits == 4 else 2, 4, 3)


def fused_splits(rows: int, w: QuantizedWeight, config: FusedConfig, multiprocessors: int) -> int:
    """Shares along K that keep all multiprocessors busy where there are few rows of weights."""
    programs = -(-rows // config.block_m) * -(-w.shape[0] // config.block_n)
    steps = -(-w.shape[1] // (BLOCK * config.blocks))
    few = config.block_m <= FEW_ROWS
    wanted = -(-2 * multiprocessors // programs) if few else multiprocessors // programs
    return max(1, min(wanted, steps // LEAST_STEPS))
