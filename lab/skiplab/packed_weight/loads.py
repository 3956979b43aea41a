"""What the matvec's loads touch in memory: bytes, sectors of 32 and lines of 128, for a step of a warp.

Arithmetic on the access pattern of `blockskip/linear/matvec.py`: nothing is loaded and no GPU is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from blockskip.arguments import integer

from skiplab.packed_weight.packed import BLOCK, MetadataTable, Packed

LANES, SECTOR, LINE = 32, 32, 128
"""Threads of a warp; bytes that a GPU's caches move at a time; bytes that they look up at a time."""


@dataclass(frozen=True)
class Program:
    """block_n weight rows, `blocks` blocks of 32 weights a step, num_warps warps: a `MatvecConfig`."""

    block_n: int = 1
    blocks: int = 32
    num_warps: int = 1

    @property
    def description(self) -> str:
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
    """One load instruction of a warp: the start of each lane's `width` bytes in that array; None for an idle lane."""

    what: str
    width: int
    starts: tuple[int | None, ...]

    @property
    def distinct(self) -> tuple[int, ...]:
        """The distinct starts; they are multiples of the width, so two lanes load the same bytes or share none."""
        return tuple(sorted({start for start in self.starts if start is not None}))

    @property
    def bytes(self) -> int:
        return self.width * len(self.distinct)

    def touched(self, unit: int) -> tuple[int, ...]:
        """The indices of the units (sectors or lines) of so many bytes that are touched."""
        return tuple(sorted({at // unit for start in self.distinct for at in (start, start + self.width - 1)}))


@dataclass(frozen=True)
class Access:
    """The sum of some loads of one array: instructions, bytes needed, and sectors and lines of each instruction."""

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


LaneBlocks = list[tuple[int, int] | None]


@lru_cache(maxsize=256)
def step_loads(
    packed: Packed, program: Program, row: int, step: int, scalar: bool = False, warp: int = 0
) -> tuple[Load, ...]:
    """The loads of one step, in the kernel's order, of the warp that holds the row (of its `warp`-th where several do).

    `scalar`: activations are loaded 4 bytes at a time instead of 16. Addresses count from each array's first byte,
    which is at the start of a line. Activations are those of one token.
    """
    last = program.steps(packed.in_features) - 1
    integer("row", row, 0, packed.out_features - 1)
    integer("step", step, 0, last)
    return tuple(_loads(packed, lane_blocks(packed, program, row, step, warp), scalar))


def lane_blocks(packed: Packed, program: Program, row: int, step: int, warp: int = 0) -> LaneBlocks:
    """(row, block of 32) of each lane, None past the row's end.

    Thread t of a program has row t // blocks, block t % blocks of the step.
    """
    first = (row % program.block_n) * program.blocks // LANES * LANES + warp * LANES
    blocks_of_lanes: LaneBlocks = []
    for thread in range(first, first + LANES):
        n, block = divmod(thread, program.blocks)
        block += step * program.blocks
        n = min(row - row % program.block_n + n, packed.out_features - 1)  # rows past the end read the last one again
        blocks_of_lanes.append((n, block) if block * BLOCK < packed.in_features else None)
    return blocks_of_lanes


def _loads(packed: Packed, lanes: LaneBlocks, scalar: bool) -> Iterator[Load]:
    def load(what: str, width: int, start) -> Load:
        return Load(what, width, tuple(None if lane_block is None else start(*lane_block) for lane_block in lanes))

    all_blocks = packed.in_features // BLOCK
    row_bytes = packed.in_features * packed.bits // 8
    for plane in range(packed.bits // 4):
        yield load("weights", 16, lambda n, b, plane=plane: n * row_bytes + plane * all_blocks * 16 + b * 16)
    for table in packed.tables:
        count = packed.in_features // table.span

        def start(n: int, b: int, table: MetadataTable = table, count: int = count) -> int:
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
    """The loads summed by array, in their order."""
    by_array: dict[str, Access] = {}
    for load in loads:
        one = Access(load.what, 1, load.bytes, len(load.touched(SECTOR)), len(load.touched(LINE)))
        by_array[load.what] = by_array[load.what] + one if load.what in by_array else one
    return tuple(by_array.values())


def total(items: tuple[Access, ...], what: str = "all") -> Access:
    """The sum of some accesses, under one name."""
    return sum((replace(item, what=what) for item in items), Access(what, 0, 0, 0, 0))


@lru_cache(maxsize=64)
def row_accesses(packed: Packed, program: Program, row: int, scalar: bool = False) -> tuple[Access, ...]:
    """The accesses of a whole row: the loads of its warps in all steps, divided evenly if a warp holds several rows."""
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
