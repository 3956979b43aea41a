"""Which kernel a quantised linear layer takes on a GPU.

Activations that are rounded to int8 are the dp4a matvec's alone, which reads either packing. For floats, the packed
weight is either turned to floats inside the product (`fused`: it is read once, but unpacked again for each block of
rows), or once for all rows before a product of torch's (`dequantize`). A weight in tiles has a fused kernel of its own
on Hopper, at any number of rows. Where activations="float" is named, fused is taken for any number of rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from .activations import MOST_ROWS, are_rounded
from .packing import HOPPER
from .weight import QuantizedWeight

ROUTES = ("measured", "matvec", "fused", "dequantize")
RECORDED_SPELLINGS = {"dequantise": "dequantize"}
"""Spellings of routes in recorded runs, and the names of today: both are taken."""
TILED_ROWS = 4096
"""Rows up to which the fused kernel is taken for a weight in tiles: measured up to 2,048, predicted beyond; see
data/TUNING.md, "Crossovers"."""


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


def choose_kernel(
    rows: int, dtype: torch.dtype, w: QuantizedWeight, route: str, capability: tuple[int, int], activations: str
) -> Choice:
    """The kernel for a weight in rows. ValueError where an asked-for route cannot be."""
    count = f"{rows} row{'s' if rows > 1 else ''}"
    if are_rounded(rows, w, activations):
        return _choose_matvec(rows, route, activations)
    if route == "matvec":
        why = "activations='float'" if activations == "float" else f"{rows} rows; it takes {MOST_ROWS} at most"
        raise ValueError(f"route: given 'matvec' with {why}, unless activations='int8'")
    if dtype == torch.float32:
        if route == "fused":
            raise ValueError("route: given 'fused' with float32 activations; it takes float16 and bfloat16")
        return Choice("dequantize", "float32 activations, which tensor cores would round")
    if route != "measured":
        return Choice(route, "asked for")
    if activations == "float":
        return Choice("fused", f"{count}, activations='float' takes it for any number")
    found = crossover(w, capability)
    kernel = "fused" if rows <= found.rows else "dequantize"
    return Choice(kernel, f"{count}, fused is taken up to {found.rows} ({found.source})", True)


def _choose_matvec(rows: int, route: str, activations: str) -> Choice:
    """The kernel for activations that are rounded to int8, of a weight in either packing."""
    if route in ("fused", "dequantize"):
        why = "activations='int8'" if activations == "int8" else f"{rows} rows; up to {MOST_ROWS} rows"
        raise ValueError(
            f"route: given {route!r} with {why}: activations are rounded to int8, which the matvec does; use "
            "'measured' or 'matvec', or activations='float'"
        )
    count = f"{rows} row{'s' if rows > 1 else ''}"
    if activations == "int8":
        return Choice("matvec", f"{count}, activations='int8'")
    return Choice("matvec", f"{count}, up to {MOST_ROWS} are multiplied in int8")


def choose_kernel_for_tiles(
    rows: int,
    dtype: torch.dtype,
    w: QuantizedWeight,
    route: str,
    capability: tuple[int, int] | None,
    activations: str,
) -> Choice:
    """`choose_kernel` for a weight in tiles; capability None: Triton's interpreter."""
    if activations == "int8":
        return _choose_matvec(rows, route, activations)
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
        raise ValueError(
            "route: given 'matvec' for a weight in tiles, of which activations are taken as they are at any number of "
            "rows, unless activations='int8'"
        )
    if route == "fused" and reason is not None:
        raise ValueError(f"route: given 'fused', which cannot be: {reason}; use 'dequantize' or 'measured'")
    if route != "measured":
        return Choice(route, "asked for")
    if reason is not None:
        return Choice("dequantize", reason)
    count = f"{rows} row{'s' if rows > 1 else ''} of a weight in tiles"
    if activations == "float":
        return Choice("fused", f"{count}, activations='float' takes it for any number")
    kernel = "fused" if rows <= TILED_ROWS else "dequantize"
    return Choice(kernel, f"{count}, fused is taken up to {TILED_ROWS}", True)


def spelled(route: Any) -> Any:
    """The route by its name in `ROUTES`, where it is given as runs recorded it."""
    return RECORDED_SPELLINGS.get(route, route) if isinstance(route, str) else route
