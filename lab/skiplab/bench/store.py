"""How long it takes to read a large run file and to make its frame, and how much memory.

    skiplab bench store [--rows 100000] [--repeats 5]

The run is made of random numbers, in the rows that a CPU sweep writes. Times and memory are of fresh processes, the
the memory of imports included; CPU time beside wall-clock time shows how much other programs interfered.
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from skiplab.bench.record import FOLDER, machine, options, table, write
from skiplab.measure import Measurement, Point, WorkDone
from skiplab.store import SCHEMA, read_run
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


def once(path: Path) -> dict[str, float]:
    """Seconds to read and to frame, by the wall clock and of this process, and its greatest memory in MB."""
    clocks = [(time.perf_counter(), time.process_time())]
    run = read_run(path)
    clocks.append((time.perf_counter(), time.process_time()))
    run.frame()
    clocks.append((time.perf_counter(), time.process_time()))
    (read, read_own), (framed, framed_own) = (np.subtract(clocks[i + 1], clocks[i]).tolist() for i in range(2))
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024 / 1e6
    return {"read_s": read, "frame_s": framed, "read_cpu_s": read_own, "frame_cpu_s": framed_own, "peak_mb": peak}


def main(arguments: Sequence[str]) -> None:
    parser = options("store", __doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=FOLDER)
    chosen = parser.parse_args(arguments)
    where = machine()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.jsonl"
        random_run(path, chosen.rows)
        size_mb = path.stat().st_size / 1e6
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as children:
            repeats = [children.apply(once, (path,)) for _ in range(chosen.repeats)]
    medians = {name: statistics.median(one[name] for one in repeats) for name in repeats[0]}
    line = [f"{chosen.rows:,}", f"{size_mb:.0f}", *(f"{medians[name]:.2f} / {medians[cpu]:.2f}" for name, cpu in
            (("read_s", "read_cpu_s"), ("frame_s", "frame_cpu_s"))), f"{medians['peak_mb']:.0f}"]  # fmt: skip
    head = ["rows", "MB", "read s (wall / CPU)", "frame s (wall / CPU)", "peak MB"]
    notes = [
        f"Medians of {chosen.repeats} fresh processes. Asked for, of 100,000 rows: read and frame under {LIMIT_S:g} s "
        f"together, and {LIMIT_MB} MB, imports included.",
    ]
    data = {"machine": where, "rows": chosen.rows, "size_mb": size_mb, "runs": repeats}
    write("store", "Reading a run", notes, [table(head, [line])], data, chosen.out)
