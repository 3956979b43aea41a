"""Tuning quantised linear layers: which kernel, and with which sizes, by the weight's form, its shape, and rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar

import blockskip as bs
import torch
from blockskip.arguments import choice, flag
from blockskip.gpu import Gpu
from blockskip.linear.activations import MOST_ROWS
from blockskip.linear.configs import fused_config, fused_splits, matvec_config
from blockskip.linear.hopper.plan import SIZES, UNPACKED_AHEAD, HopperConfig, programs_of
from blockskip.linear.measured import config_of, from_numbers, numbers_of, values_of
from blockskip.linear.packing import HOPPER, PACKINGS, why_no_tiles
from blockskip.linear.plan import default_plan
from blockskip.linear.weight import BLOCK
from blockskip.tuned.linear import Form, LinearEntry

from skiplab.anatomy import linear
from skiplab.anatomy.linear import CONTENDERS, KERNELS, layout, weight_of
from skiplab.text import digits
from skiplab.tuning.base import AnyTuning, Candidate, Config, Ranking
from skiplab.workload import LinearWorkload

if TYPE_CHECKING:
    from skiplab.anatomy import Anatomy

SHAPES = (
    (2880, 2880), (4096, 4096), (5376, 8192), (14336, 4096), (16384, 5376), (5376, 21504), (43008, 5376),
    (28672, 8192),
)  # fmt: skip
"""Layers of several models, by their number of weights: others take the nearest."""
MIN_NUMBERS, MOST_NUMBERS = 8, 128
"""Float32 accumulators that a thread of the fused kernel may hold."""
ROWS = (*range(1, MOST_ROWS + 1), *(1 << power for power in range(4, 12)))
HEAD: str = f"{'weight':>13s} {'form':24s} {'rows':>5s} {'kernel':10s} {'sizes':26s} {'µs':>9s} {'untuned µs':>10s}"


@dataclass(frozen=True)
class LinearTuning(AnyTuning):
    """What is tuned: every shape x rows, for one form of weight, dtype and device.

    shape: (out_features, in_features); None: of `SHAPES` those that the form can have. packing: rows or tiles.
    budget_s: seconds that a candidate is timed at most, in each of three ways. TypeError or ValueError names the field,
    what was given and what is allowed.
    """

    shape: tuple[tuple[int, int], ...] | None = None
    rows: tuple[int, ...] = ROWS
    bits: int = 4
    group_size: int = 32
    symmetric: bool = False
    packing: str = "rows"
    dtype: str = "bfloat16"
    device: str = "cuda"
    seed: int = 0
    budget_s: float = 0.03
    operation: ClassVar[str] = "linear"
    verb: ClassVar[str] = "tune linear"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._layer(self.group_size, self.group_size)  # checks the form
        choice("packing", self.packing, PACKINGS)
        flag("symmetric", self.symmetric)
        if self.dtype == "float32":
            raise ValueError("dtype: got float32, of which dequantize alone takes many rows; tune bfloat16 or float16")
        for out_features, in_features in self.shape or ():
            if reason := self.refusal(out_features, in_features):
                raise ValueError(f"shape: got {out_features}x{in_features}: {reason}")
        if not self.workloads():
            raise ValueError(f"shape, rows: got none of one of them, or no shape that can be {self.name()}")

    def refusal(self, out_features: int, in_features: int, packing: str | None = None) -> str | None:
        """Why a weight of this form cannot have that shape, in this packing or another; None if it can."""
        if in_features % self.group_size:
            return f"inputs must be a multiple of group_size {self.group_size}"
        weight = weight_of(self._layer(out_features, in_features))
        return why_no_tiles(weight) if (packing or self.packing) == "tiles" else None

    def _layer(self, out_features: int, in_features: int, rows: int = 1) -> LinearWorkload:
        return LinearWorkload(out_features, in_features, rows, self.bits, self.group_size, self.symmetric, self.dtype)

    def workloads(self) -> list[LinearWorkload]:
        shapes = self.shape or [one for one in SHAPES if self.refusal(*one) is None]
        return [self._layer(*shape, rows) for shape, rows in product(shapes, self.rows)]

    def candidates(self, workload: LinearWorkload, gpu: Gpu) -> list[Candidate]:
        """Candidates with sizes around the default's, of every kernel that supports such a call."""
        if self.packing == "tiles":
            tried = _tiles(workload, gpu)
        elif workload.rows <= MOST_ROWS:
            tried = _matvecs(workload.rows, gpu)
        else:
            tried = _fused(workload, gpu)
        return list(dict.fromkeys(tried))

    def name(self) -> str:
        zero = ", symmetric" if self.symmetric else ""
        return f"int{self.bits} in {self.packing}, groups of {self.group_size}{zero}"


def _candidate(kernel: str, packing: str, config: Any = None, splits: int = 1) -> Candidate:
    return Candidate(CONTENDERS[kernel, packing], numbers_of(config, splits) or None)


def _matvecs(rows: int, gpu: Gpu) -> Iterator[Candidate]:
    """A block of 32 weights a thread and step, by one to four warps, for one to sixteen rows of the weight."""
    base = matvec_config(rows, gpu.capability)
    for block_n, warps in product((1, 2, 4, 8, 16), (1, 2, 4)):
        blocks = 32 * warps // block_n
        if 4 <= blocks <= 64:
            yield _candidate("matvec", "rows", replace(base, block_n=block_n, blocks=blocks, num_warps=warps))
    for limit in (None, 136, 168):
        yield _candidate("matvec", "rows", replace(base, registers=limit))


def _fused(workload: LinearWorkload, gpu: Gpu) -> Iterator[Candidate]:
    """The weight to floats first; or inside the product, in tiles as high as the rows or half as high."""
    yield _candidate("dequantize", "rows")
    w, rows = weight_of(workload), workload.rows
    base = fused_config(rows, w)
    highest = min(128, max(16, 1 << (rows - 1).bit_length()))
    grid = product({highest, max(16, highest // 2)}, (64, 128), (4, 8), (3, 4))
    sizes = [replace(base, block_m=m, block_n=n, num_warps=warps, num_stages=stages) for m, n, warps, stages in grid]
    sizes += [base, replace(base, blocks=2), replace(base, blocks=4), replace(base, num_stages=2)]
    for config in sizes:
        if MIN_NUMBERS <= config.block_m * config.block_n / (32 * config.num_warps) <= MOST_NUMBERS:
            yield _candidate("fused", "rows", config, fused_splits(rows, w, config, gpu.sms))
    splits = fused_splits(rows, w, base, gpu.sms)
    for shares in {max(1, splits // 2), min(2 * splits, workload.in_features // (2 * BLOCK * base.blocks)) or 1}:
        yield _candidate("fused", "rows", base, shares)


def _tiles(workload: LinearWorkload, gpu: Gpu) -> Iterator[Candidate]:
    """The weight to floats first; or Hopper's kernel, its sizes one by one off the default's."""
    yield _candidate("dequantize", "tiles")
    if gpu.capability[0] != HOPPER:
        return
    base = _tiles_config(workload, gpu)
    yield _candidate("fused", "tiles", base)
    most = -(-workload.out_features // 64)
    for block_m in (base.block_m // 2, 2 * base.block_m):
        if block_m in SIZES:
            config = HopperConfig(block_m, *SIZES[block_m], programs=1)
            programs = programs_of(config, workload.rows, workload.out_features, workload.in_features, gpu.sms)
            yield _candidate("fused", "tiles", replace(config, programs=programs))
    changes = {
        "block_k": (128, 256),
        "stages": tuple(base.stages + more for more in (-2, -1, 1, 2)),
        "row_groups": (2, 3),
        "programs": (gpu.sms, min(most, gpu.sms), max(1, base.programs // 2)),
    }
    for name, values in changes.items():
        for value in values:
            if value >= ((3 if base.block_m >= UNPACKED_AHEAD else 2) if name == "stages" else 1):
                yield _candidate("fused", "tiles", replace(base, **{name: value}))


def _tiles_config(workload: LinearWorkload, gpu: Gpu) -> HopperConfig:
    """The default sizes of the kernel for tiles, whether or not the default takes it for so many rows."""
    rows = workload.rows
    while True:
        config = default_plan(rows, workload.torch_dtype, weight_of(workload, "tiles"), gpu).config
        if isinstance(config, HopperConfig):
            return config
        rows //= 2


@dataclass(frozen=True, order=True)
class TuningClass:
    """Calls that take the same entry: one shape and number of rows, of one form; fields as of `LinearEntry`."""

    bits: int
    packing: str
    group_size: int
    symmetric: bool
    rows: int
    out_features: int
    in_features: int

    @property
    def form(self) -> Form:
        activations = "int8" if self.packing == "rows" and self.rows <= MOST_ROWS else "float"
        return Form(self.bits, self.packing, self.group_size, self.symmetric, False, activations)

    @property
    def weight(self) -> bs.QuantizedWeight:
        return layout(
            self.out_features, self.in_features, self.bits, self.group_size, self.symmetric, self.packing
        )  # fmt: skip


def candidate_of(contender: str, config: Config | None) -> Candidate | None:
    """The candidate of a row: with its sizes, if the kernel has any."""
    if contender not in KERNELS or (config is None) != (KERNELS[contender][0] == "dequantize"):
        return None
    return Candidate(contender, config)


def class_of(axes: Mapping[str, Any], candidate: Candidate, sms: int) -> TuningClass:
    """The class of a workload; the packing is that of the contender."""
    sizes = {name: axes[name] for name in ("bits", "group_size", "symmetric", "rows", "out_features", "in_features")}
    return TuningClass(packing=KERNELS[candidate.contender][1], **sizes)


def race_of(one: TuningClass) -> tuple:
    """Shapes with as many rows race together."""
    return one.form, one.rows


def compiled_as(one: TuningClass, candidate: Candidate) -> tuple:
    """The weight's shape does not change whether a kernel is right."""
    return one.form, one.rows, candidate


def default(one: TuningClass, gpu: Gpu) -> Candidate:
    """The default: by the crossovers and sizes of the kernels' plan."""
    plan = default_plan(one.rows, torch.bfloat16, one.weight, gpu)
    return _candidate(plan.kernel or "", one.packing, plan.config, plan.splits)


def same_kernel(workload: LinearWorkload) -> Any:
    """K and the rows are constants of most kernels, so they count."""
    return workload


def anatomy(capability: tuple[int, int], workload: LinearWorkload, candidate: Candidate) -> Anatomy | None:
    if candidate.config is None:
        return None
    return linear.anatomy(capability, workload, candidate.contender, candidate.config)


def entry(one: TuningClass, winner: Candidate, ranking: Ranking, default: Candidate) -> LinearEntry:
    kernel, packing = KERNELS[winner.contender]
    sizes = values_of(*config_of(kernel, packing, from_numbers(kernel, packing, winner.config or ())))
    (at,) = ranking.times
    return LinearEntry(
        one.form, one.out_features, one.in_features, one.rows, kernel, sizes,
        ranking.us(at, winner), ranking.us_if_timed(at, default),
    )  # fmt: skip


def line(entry: LinearEntry) -> str:
    form, sizes = entry.form, "x".join(str(value) for value in entry.config.values() if value is not None)
    words = f"int{form.bits} {form.packing} g{form.group_size}{' symmetric' if form.symmetric else ''}"
    default = "" if entry.default_us is None else digits(entry.default_us)
    shape, took = f"{entry.out_features}x{entry.in_features}", digits(entry.median_us)
    return f"{shape:>13s} {words:24s} {entry.rows:5d} {entry.kernel:10s} {sizes:26s} {took:>9s} {default:>10s}"
