"""Which kernel a quantised linear layer takes on a GPU, and how: one place decides.

Up to eight rows of activations there is the dp4a matvec alone, because rounding activations to int8 is the operation's
meaning there. Beyond, the packed weight is either turned to floats inside the product (`fused`: it is read once, but
unpacked again for each block of rows), or once for all rows before a product of torch's (`dequantize`). A weight in
tiles has a fused kernel of its own on Hopper, at any number of rows, and no matvec.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from ..gpu import Gpu, capability_of, family
from ..tuned.choose import Origin
from .activations import MOST_ROWS, are_rounded
from .configs import fused_config, fused_splits
from .hopper.plan import choose_config
from .measured import Config, measured
from .weight import QuantizedWeight

ROUTES = ("measured", "matvec", "fused", "dequantize")
RECORDED_SPELLINGS = {"dequantise": "dequantize"}
"""Spellings of routes in recorded runs, and the names of today: both are taken."""
TILED_ROWS = 512
"""Rows up to which the fused kernel is taken for a weight in tiles. Predicted beyond 128: as many blocks of 128 as take
102.5 us at 43008 x 5376 and 36.5 at 16384 x 5376 on an NVIDIA H200, where `dequantize` took 493 and 194 at 512."""
HOPPER = 9
"""The major compute capability that the kernel for tiles is written for."""


@dataclass(frozen=True)
class LinearPlan:
    """What `linear` will do. kernel: matvec, fused or dequantize; None for `reference` and `tiled`.

    config: the kernel's sizes, None for the matvec's defaults; splits: shares along K that are summed in a launch of
    their own. origin: where kernel and sizes are from.
    """

    impl: str
    kernel: str | None
    config: Config
    splits: int
    reason: str
    origin: Origin | None = None

    def __str__(self):
        lines = [f"impl    {self.impl}"]
        if self.kernel is not None:
            lines.append(f"kernel  {self.kernel}: {self.reason}")
        if self.config is not None:
            lines.append(f"config  {self.config}, {self.splits} split{'s' if self.splits > 1 else ''} along K")
        if self.origin is not None:
            lines.append(f"source  {self.origin}")
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


class Choice(NamedTuple):
    """A kernel and why. is_open: by what was measured alone, so that another measurement may say otherwise."""

    kernel: str
    reason: str
    is_open: bool = False


def choose_kernel(rows: int, dtype: torch.dtype, w: QuantizedWeight, route: str, capability: tuple[int, int]) -> Choice:
    """The kernel for a weight in rows. ValueError where an asked-for route cannot be."""
    if are_rounded(rows, w):
        if route in ("fused", "dequantize"):
            raise ValueError(
                f"route: given {route!r} with {rows} rows; up to {MOST_ROWS} rows activations are rounded to int8, "
                "which the matvec does; use 'measured' or 'matvec'"
            )
        return Choice("matvec", f"{rows} row{'s' if rows > 1 else ''}, up to {MOST_ROWS} are multiplied in int8")
    if route == "matvec":
        raise ValueError(f"route: given 'matvec' with {rows} rows; it takes {MOST_ROWS} at most")
    if dtype == torch.float32:
        if route == "fused":
            raise ValueError("route: given 'fused' with float32 activations; it takes float16 and bfloat16")
        return Choice("dequantize", "float32 activations, which tensor cores would round")
    if route != "measured":
        return Choice(route, "asked for")
    found = crossover(w, capability)
    kernel = "fused" if rows <= found.rows else "dequantize"
    return Choice(kernel, f"{rows} rows, fused is taken up to {found.rows} ({found.source})", True)


def _choose_for_tiles(
    rows: int, dtype: torch.dtype, w: QuantizedWeight, route: str, capability: tuple[int, int] | None
) -> Choice:
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
        return Choice(route, "asked for")
    if reason is not None:
        return Choice("dequantize", reason)
    kernel = "fused" if rows <= TILED_ROWS else "dequantize"
    reason = f"{rows} row{'s' if rows > 1 else ''} of a weight in tiles, fused is taken up to {TILED_ROWS}"
    return Choice(kernel, reason, True)


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
    gpu, rows = Gpu.of(x.device), x.shape[0]
    if w.packing == "tiles":
        choice = _choose_for_tiles(rows, x.dtype, w, route, capability_of(x.device))
    else:
        choice = choose_kernel(rows, x.dtype, w, route, gpu.capability)
    if route == "measured" and x.is_cuda and rows:
        found = measured(gpu, w, rows, "int8" if are_rounded(rows, w) else "float")
        if found is not None and (choice.is_open or found.kernel == choice.kernel):
            return LinearPlan(impl, found.kernel, found.config, found.splits, found.reason, found.origin)
    return _default_plan(choice, rows, w, gpu)


def default_plan(rows: int, dtype: torch.dtype, w: QuantizedWeight, gpu: Gpu) -> LinearPlan:
    """What a call takes on a GPU, which need not be there, as long as nothing is tuned for it."""
    choose = _choose_for_tiles if w.packing == "tiles" else choose_kernel
    return _default_plan(choose(rows, dtype, w, "measured", gpu.capability), rows, w, gpu)


def _default_plan(choice: Choice, rows: int, w: QuantizedWeight, gpu: Gpu) -> LinearPlan:
    config, splits = None, 1
    if choice.kernel == "fused" and w.packing == "tiles":
        n, k = w.shape
        config = choose_config(rows, n, k, gpu.sms)
    elif choice.kernel == "fused":
        config = fused_config(rows, w)
        splits = fused_splits(rows, w, config, gpu.sms)
    major, minor = family(gpu.capability)
    return LinearPlan("triton", choice.kernel, config, splits, choice.reason, Origin("table", f"sm_{major}{minor}"))
