"""Compute capabilities as people write them, and what a multiprocessor of each can hold."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_TEXT = re.compile(r"(?:(?:sm|compute)_?)?(?:(\d{1,2})\.(\d)|(\d{1,2})(\d))[af]?", re.IGNORECASE)
REGISTERS = 64 << 10


@dataclass(frozen=True)
class Multiprocessor:
    """What one multiprocessor of a compute capability holds at once: warps, blocks, registers, shared memory in bytes.

    reserved_bytes: shared memory that the system takes of each block.
    """

    warps: int
    blocks: int
    shared_bytes: int
    reserved_bytes: int = 1 << 10
    registers: int = REGISTERS


MULTIPROCESSORS = {
    (7, 5): Multiprocessor(32, 16, 64 << 10, 0),
    (8, 0): Multiprocessor(64, 32, 164 << 10),
    (8, 6): Multiprocessor(48, 16, 100 << 10),
    (8, 7): Multiprocessor(48, 16, 164 << 10),
    (8, 9): Multiprocessor(48, 24, 100 << 10),
    (9, 0): Multiprocessor(64, 32, 228 << 10),
    (10, 0): Multiprocessor(64, 32, 228 << 10),
    (10, 3): Multiprocessor(64, 32, 228 << 10),
    (12, 0): Multiprocessor(48, 24, 100 << 10),
    (12, 1): Multiprocessor(48, 24, 100 << 10),
}
"""By NVIDIA's CUDA programming guide, "Technical specifications per compute capability"."""


def capability_of(arch: str | float | Sequence[int]) -> tuple[int, int]:
    """(major, minor) of what names a compute capability: "sm_90", "9.0" or (9, 0), and "sm_90a", "90", 9.0, 90.

    ValueError for what names none.
    """
    found = _parsed(arch)
    if found is None:
        raise ValueError(f'arch: got {arch!r}; allowed are names as "sm_90", "9.0" and (9, 0)')
    return found


def compilable_capability(arch: Any) -> tuple[int, int]:
    """As `capability_of`; ValueError also for one that `MULTIPROCESSORS` does not know."""
    found = capability_of(arch)
    if found not in MULTIPROCESSORS:
        known = ", ".join(map(sm_name, MULTIPROCESSORS))
        raise ValueError(f'arch: got {arch!r}; allowed are {known}, also written as "9.0" or (9, 0)')
    return found


def sm_name(capability: tuple[int, int]) -> str:
    """As compilers write it: sm_90."""
    return f"sm_{capability[0]}{capability[1]}"


def _parsed(arch: Any) -> tuple[int, int] | None:
    if isinstance(arch, str | int | float):
        match = _TEXT.fullmatch(str(arch).strip())
        return (int(match[1] or match[3]), int(match[2] or match[4])) if match else None
    try:
        major, minor = arch
        return int(major), int(minor)
    except (TypeError, ValueError):
        return None
