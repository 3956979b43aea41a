"""What the benchmarks of a CPU share: options and clock, points that take turns, and what is written of them."""

from __future__ import annotations

import argparse
import importlib.metadata
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from skiplab.bench.record import FOLDER, interleaved, machine, paired_ratio, table, write

Samples = Mapping[str, list[int]]
"""Of each call its samples in ns."""
OVER = "over: their least time over ours / median of the ratios within one repeat."


@dataclass(frozen=True)
class CpuBenchmark:
    """A benchmark that has begun: its options, its clock, and the machine as its record has it."""

    chosen: argparse.Namespace
    clock: Callable[[], int]
    where: dict[str, Any]

    @classmethod
    def begin(cls, parser: argparse.ArgumentParser, arguments: Sequence[str], *packages: str) -> CpuBenchmark:
        """Read the arguments and set torch's threads. packages: those whose versions the record has, too."""
        parser.add_argument("--threads", type=int)
        parser.add_argument("--cpu-time", action="store_true", help="one thread's time by its clock: for busy machines")
        parser.add_argument("--out", type=Path, default=FOLDER)
        chosen = parser.parse_args(arguments)
        if threads := 1 if chosen.cpu_time else chosen.threads:
            torch.set_num_threads(threads)
        versions = {name: importlib.metadata.version(name) for name in packages}
        return cls(chosen, time.thread_time_ns if chosen.cpu_time else time.perf_counter_ns, machine() | versions)

    def timed(self, prepared: Sequence[tuple[dict, Mapping[str, Callable]]], repeats: int) -> list[dict]:
        """Points with the samples of their calls. All take turns, so that a busy spell affects all of them alike."""
        calls = {(i, name): call for i, (_, some) in enumerate(prepared) for name, call in some.items()}
        samples = interleaved(calls, repeats, self.clock)
        return [
            point | {"samples_ns": {name: samples[i, name] for name in some}}
            for i, (point, some) in enumerate(prepared)
        ]

    def in_turn(self, times: str) -> str:
        """How calls are timed, as a note. times: how often, such as `15 times`."""
        clock = "the thread CPU clock" if self.chosen.cpu_time else "the wall clock"
        return (
            f"Each call timed in turn with the others, {times}, by {clock}: least / median ms; where the median is far "
            "off, the machine was busy with other work."
        )

    def write(
        self, name: str, title: str, head: list[str], rows: Iterable[list[str]], notes: list[str], data: dict
    ) -> None:
        """Write the record; `name` gets an ending where one thread's own clock counted."""
        ending = "_one_thread" if self.chosen.cpu_time else ""
        parts, data = [table(head, list(rows))], {"machine": self.where, **data}
        write(f"{name}{ending}", title, notes, parts, data, self.chosen.out)


def over(samples: Samples, ours: str, others: Iterable[str]) -> list[str]:
    """How many times our time each of the others takes, as `OVER` says."""
    return [
        f"{min(samples[other]) / min(samples[ours]):.2f} / {paired_ratio(samples[other], samples[ours]):.2f}"
        for other in others
    ]
