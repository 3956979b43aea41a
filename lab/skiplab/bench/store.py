"""How long it takes to read a large run file, to ask it, to compare it and to make its page, and how much memory.

    skiplab bench store [--rows 100000] [--repeats 5]

The run is made of random numbers, in the rows that a CPU sweep writes. Times and memory are of fresh processes, the
memory of imports included; CPU time beside wall-clock time shows how much other programs interfered.
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from skiplab.bench.record import FOLDER, machine, options, table, write
from skiplab.measure import Measurement, Point, WorkDone
from skiplab.store import SCHEMA, query, read_run
from skiplab.workload import Workload

SAMPLES = (10, 80)
LIMIT_S, LIMIT_MB = 2.0, 500


def random_run(path: Path, rows: int, seed: int = 0) -> None:
    """A run file of so many rows, each of another point; its samples are log-normal around a time of its own."""
    rng = np.random.default_rng(seed)
    device = {"name": "a CPU", "kind": "cpu"}
    roof = {"bandwidth_gbps": 20.0, "tflops": 0.5}
    header = {"record": "header", "schema": SCHEMA, "run_id": "random", "operation": "attention", "device": device,
              "roof": roof}  # fmt: skip
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps(header) + "\n")
        for number in range(rows):
            count = int(rng.integers(*SAMPLES))
            samples = (rng.lognormal(15, 1) * rng.lognormal(0, 0.05, count)).astype(int).tolist()
            file.write(json.dumps({"record": "point", **_row(number, samples)}) + "\n")


def _row(number: int, samples: list[int]) -> dict:
    contender = ("blockskip", "sdpa", "sdpa-causal", "flex")[number % 4]
    flops = 1_000_003 * (number + 1)
    return Measurement(
        Point(Workload(number // 4 + 1), contender), "ok", "", 1.25e-3, 7.5e-3, "cpu", tuple(samples),
        flags=("busy",) * (number % 3 == 0), work=WorkDone(flops, 2 * flops, 4 * flops, flops, flops),
        clocks={"others_share": 0.004}, device_name="a CPU",
        plan={"impl": "tiled", "skip": "map", "config": [128, 64, 4, 2], "packed": False, "origin": "table"},
    ).row() | {"source_hash": "0123456789ab"}  # fmt: skip


def reading(path: Path) -> Iterator[None]:
    """A run as a frame."""
    run = read_run(path)
    yield
    run.frame()
    yield


def asking(path: Path) -> Iterator[None]:
    """A question in SQL to the file."""
    query(path, "SELECT contender, median(median_ms) FROM points WHERE status = 'ok' GROUP BY contender")
    yield


def comparing(path: Path) -> Iterator[None]:
    """The file with itself, an interval for each point."""
    from skiplab.compare import compare  # here and below: what reads a frame alone does not need its memory

    run = read_run(path)
    yield
    compare(run, run)
    yield


def showing(path: Path) -> Iterator[None]:
    """The page of two runs."""
    from skiplab.report import write_report

    run = read_run(path)
    yield
    write_report([run, run], path.with_suffix(".html"))
    yield


STEPS: Mapping[str, tuple[Callable[[Path], Iterator[None]], tuple[str, ...]]] = {
    "frame": (reading, ("read", "frame")), "query": (asking, ("query",)), "compare": (comparing, ("read", "compare")),
    "page": (showing, ("read", "page")),
}  # fmt: skip
"""What is timed, each in a process of its own, and the names of its steps."""


def once(path: Path, name: str) -> dict[str, float]:
    """Seconds of each step, by the wall clock and of this process, and its greatest memory in MB."""
    work, steps = STEPS[name]
    clocks = [(time.perf_counter(), time.process_time())]
    for _ in work(path):
        clocks.append((time.perf_counter(), time.process_time()))
    found = {}
    for step, (before, after) in zip(steps, pairwise(clocks), strict=True):
        found[f"{step}_s"], found[f"{step}_cpu_s"] = np.subtract(after, before).tolist()
    status = Path("/proc/self/status").read_text().splitlines()
    return {**found, "peak_mb": next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024 / 1e6}


def main(arguments: Sequence[str]) -> None:
    parser = options("store", __doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=FOLDER)
    chosen = parser.parse_args(arguments)
    where, lines, data = machine(), [], {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.jsonl"
        random_run(path, chosen.rows)
        size_mb = path.stat().st_size / 1e6
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as children:
            for name, (_, steps) in STEPS.items():
                data[name] = [children.apply(once, (path, name)) for _ in range(chosen.repeats)]
                lines.append(_line(name, steps, data[name]))
        page_mb = path.with_suffix(".html").stat().st_size / 1e6
    notes = [
        f"A file of {chosen.rows:,} rows, {size_mb:.0f} MB; its page has {page_mb:.0f} MB. Medians of {chosen.repeats} "
        f"fresh processes. Asked for, of 100,000 rows: read and frame under {LIMIT_S:g} s together, and {LIMIT_MB} MB, "
        "imports included.",
        "compare and page: of the file with itself, an interval for each point.",
    ]
    record = {"machine": where, "rows": chosen.rows, "size_mb": size_mb, "page_mb": page_mb, "runs": data}
    write("store", "Reading runs", notes, [table(["what", "s (wall / CPU)", "peak MB"], lines)], record, chosen.out)


def _line(name: str, steps: Sequence[str], repeats: Sequence[Mapping[str, float]]) -> list[str]:
    medians = {key: statistics.median(one[key] for one in repeats) for key in repeats[0]}
    times = "; ".join(f"{step} {medians[f'{step}_s']:.2f} / {medians[f'{step}_cpu_s']:.2f}" for step in steps)
    return [name, times, f"{medians['peak_mb']:.0f}"]
