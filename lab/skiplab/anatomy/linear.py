"""The anatomies of the kernels for quantised linear layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import blockskip as bs
import torch
from blockskip.gpu import HOPPER, MULTIPROCESSORS_ASSUMED
from blockskip.linear.configs import fused_config, fused_splits, matvec_config
from blockskip.linear.hopper.plan import choose_config
from blockskip.linear.measured import CONFIGS, config_of, from_numbers, numbers_of

from skiplab.anatomy.compiled import Anatomy
from skiplab.anatomy.launches import prepared_anatomy
from skiplab.machine.capability import capability_of
from skiplab.workload import LinearWorkload

if TYPE_CHECKING:
    from blockskip.linear.configs import FusedConfig, MatvecConfig
    from blockskip.linear.hopper.plan import HopperConfig

CONTENDERS: Mapping[tuple[str, str], str] = {
    ("matvec", "rows"): "blockskip-matvec",
    ("fused", "rows"): "blockskip-fused",
    ("dequantize", "rows"): "blockskip-dequantize",
    ("fused", "tiles"): "blockskip-tiles",
    ("dequantize", "tiles"): "blockskip-tiles-dequantize",
}
"""Our contenders with a kernel each, by kernel and packing."""
KERNELS: Mapping[str, tuple[str, str]] = {contender: kernel for kernel, contender in CONTENDERS.items()}


def compiles(contender: str) -> bool:
    """Whether the contender has a kernel that is named here."""
    return contender in KERNELS


def sizes(contender: str) -> tuple[str, ...]:
    """The names of a config's numbers; none for a contender whose kernel is not ours, or has no sizes."""
    kind = CONFIGS.get(KERNELS.get(contender, ("", "")))
    names = tuple(field.name for field in fields(kind)) if kind else ()
    return (*names, "splits") if "num_stages" in names else names


def default(arch: Any, workload: LinearWorkload, contender: str) -> tuple[int, ...]:
    """The config that the kernel takes where nothing was tuned."""
    kernel, packing = KERNELS[contender]
    rows, (n, k) = workload.rows, (workload.out_features, workload.in_features)
    if kernel == "matvec":
        return numbers_of(matvec_config(rows, capability_of(arch)))
    if packing == "tiles":
        return numbers_of(choose_config(rows, n, k, MULTIPROCESSORS_ASSUMED))
    w = weight_of(workload)
    config = fused_config(rows, w)
    return numbers_of(config, fused_splits(rows, w, config, MULTIPROCESSORS_ASSUMED))


def anatomy(arch: Any, workload: LinearWorkload, contender: str, config: tuple[int, ...]) -> Anatomy:
    """The anatomy of a contender's kernel for this workload."""
    kernel, packing = KERNELS[contender]
    chosen, splits = config_of(kernel, packing, from_numbers(kernel, packing, config))
    return linear_anatomy(arch, weight_of(workload, packing), workload.rows, workload.torch_dtype, chosen, splits)


@lru_cache(maxsize=64)
def layout(n: int, k: int, bits: int, group_size: int, symmetric: bool, packing: str) -> bs.QuantizedWeight:
    """A weight on the meta device: a layout without numbers."""
    # of a row that is there: torch computes on the meta device by way of its compiler, which takes a second to import
    row = bs.quantize(torch.zeros(1, k, dtype=torch.bfloat16, device="cpu"), bits, group_size, symmetric)
    tensors: dict[str, Any] = {
        name: t.new_empty((n, *t.shape[1:]), device="meta") for name, t in row.named_tensors().items()
    }
    return replace(row, **tensors).packed(packing)


def weight_of(workload: LinearWorkload, packing: str = "rows") -> bs.QuantizedWeight:
    """A layer's weight on the meta device."""
    w = workload
    return layout(w.out_features, w.in_features, w.bits, w.group_size, w.symmetric, packing)


def linear_anatomy(
    arch: Any,
    weight: bs.QuantizedWeight,
    rows: int,
    dtype: torch.dtype,
    config: MatvecConfig | FusedConfig | HopperConfig | None,
    splits: int = 1,
) -> Anatomy:
    """The kernel of a quantised linear layer that has these sizes, as it is launched on a GPU of this `arch`; not run.

    weight: one on the meta device will do. config: None for the kernel that turns the weight back to floats.
    """
    from blockskip.linear import launch
    from blockskip.linear.configs import FusedConfig, MatvecConfig
    from blockskip.linear.format import Metadata
    from blockskip.linear.rounding import Blocks

    capability = capability_of(arch)
    tensors = {name: torch.empty_like(t, device="cpu") for name, t in weight.named_tensors().items()}
    w: Any = replace(weight, **cast(Any, tensors))
    (n, k), early = w.shape, capability >= HOPPER
    x, out = (torch.empty((rows, width), dtype=dtype, device="cpu") for width in (k, n))
    if isinstance(config, MatvecConfig):
        codes = torch.empty((rows, 2, k // 8), dtype=torch.int32, device="cpu")
        sums = torch.empty((rows, k // 32), dtype=torch.float32, device="cpu")
        operands = launch.packed_codes(w), Metadata.of(w), codes, Blocks(sums, sums), None, out
        launched = launch.prepare_matvec(w, operands, config, early)
        return prepared_anatomy(capability, launch.matvec, launched, **config.options(early))
    if isinstance(config, FusedConfig):
        kind = torch.float32 if splits > 1 else dtype
        launched = launch.prepare_fused(x, w, None, torch.empty((splits, rows, n), dtype=kind, device="cpu"), config)
        options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
        return prepared_anatomy(capability, launch.fused, launched, **options)
    if config is None:
        from blockskip.linear import prepared

        return prepared_anatomy(capability, prepared.dequantize, prepared.prepare_dequantize(w, out.new_empty((n, k))))
    return _tiles_anatomy(capability, w, x, out, config)


def _tiles_anatomy(capability, w, x, out, config) -> Anatomy:
    from blockskip.launching.ready import allocate
    from blockskip.linear.hopper import launch

    shares, data = allocate(launch._memory(x, w.shape[0], config)[1:], x.device), w.data.view(torch.int32)
    launched = launch.prepare_product(x, data, w.scale, w.zero, None, out, shares, config, w.group_size)
    return prepared_anatomy(capability, launch.product, launched, num_warps=4, launch_pdl=True)
