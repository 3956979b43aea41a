"""Which kernel a quantised linear layer takes on a GPU, and how: one place decides.

Up to eight rows of activations there is the dp4a matvec alone, because rounding activations to int8 is the operation's
meaning there. Beyond, the packed weight is either turned to floats inside the product (`fused`: it is read once, but
unpacked again for each block of rows), or once for all rows before a product of torch's (`dequantize`). A weight in
tiles has a fused kernel of its own on Hopper, at any number of rows, and no matvec.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..gpu import Gpu, capability_of
from .activations import MOST_ROWS, are_rounded
from .hopper.plan import HopperConfig, choose_config
from .weight import BLOCK, QuantizedWeight

ROUTES = ("measured", "matvec", "fused", "dequantize")
RECORDED_SPELLINGS = {"dequantise": "dequantize"}
"""Spellings of routes in recorded runs, and the names of today: both are taken."""
FEW_ROWS = 32
"""Up to here two programs a multiprocessor pay, beyond one: their tiles take more registers and more of the time."""
LEAST_STEPS = 8
"""Steps along K that a split has at least: fewer do not fill the pipeline."""


TILED_ROWS = 512
"""Rows up to which the fused kernel is taken for a weight in tiles. Predicted beyond 128: as many blocks of 128 as take
102.5 us at 43008 x 5376 and 36.5 at 16384 x 5376 on an NVIDIA H200, where `dequantize` took 493 and 194 at 512."""
HOPPER = 9
"""The major compute capability that the kernel for tiles is written for."""


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

    config: the fused kernel's; splits: shares along K that are summed in a launch of their own.
    """

    impl: str
    kernel: str | None
    config: FusedConfig | HopperConfig | None
    splits: int
    reason: str

    def __str__(self):
        lines = [f"impl    {self.impl}"]
        if self.kernel is not None:
            lines.append(f"kernel  {self.kernel}: {self.reason}")
        if self.config is not None:
            lines.append(f"config  {self.config}, {self.splits} split{'s' if self.splits > 1 else ''} along K")
        return "\n".join(lines)


@dataclass(frozen=True)
class FusedCrossover:
    """Up to `rows` rows of activations fused is the sooner of the two, on GPUs of at least `capability`.

    For weights of `bits`, with encoded metadata or without, in groups of up to `group_size`.
    """

    capability: tuple[int, int]
    bits: int
    encoded: bool
    group_size: int
    rows: int
    source: str


H100 = "measured on an NVIDIA H100 80GB HBM3 in CUDA graphs"
CROSSOVERS = (
    # The first row that fits is taken. Where two shapes disagree, the number of rows (of those measured) at which the
    # larger of their relative losses is the least: data/TUNING.md, "Crossovers".
    FusedCrossover((9, 0), 4, False, 32, 256, H100),
    FusedCrossover((9, 0), 4, True, 128, 128, H100),
    FusedCrossover((9, 0), 8, True, 128, 64, H100),
    FusedCrossover((8, 0), 4, False, 128, 128, "predicted from bytes, not measured"),
    FusedCrossover((8, 0), 4, True, 128, 128, "as on an H100, not measured"),
    FusedCrossover((8, 0), 8, True, 128, 64, "as on an H100, not measured"),
)


def crossover(w: QuantizedWeight, capability: tuple[int, int]) -> FusedCrossover:
    """The row of CROSSOVERS for this weight on a GPU of that capability."""
    return next(
        one
        for one in CROSSOVERS
        if capability >= one.capability
        and w.bits == one.bits
        and w.encoded <= one.encoded
        and w.group_size <= one.group_size
    )


def choose_kernel(
    rows: int, dtype: torch.dtype, w: QuantizedWeight, route: str, capability: tuple[int, int]
) -> tuple[str, str]:
    """(kernel, reason) for a weight in rows. ValueError where an asked-for route cannot be."""
    if are_rounded(rows, w):
        if route in ("fused", "dequantize"):
            raise ValueError(
                f"route: given {route!r} with {rows} rows; up to {MOST_ROWS} rows activations are rounded to int8, "
                "which the matvec does; use 'measured' or 'matvec'"
            )
        return "matvec", f"{rows} row{'s' if rows > 1 else ''}, up to {MOST_ROWS} are multiplied in int8"
    if route == "matvec":
        raise ValueError(f"route: given 'matvec' with {rows} rows; it takes {MOST_ROWS} at most")
    if dtype == torch.float32:
        if route == "fused":
            raise ValueError("route: given 'fused' with float32 activations; it takes float16 and bfloat16")
        return "dequantize", "float32 activations, which tensor cores would round"
    if route != "measured":
        return route, "asked for"
    found = crossover(w, capability)
    kernel = "fused" if rows <= found.rows else "dequantize"
    return kernel, f"{rows} rows, fused is taken up to {found.rows} ({found.source})"


def _choose_for_tiles(
    rows: int, dtype: torch.dtype, w: QuantizedWeight, route: str, capability: tuple[int, int] | None
) -> tuple[str, str]:
    """`choose_kernel` for a weight in tiles; capability None: Triton's interpreter."""
    reason = None
    if capability is None:
        reason = "a weight in tiles in Triton's interpreter, which runs no Gluon"
    elif capability[0] != HOPPER:
        reason = f"a weight in tiles on compute capability {capability[0]}.{capability[1]}; its kernel is Hopper's"
    elif w.scale.dtype != torch.bfloat16 or (w.zero is not None and w.zero.dtype != torch.bfloat16):
        reason = "metadata that is not bfloat16"
    elif dtype == torch.float32:
        reason = "float32 activations, which tensor cores would round"
    if route == "matvec":
        raise ValueError("route: given 'matvec' for a weight in tiles, which it does not read; use w.packed('rows')")
    if route == "fused" and reason is not None:
        raise ValueError(f"route: given 'fused', which cannot be: {reason}; use 'dequantize' or 'measured'")
    if route != "measured":
        return route, "asked for"
    if reason is not None:
        return "dequantize", reason
    kernel = "fused" if rows <= TILED_ROWS else "dequantize"
    return kernel, f"{rows} row{'s' if rows > 1 else ''} of a weight in tiles, fused is taken up to {TILED_ROWS}"


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


def spelled(route: Any) -> Any:
    """The route by its name in `ROUTES`, where it is given as runs recorded it."""
    return RECORDED_SPELLINGS.get(route, route) if isinstance(route, str) else route


def make_plan(x: torch.Tensor, w: QuantizedWeight, impl: str, route: str) -> LinearPlan:
    """The plan of a checked call that `impl` (never auto) does; x is [rows, K]."""
    route = spelled(route)
    if impl != "triton":
        if route != "measured":
            raise ValueError(f"route: given {route!r} with impl={impl!r}, which has one way; use impl='triton'")
        return LinearPlan(impl, None, None, 1, "asked for")
    gpu = Gpu.of(x.device)
    if w.packing == "tiles":
        kernel, reason = _choose_for_tiles(x.shape[0], x.dtype, w, route, capability_of(x.device))
    else:
        kernel, reason = choose_kernel(x.shape[0], x.dtype, w, route, gpu.capability)
    if kernel != "fused":
        return LinearPlan(impl, kernel, None, 1, reason)
    if w.packing == "tiles":
        n, k = w.shape
        return LinearPlan(impl, kernel, choose_config(x.shape[0], n, k, gpu.sms), 1, reason)
    config = fused_config(x.shape[0], w)
    return LinearPlan(impl, kernel, config, fused_splits(x.shape[0], w, config, gpu.sms), reason)
