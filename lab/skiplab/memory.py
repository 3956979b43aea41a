"""What the matvec's loads touch in memory: bytes, sectors of 32 and lines of 128, for a step of a warp.

Arithmetic on the access pattern of `blockskip/linear/matvec.py`: nothing is loaded and no GPU is needed. Beside it,
what the compiler made of that kernel, and what a format costs in error: its signal-to-noise ratio on a weight that is
quantised now.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import blockskip as bs
import torch

from skiplab.anatomy import Anatomy, _pretend, read
from skiplab.machine import Machine
from skiplab.roofline import Bound, bound_of

LANES, SECTOR, LINE = 32, 32, 128
"""Threads of a warp; bytes that a GPU's caches move at a time; bytes that they look up at a time."""
BLOCK, SPAN = 32, 256
"""Weights that one lane multiplies a step; weights of a row that share the step of uint8 metadata."""
GROUP_SIZES = (32, 64, 128)
METADATA = ("bfloat16", "uint8")


@dataclass(frozen=True)
class Packed:
    """A quantised weight [out_features, in_features] as it lies in memory; no tensor, sizes alone.

    `strided`: metadata lies [groups, out_features] instead of row for row with the weights. ValueError names the field,
    what was given and what is allowed.
    """

    out_features: int = 21504
    in_features: int = 5376
    bits: int = 4
    group_size: int = 32
    symmetric: bool = False
    metadata: str = "bfloat16"
    strided: bool = False

    def __post_init__(self) -> None:
        for name, allowed in (("bits", (4, 8)), ("group_size", GROUP_SIZES), ("metadata", METADATA)):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name}: got {getattr(self, name)!r}; allowed are {', '.join(str(value) for value in allowed)}"
                )
        if self.out_features < 1:
            raise ValueError(f"out_features: got {self.out_features}; allowed is an integer of at least 1")
        unit = SPAN if self.metadata == "uint8" else self.group_size
        if self.in_features < unit or self.in_features % unit:
            why = "256, the span of uint8 metadata's steps" if unit == SPAN else f"group_size, {unit}"
            raise ValueError(f"in_features: got {self.in_features}; must be a multiple of {why}")

    @property
    def tables(self) -> tuple[Table, ...]:
        """The arrays of metadata, in the order in which the kernel loads them."""
        if self.metadata == "bfloat16":
            names = ("scales",) if self.symmetric else ("scales", "zero points")
            return tuple(Table(name, 2, self.group_size) for name in names)
        names = ("scale",) if self.symmetric else ("scale", "minimum")
        return tuple(
            table
            for name in names
            for table in (Table(f"{name} codes", 1, self.group_size), Table(f"{name} steps", 2, SPAN))
        )

    @property
    def bits_per_weight(self) -> float:
        """Bits of codes and metadata for each weight: 5.0 for int4, group 32, asymmetric."""
        return self.bits + sum(8 * table.element_bytes / table.span for table in self.tables)

    @property
    def nbytes(self) -> int:
        """Bytes of codes and metadata."""
        return round(self.out_features * self.in_features * self.bits_per_weight / 8)

    @property
    def needs_sums(self) -> bool:
        """Whether the kernel reads the activations' code sums: not where code 0 is worth 0."""
        return not (self.symmetric and self.bits == 8)

    @property
    def words(self) -> str:
        """`int4, groups of 32, asymmetric`, and how metadata is stored."""
        kind = "symmetric" if self.symmetric else "asymmetric"
        codes = ", uint8 metadata" if self.metadata == "uint8" else ""
        return f"int{self.bits}, groups of {self.group_size}, {kind}{codes}"


@dataclass(frozen=True)
class Table:
    """One array of metadata: an element of so many bytes for each `span` weights of a row."""

    name: str
    element_bytes: int
    span: int


@dataclass(frozen=True)
class Program:
    """block_n weight rows, `blocks` blocks of 32 weights a step, num_warps warps: a `MatvecConfig`."""

    block_n: int = 1
    blocks: int = 32
    num_warps: int = 1

    @property
    def words(self) -> str:
        rows = f"{self.block_n} row{'s' if self.block_n > 1 else ''}"
        return f"{rows} × {self.blocks * BLOCK:,} weights, {self.num_warps} warp{'s' if self.num_warps > 1 else ''}"

    def steps(self, in_features: int) -> int:
        """Steps of the loop over a row."""
        return -(-in_features // (BLOCK * self.blocks))


PROGRAMS: Mapping[str, Program] = {
    "one warp a row": Program(1, 32, 1),
    "two warps a row": Program(1, 64, 2),
    "4 rows": Program(4, 32, 4),
    "16 rows": Program(16, 8, 4),
}
"""The matvec's own configuration, and others that it was measured against."""


@dataclass(frozen=True)
class Load:
    """One load instruction of a warp: where each lane's `width` bytes begin in that array; None for an idle lane."""

    what: str
    width: int
    starts: tuple[int | None, ...]

    @property
    def distinct(self) -> tuple[int, ...]:
        """The different starts; widths divide them, so that two lanes load the same bytes or share none."""
        return tuple(sorted({start for start in self.starts if start is not None}))

    @property
    def bytes(self) -> int:
        return self.width * len(self.distinct)

    def touched(self, unit: int) -> tuple[int, ...]:
        """The numbers of the units of so many bytes that hold what is loaded."""
        return tuple(sorted({at // unit for start in self.distinct for at in (start, start + self.width - 1)}))


@dataclass(frozen=True)
class Access:
    """What some loads of one array ask for: instructions, bytes needed, and sectors and lines of each instruction."""

    what: str
    loads: int
    bytes: int
    sectors: int
    lines: int

    def __add__(self, other: Access) -> Access:
        return Access(
            self.what, self.loads + other.loads, self.bytes + other.bytes, self.sectors + other.sectors,
            self.lines + other.lines,
        )  # fmt: skip


Places = list[tuple[int, int] | None]


@lru_cache(maxsize=256)
def step_loads(
    packed: Packed, program: Program, row: int, step: int, scalar: bool = False, warp: int = 0
) -> tuple[Load, ...]:
    """The loads of one step, in the kernel's order, of the warp that holds the row (of its `warp`-th where several do).

    `scalar`: activations are loaded 4 bytes at a time instead of 16. Addresses count from each array's first byte,
    which stands on a line's border. Activations are those of one token.
    """
    last = program.steps(packed.in_features) - 1
    if not 0 <= row < packed.out_features:
        raise ValueError(f"row: got {row}; allowed is 0 to {packed.out_features - 1:,}")
    if not 0 <= step <= last:
        raise ValueError(f"step: got {step}; allowed is 0 to {last}")
    return tuple(_loads(packed, places(packed, program, row, step, warp), scalar))


def places(packed: Packed, program: Program, row: int, step: int, warp: int = 0) -> Places:
    """(row, block of 32) of each lane, None past the row's end.

    Thread t of a program has row t // blocks, block t % blocks of the step.
    """
    first = (row % program.block_n) * program.blocks // LANES * LANES + warp * LANES
    found: Places = []
    for thread in range(first, first + LANES):
        n, block = divmod(thread, program.blocks)
        block += step * program.blocks
        n = min(row - row % program.block_n + n, packed.out_features - 1)  # rows past the end read the last one again
        found.append((n, block) if block * BLOCK < packed.in_features else None)
    return found


def _loads(packed: Packed, lanes: Places, scalar: bool) -> Iterator[Load]:
    def load(what: str, width: int, start) -> Load:
        return Load(what, width, tuple(None if place is None else start(*place) for place in lanes))

    all_blocks = packed.in_features // BLOCK
    row_bytes = packed.in_features * packed.bits // 8
    for plane in range(packed.bits // 4):
        yield load("weights", 16, lambda n, b, plane=plane: n * row_bytes + plane * all_blocks * 16 + b * 16)
    for table in packed.tables:
        count = packed.in_features // table.span

        def start(n: int, b: int, table: Table = table, count: int = count) -> int:
            group = b * BLOCK // table.span
            return table.element_bytes * (group * packed.out_features + n if packed.strided else n * count + group)

        yield load(table.name, table.element_bytes, start)
    for plane in range(2):
        for part in range(4) if scalar else (0,):
            yield load(
                f"activations, plane {plane}", 4 if scalar else 16,
                lambda n, b, plane=plane, part=part: plane * all_blocks * 16 + b * 16 + 4 * part,
            )  # fmt: skip
    yield load("activation steps", 4, lambda n, b: 4 * b)
    if packed.needs_sums:
        yield load("activation sums", 4, lambda n, b: 4 * b)


def accesses(loads: tuple[Load, ...]) -> tuple[Access, ...]:
    """The loads added up by array, in their order."""
    found: dict[str, Access] = {}
    for load in loads:
        one = Access(load.what, 1, load.bytes, len(load.touched(SECTOR)), len(load.touched(LINE)))
        found[load.what] = found[load.what] + one if load.what in found else one
    return tuple(found.values())


def total(items: tuple[Access, ...], what: str = "all") -> Access:
    """The sum of some accesses under one name."""
    return sum((replace(item, what=what) for item in items), Access(what, 0, 0, 0, 0))


@lru_cache(maxsize=64)
def row_accesses(packed: Packed, program: Program, row: int, scalar: bool = False) -> tuple[Access, ...]:
    """What a whole row asks for: the loads of its warp or warps in all steps, shared evenly where a warp holds more."""
    loads = tuple(
        load
        for step in range(program.steps(packed.in_features))
        for warp in range(max(1, program.blocks // LANES))
        for load in step_loads(packed, program, row, step, scalar, warp)
    )
    rows = max(1, LANES // program.blocks)
    return tuple(
        Access(one.what, one.loads // rows, one.bytes // rows, one.sectors // rows, one.lines // rows)
        for one in accesses(loads)
    )


def compiled(packed: Packed, program: Program, capability: tuple[int, int], scalar: bool = False) -> Anatomy:
    """The matvec for one token as it would be launched on a GPU of that capability: compiled, not run. Imports triton.

    Raises ValueError where TRITON_INTERPRET is set: nothing is compiled then.
    """
    from blockskip.device import interpreting
    from blockskip.linear import launch

    if interpreting():
        raise ValueError("TRITON_INTERPRET: is set, so kernels are not compiled; unset it before Triton is imported")
    n, k = 64, packed.in_features  # the kernel takes the number of rows as an argument
    w = bs.quantize(torch.zeros(n, k), packed.bits, packed.group_size, packed.symmetric, packed.metadata)
    config = launch.MatvecConfig(program.block_n, program.blocks, program.num_warps, packed.strided, scalar)
    words, sums, out = torch.empty((1, 2, k // 8), dtype=torch.int32), torch.empty(1, k // 32), torch.empty(1, n)
    early = capability >= (9, 0)
    metadata = launch.metadata_of(w, config)
    one = launch.prepare_matvec(w, metadata, words, sums, sums, None, out.bfloat16(), config, early)
    options = {"num_warps": program.num_warps} | ({"launch_pdl": True} if early else {})
    with _pretend(capability):
        kernel = launch.kernel_of(config).warmup(*one.arguments, **one.constants, **options, grid=one.grid)
    return read(kernel, capability)


def floor(packed: Packed, machine: Machine, rows: int = 1, element_bytes: int = 2) -> Bound:
    """The least time of one product there: codes and metadata read once, activations and output moved once."""
    elements = packed.out_features * packed.in_features
    moved = packed.nbytes + rows * element_bytes * (packed.in_features + packed.out_features)
    return bound_of(2 * rows * elements, moved, machine)


def float_floor(packed: Packed, machine: Machine, rows: int = 1, element_bytes: int = 2) -> Bound:
    """The same for the float weight that it stands for."""
    elements = packed.out_features * packed.in_features
    moved = element_bytes * (elements + rows * (packed.in_features + packed.out_features))
    return bound_of(2 * rows * elements, moved, machine)


@dataclass(frozen=True)
class Quality:
    """A format and its signal-to-noise ratio in dB on one weight."""

    packed: Packed
    snr_db: float


FORMATS = tuple(
    (bits, group_size, symmetric, metadata)
    for bits in (4, 8)
    for metadata in METADATA
    for symmetric in (False, True)
    for group_size in GROUP_SIZES
    if metadata == "bfloat16" or not symmetric
)
"""(bits, group size, symmetric, metadata) of every format that is compared."""


def qualities(weight: torch.Tensor) -> tuple[Quality, ...]:
    """Every format's error on this float weight [N, K], quantised now; K a multiple of 256."""
    found = []
    rows, columns = weight.shape
    for bits, group_size, symmetric, metadata in FORMATS:
        packed = Packed(rows, columns, bits, group_size, symmetric, metadata)
        quantised = bs.quantize(weight, bits, group_size, symmetric, metadata)
        found.append(Quality(packed, quantised.error(weight)))
    return tuple(sorted(found, key=lambda one: (one.packed.bits_per_weight, one.snr_db)))


WEIGHTS = ("normal", "heavy tails", "shifted")


@lru_cache(maxsize=8)
def random_weight(kind: str = "normal", rows: int = 8, columns: int = 2048, seed: int = 0) -> torch.Tensor:
    """Float32 [rows, columns], deviation 0.02: normal; Student's t, 3 degrees of freedom; or normal + 0.02.

    Small enough for torch to stay on one thread, and so for an explorer to quantise it in every format while one waits.
    """
    if kind not in WEIGHTS:
        raise ValueError(f"weights: got {kind!r}; allowed are {', '.join(WEIGHTS)}")
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, columns, generator=generator)
    if kind == "heavy tails":
        chi_squared = torch.randn(3, rows, columns, generator=generator).square().sum(0)
        values = values / chi_squared.sqrt()  # deviation 1: that of Student's t is sqrt(3)
    if kind == "shifted":
        values = values + 1
    return 0.02 * values


@lru_cache(maxsize=8)
def random_qualities(kind: str = "normal", seed: int = 0) -> tuple[Quality, ...]:
    """`qualities` of `random_weight(kind, seed=seed)`."""
    return qualities(random_weight(kind, seed=seed))


@dataclass(frozen=True)
class Codes:
    """32 weights of a row that lie together: the float weights, their codes, and what the codes stand for.

    A code stands for (code - zero) * scale + minimum.
    """

    first: int
    weights: tuple[float, ...]
    codes: tuple[int, ...]
    values: tuple[float, ...]
    scale: float
    zero: float
    minimum: float


def codes_of(packed: Packed, row: int, block: int, kind: str = "normal") -> Codes:
    """Block `block` of a row of random weights, quantised now; the same arguments give the same."""
    unit = SPAN if packed.in_features % SPAN == 0 else packed.group_size
    span, inside = divmod(block * BLOCK, unit)
    weight = random_weight(kind, 1, unit, seed=1 + row * (packed.in_features // unit) + span)
    w = bs.quantize(weight, packed.bits, packed.group_size, packed.symmetric, packed.metadata)
    group, here = inside // packed.group_size, slice(inside, inside + BLOCK)
    scale, offset = (0.0 if t is None else t[0, group].item() for t in (w.scale, w.offset))
    steps = [1.0 if t is None else t[0, 0].item() for t in (w.scale_step, w.minimum_step)]
    return Codes(
        block * BLOCK,
        tuple(weight[0, here].tolist()),
        tuple(w.codes()[0, here].tolist()),
        tuple(w.dequantize()[0, here].tolist()),
        scale * steps[0],
        w.centre if w.zero is None else w.zero[0, group].item(),
        offset * steps[1],
    )
