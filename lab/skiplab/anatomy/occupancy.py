"""How many blocks of a kernel a multiprocessor holds at once, and what limits them."""

from __future__ import annotations

from dataclasses import dataclass

from skiplab.machine.capability import MULTIPROCESSORS, REGISTERS, sm_name
from skiplab.text import percent

WARP = 32
REGISTER_UNIT = 256
"""Registers are handed to a warp in so many."""
SHARED_UNIT = 128
"""Bytes in which shared memory is handed to a block."""


@dataclass(frozen=True)
class Occupancy:
    """Blocks of `warps` warps that a multiprocessor holds, by each resource alone; the least of them counts."""

    capability: tuple[int, int]
    warps: int
    by_resource: tuple[tuple[str, int], ...]

    @property
    def blocks(self) -> int:
        return min(count for _, count in self.by_resource)

    @property
    def limits(self) -> tuple[str, ...]:
        """The resources that allow no more blocks: warps, blocks, registers, shared memory."""
        return tuple(name for name, count in self.by_resource if count == self.blocks)

    @property
    def share(self) -> float:
        """Resident warps, of those that the multiprocessor could hold."""
        return self.blocks * self.warps / MULTIPROCESSORS[self.capability].warps

    def __str__(self) -> str:
        if not self.blocks:
            return (
                f"does not fit a multiprocessor of {sm_name(self.capability)}: too much of {' and '.join(self.limits)}"
            )
        blocks, warps = (f"{n} {word}{'s' * (n != 1)}" for n, word in ((self.blocks, "block"), (self.warps, "warp")))
        return (
            f"{blocks} of {warps} on a multiprocessor, {percent(self.share)} of its warps; "
            f"limited by {' and '.join(self.limits)}"
        )


def occupancy_of(capability: tuple[int, int], threads: int, registers: int, shared_bytes: int) -> Occupancy:
    """The occupancy of blocks of so many threads, registers a thread, and bytes of shared memory a block."""
    sm = MULTIPROCESSORS[capability]
    warps = -(-threads // WARP)
    per_warp = _rounded(max(registers, 1) * WARP, REGISTER_UNIT)
    # warps live in four quarters, each with a quarter of the registers
    resident = 4 * (REGISTERS // 4 // per_warp)
    per_block = _rounded(shared_bytes, SHARED_UNIT) + sm.reserved_bytes
    return Occupancy(
        capability,
        warps,
        (
            ("warps", sm.warps // warps),
            ("blocks", sm.blocks),
            ("registers", resident // warps),
            ("shared memory", sm.shared_bytes // per_block if per_block else sm.blocks),
        ),
    )


def _rounded(count: int, unit: int) -> int:
    return -(-count // unit) * unit
