"""What a kernel's programs did, step by step: the values that a recording consists of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import blockskip as bs
import numpy as np

MASKED, UNMASKED, LEFT_OUT = "masked", "unmasked", "left out"


@dataclass(frozen=True)
class TensorLoad:
    """A load of rows first .. last of a tensor (q, k, v, or another argument), and how many numbers it read."""

    tensor: str
    first: int
    last: int
    numbers: int

    def __str__(self) -> str:
        return f"{self.tensor} rows {self.first:,}–{self.last:,} ({self.numbers:,} numbers)"


@dataclass(frozen=True)
class TileStep:
    """One tile of a program: its keys, whether the mask was applied ('' if the kernel does not say), what was loaded.

    row_max, row_sum: the running state of each of the program's rows after it; () if the kernel keeps none by a name
    that is watched.
    """

    first_key: int
    last_key: int
    kind: str
    loads: tuple[TensorLoad, ...]
    row_max: tuple[float, ...] = ()
    row_sum: tuple[float, ...] = ()


@dataclass(frozen=True)
class RecordedProgram:
    """One program of the launch: its place in the grid, the queries that it read, its steps in order."""

    index: tuple[int, int, int]
    first_query: int
    last_query: int
    steps: tuple[TileStep, ...]


@dataclass(frozen=True)
class Replay:
    """A recorded launch over a mask's tile map, in the order in which the interpreter ran its programs.

    label: the kernel's; source: what recorded it.
    """

    tilemap: bs.TileMap
    programs: tuple[RecordedProgram, ...]
    label: str
    source: str

    @property
    def says_mask(self) -> bool:
        """Whether the kernel says where it applies the mask: ours does."""
        return any(step.kind for program in self.programs for step in program.steps)

    @cached_property
    def visits(self) -> np.ndarray:
        """uint8 [rows, cols]: tiles that no program visited (0), those with the mask, or of a kernel
        that does not say (1), those without (2)."""
        seen = np.zeros((self.tilemap.rows, self.tilemap.cols), np.uint8)
        for program in self.programs:
            for step in program.steps:
                for row, col in self.tiles(program, step):
                    seen[row, col] = 2 if step.kind == UNMASKED else 1
        return seen

    def tiles(self, program: RecordedProgram, step: TileStep) -> list[tuple[int, int]]:
        """The tiles of the map that a step covers."""
        m, n = self.tilemap.block_m, self.tilemap.block_n
        rows = range(program.first_query // m, program.last_query // m + 1)
        cols = range(step.first_key // n, step.last_key // n + 1)
        return [(row, col) for row in rows for col in cols]

    @cached_property
    def places(self) -> tuple[tuple[int, int], ...]:
        """(program, step) of all steps, in the order in which they were recorded."""
        return tuple((p, s) for p, program in enumerate(self.programs) for s in range(len(program.steps)))

    def told(self, program: int, step: int) -> str:
        """A step in words; step -1 is the program's beginning."""
        one = self.programs[program]
        queries = f"queries {one.first_query:,}–{one.last_query:,}"
        head = f"Program {program + 1:,} of {len(self.programs):,} {one.index}, {queries}"
        if step < 0:
            return f"{head}: {len(one.steps):,} tile{'s' * (len(one.steps) != 1)} to come."
        now = one.steps[step]
        kind = f", {now.kind}" if now.kind else ""
        loads = "; ".join(map(str, now.loads)) or "nothing"
        return (
            f"{head}. Step {step + 1:,} of {len(one.steps):,}: keys {now.first_key:,}–{now.last_key:,}{kind}. "
            f"Loaded: {loads}."
        )


def replay_of(record: Mapping[str, Any], tilemap: bs.TileMap) -> Replay:
    """The replay that a recording process tells (`recorder.py`)."""
    programs = tuple(
        RecordedProgram(tuple(one["index"]), one["first"], one["last"], tuple(_step(step) for step in one["steps"]))
        for one in record["programs"]
    )
    return Replay(tilemap, programs, record["label"], record["source"])


def _step(told: Mapping[str, Any]) -> TileStep:
    loads = tuple(TensorLoad(*load) for load in told["loads"])
    return TileStep(told["first"], told["last"], told["kind"], loads, _numbers(told["max"]), _numbers(told["sum"]))


def _numbers(told: Sequence[float | None]) -> tuple[float, ...]:
    """JSON has no infinity: None is that of a row that has seen no key."""
    return tuple(float("-inf") if one is None else one for one in told)
