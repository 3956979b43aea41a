"""What the benchmarks share: what the machine is, interleaved timing, and the record that each leaves."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from skiplab.paths import data_path, installed
from skiplab.text import counted, digits, separated

FOLDER = Path("benchmarks") if installed() else data_path("benchmarks")


def options(name: str, what: str | None) -> argparse.ArgumentParser:
    """The argument parser of a benchmark's own options."""
    return argparse.ArgumentParser(
        f"skiplab bench {name}", description=what, formatter_class=argparse.RawDescriptionHelpFormatter
    )


class Listed(argparse.Action):
    """A list option: values with commas or blanks between, each of the option's `type` and among its `choices`."""

    def __init__(
        self, option_strings: Sequence[str], dest: str, *, type: Callable[[str], Any] = str,
        choices: Collection[Any] = (), **rest: Any,
    ) -> None:  # fmt: skip
        among = f"{{{','.join(map(str, choices))}}}" if choices else "A,B,..."
        super().__init__(option_strings, dest, nargs="+", metavar=among, **rest)
        self.of, self.allowed = type, choices

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option_string: Any = None) -> None:
        found = []
        for text in values:
            try:
                found += [self.of(word) for word in separated(text)]
            except ValueError:
                raise argparse.ArgumentError(
                    self, f"invalid {getattr(self.of, '__name__', '')} value: {text!r}"
                ) from None
        for value in found:
            if self.allowed and value not in self.allowed:
                raise argparse.ArgumentError(self, f"got {value!r}; allowed are {', '.join(map(str, self.allowed))}")
        setattr(namespace, self.dest, found)


def machine() -> dict:
    """Processor, threads and versions; no host name. `load` is the one-minute load average when asked."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux on x86: what `platform` says stands
    return {
        "cpu": model,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "bf16_products": torch.cpu._is_avx512_bf16_supported(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "date": datetime.date.today().isoformat(),
        "load": round(os.getloadavg()[0], 2),
    }


def interleaved(calls: dict[Any, Callable], repeats: int, clock: Callable[[], int] = time.perf_counter_ns) -> dict:
    """Samples in ns of each call, taken alternately, so that a slow spell affects all calls alike. One warm-up each."""
    for call in calls.values():
        call()
    samples: dict[Any, list[int]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = clock()
            call()
            samples[name].append(clock() - start)
    return samples


def paired_ratio(slow: list[int], fast: list[int]) -> float:
    """Median over the repeats of one call's time over another's in the same repeat."""
    return statistics.median(s / f for s, f in zip(slow, fast, strict=True))


def least_and_median(samples_ns: list[int]) -> str:
    """`1.29 / 1.31`, in milliseconds."""
    return f"{digits(min(samples_ns) / 1e6)} / {digits(statistics.median(samples_ns) / 1e6)}"


def table(head: list[str], rows: list[list]) -> str:
    cells = [head, *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = ["| " + " | ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (w + 1) + ":" for w in widths) + "|")
    return "\n".join(lines)


def write(name: str, title: str, notes: list[str], parts: list[str], data: dict, out: Path = FOLDER) -> None:
    """Prints the tables and writes <name>.md and <name>.json."""
    where = data["machine"]
    processor, device = where["cpu"], where.get("device", where["cpu"])
    measured = (
        f"Measured on {processor if device == processor else f'{device}, beside {processor}'} "
        f"({where['instructions']}, {where['cores']} cores, "
        f"{counted(where['threads'], 'thread')}), torch {where['torch']}, numpy {where['numpy']}, Python "
        f"{where['python']}, {where['date']}; load average at the start {where['load']}."
    )
    text = "\n\n".join([f"# {title}", measured, *parts, "\n".join(f"- {note}" for note in notes)]) + "\n"
    print(text)
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.md").write_text(text)
    (out / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n")
