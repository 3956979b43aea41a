"""The sizes that the kernels for weights in rows are launched with, and the defaults, by rows and shape."""

from __future__ import annotations

from dataclasses import dataclass

from .activations import MOST_ROWS
from .weight import BLOCK, QuantizedWeight

FEW_ROWS = 32
"""Up to here two programs a multiprocessor pay, beyond one: their tiles take more registers and more of the time."""
FIXED_ROWS = 64
"""Rows of activations of a program, or of a product of torch's, where activations are named float: the same for any
number of rows, so that a row is summed alike. Fewer would unpack the weight more often, more would do idle work."""
CONSUMER_BLACKWELL = 12
"""Its major compute capability."""
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


def rows_together(rows: int) -> int:
    """Rows of activations that a program of the matvec multiplies, 8 at most: equally many in all programs."""
    return -(-rows // -(-rows // MOST_ROWS)) if rows else 1


def matvec_config(rows: int, capability: tuple[int, int]) -> MatvecConfig:
    """The configuration for this many rows of activations a program: a warp for a weight row.

    What runs last is one warp's work then, not four's; measured, see data/TUNING.md. From 5 rows on the compiler, left
    alone, spills; on consumer Blackwell it spills when it is not.
    """
    return MatvecConfig(1, 32, 1, registers=136 if rows > 4 and capability[0] < CONSUMER_BLACKWELL else None)


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
