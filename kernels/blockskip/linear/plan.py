"""Every choice about a linear call, made in one place: implementation, kernel, tiles, splits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..gpu import Gpu, capability_of, family
from ..tuned.choose import Origin
from .activations import RoundedActivations, are_rounded
from .configs import (
    FIXED_ROWS,
    FusedConfig,
    MatvecConfig,
    fused_config,
    fused_splits,
    matvec_config,
    rows_together,
)
from .cpu import choose_on_cpu, why_not_numba
from .hopper.plan import HopperConfig, choose_config, of_each_block
from .measured import measured
from .route import Choice, choose_kernel, choose_kernel_for_tiles, spelled
from .weight import QuantizedWeight

Config = MatvecConfig | FusedConfig | HopperConfig | None


@dataclass(frozen=True)
class LinearPlan:
    """What `linear` will do. kernel: matvec, fused or dequantize, of triton; None for the other implementations.

    config: the kernel's, None where it has none; splits: shares along K that are summed in a launch of their own.
    packing: how the weight lies, in rows or in tiles. activations: int8 or float, what they are multiplied as.
    batch_invariant: a row's bits do not depend on how many other rows there are, nor on what they hold. origin: where
    kernel and sizes are from.
    """

    impl: str
    kernel: str | None
    config: Config
    splits: int
    reason: str
    activations: str = "float"
    batch_invariant: bool = False
    origin: Origin | None = None
    packing: str = "rows"

    def __str__(self):
        rows = "rounded to int8" if self.activations == "int8" else "multiplied as floats"
        rows += ", each with the same bits whatever the others are" if self.batch_invariant else ""
        lines = [f"impl    {self.impl}", f"rows    {rows}", f"weight  in {self.packing}"]
        if self.kernel is None:
            lines[0] += f": {self.reason}"
        else:
            lines.append(f"kernel  {self.kernel}: {self.reason}")
        if self.config is not None:
            lines.append(f"config  {self.config}, {self.splits} split{'s' if self.splits > 1 else ''} along K")
        if self.origin is not None:
            lines.append(f"source  {self.origin}")
        return "\n".join(lines)


def make_plan(
    x: torch.Tensor | RoundedActivations, w: QuantizedWeight, impl: str, route: str, activations: str = "auto"
) -> LinearPlan:
    """The plan of a checked call; x is [rows, K]. impl auto: the one for a CPU, or a device without kernels."""
    route, rows = spelled(route), x.shape[0]
    multiplied, named = "int8" if are_rounded(rows, w, activations) else "float", activations != "auto"
    if impl != "triton":
        if route != "measured":
            raise ValueError(f"route: given {route!r} with impl={impl!r}, which has one way; use impl='triton'")
        impl, reason = _choose_impl(x, w, impl, multiplied)
        return LinearPlan(
            impl, None, None, 1, reason, multiplied, named or (impl, multiplied) == ("numba", "int8"), packing=w.packing
        )
    gpu = Gpu.of(x.device)
    if w.packing == "tiles":
        choice = choose_kernel_for_tiles(rows, x.dtype, w, route, capability_of(x.device), activations)
    else:
        choice = choose_kernel(rows, x.dtype, w, route, gpu.capability, activations)
    tunable = route == "measured" and x.is_cuda and rows and (not named or multiplied == "float")
    fastest = measured(gpu, w, FIXED_ROWS if named else rows, multiplied) if tunable else None
    if fastest is not None and (choice.is_open or fastest.kernel == choice.kernel):
        return LinearPlan(
            impl,
            fastest.kernel,
            _alike(fastest.config, rows) if named else fastest.config,
            fastest.splits,
            fastest.reason,
            multiplied,
            named,
            fastest.origin,
            w.packing,
        )
    return _default_plan(choice, rows, w, gpu, multiplied, named)


def _choose_impl(
    x: torch.Tensor | RoundedActivations, w: QuantizedWeight, impl: str, multiplied: str
) -> tuple[str, str]:
    """(implementation, why) where it is not triton. ValueError for numba where it cannot be."""
    if impl == "auto":
        return choose_on_cpu(x, w, multiplied)
    if impl == "numba" and (reason := why_not_numba(x, w)) is not None:
        raise ValueError(f"impl: given 'numba', which cannot be: {reason}; use 'tiled' or 'auto'")
    return impl, "asked for"


def default_plan(rows: int, dtype: torch.dtype, w: QuantizedWeight, gpu: Gpu) -> LinearPlan:
    """What a call takes on a GPU, which need not be there, as long as nothing is tuned for it."""
    choose = choose_kernel_for_tiles if w.packing == "tiles" else choose_kernel
    choice = choose(rows, dtype, w, "measured", gpu.capability, "auto")
    return _default_plan(choice, rows, w, gpu, "int8" if are_rounded(rows, w, "auto") else "float", False)


def _default_plan(choice: Choice, rows: int, w: QuantizedWeight, gpu: Gpu, multiplied: str, named: bool) -> LinearPlan:
    config, splits = _sizes(choice.kernel, FIXED_ROWS if named else rows, w, gpu, rows)
    config = _alike(config, rows) if named else config
    major, minor = family(gpu.capability)
    origin, invariant = Origin("table", f"sm_{major}{minor}"), named or choice.kernel == "matvec"
    return LinearPlan("triton", choice.kernel, config, splits, choice.reason, multiplied, invariant, origin, w.packing)


def _alike(config: Any, rows: int) -> Any:
    """The sizes with which rows are summed alike, however many there are."""
    return of_each_block(config, rows) if isinstance(config, HopperConfig) else config


def _sizes(kernel: str, planned_rows: int, w: QuantizedWeight, gpu: Gpu, rows: int) -> tuple[Any, int]:
    """(config, splits) of a kernel; planned_rows: how many rows sums may depend on."""
    if kernel == "dequantize":
        return None, 1
    if kernel == "matvec":
        return matvec_config(rows_together(rows), gpu.capability), 1
    if w.packing == "tiles":
        return choose_config(planned_rows, w.shape[0], w.shape[1], gpu.sms), 1
    config = fused_config(planned_rows, w)
    return config, fused_splits(planned_rows, w, config, gpu.sms)
