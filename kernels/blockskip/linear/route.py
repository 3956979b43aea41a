"""Which kernel a quantised linear layer takes on a GPU, and how: one place decides.

Up to eight rows of activations there is the dp4a matvec alone, because rounding activations to int8 is the operation's
meaning there. Beyond, the packed weight is either turned to floats inside the product (`fused`: it is read once, but
unpacked again for each block of rows), or once for all rows before a product of torch's (`dequantise`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .activations import MOST_ROWS
from .weight import BLOCK, QuantizedWeight

ROUTES = ("measured", "matvec", "fused", "dequantise")
MULTIPROCESSORS_ASSUMED = 132
"""Where there is no GPU to ask (the interpreter): an H100's and H200's."""
MOST_ROWS_A_PROGRAM = 128
FEW_ROWS = 32
"""Up to here two programs a multiprocessor pay, beyond one: their tiles take more registers and more of the time."""
LEAST_STEPS = 8
"""Steps along K that a split has at least: fewer do not fill the pipeline."""


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
    """What `linear` will do. kernel: matvec, fused or dequantise; None for `reference` and `tiled`.

    config: the fused kernel's; splits: shares along K that are summed in a launch of their own.
    """

    impl: str
    kernel: str | None
    config: FusedConfig | None
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
class Crossover:
    """Up to `rows` rows of activations fused is the sooner of the two, on GPUs of at least `capability`."""

    capability: tuple[int, int]
    rows: int
    source: str


CROSSOVERS = (
    # int4, groups of 32, fused / dequantise in us at 16, 64, 256 and 512 rows. 21504 x 5376: 56/185, 90/191, 196/230,
    # 359/268; 5376 x 21504: 65/261, 105/254, 257/395, 481/613; 8192 x 5376: 27/72, 40/74, 71/92, 134/113.
    Crossover((9, 0), 256, "measured on an NVIDIA H100 80GB HBM3 in CUDA graphs"),
    # Bytes and FLOPs alone say: the weight as floats is written and read once more, at 2 bytes; unpacking is not free.
    Crossover((8, 0), 128, "predicted from bytes, not yet measured"),
)


def choose_kernel(rows: int, dtype: torch.dtype, route: str, capability: tuple[int, int]) -> tuple[str, str]:
    """(kernel, reason). ValueError where an asked-for route cannot be."""
    if rows <= MOST_ROWS:
        if route in ("fused", "dequantise"):
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
        return "dequantise", "float32 activations, which tensor cores would round"
    if route != "measured":
        return route, "asked for"
    crossover = next(one for one in CROSSOVERS if capability >= one.capability)
    kernel = "fused" if rows <= crossover.rows else "dequantise"
    return kernel, f"{rows} rows, fused is taken up to {crossover.rows} ({crossover.source})"


def fused_config(rows: int, bits: int) -> FusedConfig:
    """Tiles as high as the activations, up to 128; eight warps there and half the steps for int8, so that none spills.

    That it does not is what `tests/kernels/test_fused_anatomy.py` asserts; which is the fastest is not yet measured.
    """
    block_m = min(MOST_ROWS_A_PROGRAM, max(16, 1 << (rows - 1).bit_length()))
    return FusedConfig(block_m, 64, 4 if bits == 4 else 2, 8 if block_m == 128 else 4, 3)


def fused_splits(rows: int, w: QuantizedWeight, config: FusedConfig, multiprocessors: int) -> int:
    """Shares along K that keep all multiprocessors busy where there are few rows of weights."""
    programs = -(-rows // config.block_m) * -(-w.shape[0] // config.block_n)
    steps = -(-w.shape[1] // (BLOCK * config.blocks))
    few = config.block_m <= FEW_ROWS
    wanted = -(-2 * multiprocessors // programs) if few else multiprocessors // programs
    return max(1, min(wanted, steps // LEAST_STEPS))


def make_plan(x: torch.Tensor, w: QuantizedWeight, impl: str, route: str) -> LinearPlan:
    """The plan of a checked call that `impl` (never auto) does; x is [rows, K]."""
    if impl != "triton":
        if route != "measured":
            raise ValueError(f"route: given {route!r} with impl={impl!r}, which has one way; use impl='triton'")
        return LinearPlan(impl, None, None, 1, "asked for")
    capability, multiprocessors = (9, 0), MULTIPROCESSORS_ASSUMED
    if x.is_cuda:
        device = torch.cuda.get_device_properties(x.device)
        capability, multiprocessors = (device.major, device.minor), device.multi_processor_count
    kernel, reason = choose_kernel(x.shape[0], x.dtype, route, capability)
    if kernel != "fused":
        return LinearPlan(impl, kernel, None, 1, reason)
    config = fused_config(x.shape[0], w.bits)
    return LinearPlan(impl, kernel, config, fused_splits(x.shape[0], w, config, multiprocessors), reason)
