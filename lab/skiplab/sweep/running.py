"""Runs a sweep: points -> measurements in a run file; an interrupted run continues where it stopped."""

from __future__ import annotations

import os
import platform
import shlex
import sys
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import torch

from skiplab.contenders import contender
from skiplab.contenders.base import is_collecting
from skiplab.contenders.source import source_of, sources_of
from skiplab.machine import Machine, describe, this_machine
from skiplab.measure import Measurement, Point
from skiplab.measure.serving import bars_of_one_process
from skiplab.measure.timing import THROTTLE_RETRIES, Cancelled
from skiplab.paths import runs_directory, slug
from skiplab.provenance import git_state, now, source_hash, triton_version
from skiplab.store import END, Run, RunWriter, file_to_begin, read_run
from skiplab.sweep.grid import AnySweep, usable
from skiplab.sweep.workers import Here, InChild, MeasureSettings, Worker, measured


def run_header(sweep: AnySweep, topic: str, machine: Machine, folder: Path | None = None) -> dict[str, Any]:
    """The header of a run file; without host names and user paths. folder: the run file's, as of `kernels_of`."""
    kernels = kernels_of(sweep, folder or runs_directory())
    identity = describe(sweep.device)
    day = datetime.now(UTC).date().isoformat()
    return {
        "run_id": f"{day}-{slug(identity['name'])}-{slug(topic)}-{uuid.uuid4().hex[:6]}",
        "argv": [Path(sys.argv[0]).name, *(_without_path(word) for word in sys.argv[1:])],
        "operation": sweep.operation, "command": with_origins(sweep.command(), kernels), "seed": sweep.seed,
        "parameters": asdict(cast(Any, sweep)),
        "git": git_state(),
        "source_hash": source_hash(), "python": platform.python_version(), "torch": torch.__version__,
        "triton": triton_version(), "cuda": torch.version.cuda, "device": identity,
        "threads": torch.get_num_threads(), "cpu": describe("cpu")["name"],
        "roof": machine.roof(), "start": now(), **({"kernels": kernels} if kernels else {}),
    }  # fmt: skip


def kernels_of(sweep: AnySweep, folder: Path) -> dict[str, dict[str, str]]:
    """The users' kernels of a sweep: `hash` and `from` of each, by name; {} for one that is made inside a function.

    Those of a notebook are written to `folder`, so that there is a file to name.
    """
    entries = [contender(name, sweep.operation) for name in getattr(sweep, "contenders", ())]
    sources = sources_of(entries)
    for source in sources.values():
        source.keep(folder)
    users = (entry.name for entry in entries if not entry.is_own)
    return {
        name: {"hash": sources[name].hash, "from": sources[name].origin(folder)} if name in sources else {}
        for name in users
    }


def with_origins(command: str, kernels: Mapping[str, Mapping[str, str]]) -> str:
    """The command with `--from` for the files of its kernels."""
    files = dict.fromkeys(one["from"] for one in kernels.values() if one)
    return " ".join([command, *(f"--from {shlex.quote(file)}" for file in files)])


def _without_path(word: str) -> str:
    return Path(word).name if os.sep in word else word


def default_path(sweep: AnySweep, topic: str) -> Path:
    """`<date>-<device>-<topic>-<parameters>.jsonl` in `runs_directory()`: the same sweep has a name a day."""
    day = datetime.now(UTC).date().isoformat()
    device = slug(describe(sweep.device)["name"])
    return runs_directory() / f"{day}-{device}-{slug(topic)}-{sweep.key}.jsonl"


def run_sweep(
    sweep: AnySweep,
    path: Path | str | None = None,
    *,
    topic: str | None = None,
    on_start: Callable[[Run], None] | None = None,
    on_point: Callable[[Point], None] = lambda point: None,
    on_measurement: Callable[[Measurement], None] | None = None,
    cancelled: Callable[[], bool] = lambda: False,
    progress: bool = True,
    isolate: bool = True,
    again: Collection[str] = (),
    retries: int = THROTTLE_RETRIES,
    devices: Sequence[str] = (),
    anew: bool = False,
    say: Callable[[str], None] = print,
) -> Run:
    """Measure every point that the run file does not hold yet, and return the run.

    ValueError, and the file stays as it is, where it is no run, one of other parameters, or being written by another.
    When cancelled, or interrupted by Ctrl-C, it keeps what was measured and notes that; the same call continues.

    path: the JSONL file, continued if it exists; None is `default_path` with the topic (default: the operation).
    on_start: called with the run in the file, once that is repaired, before the first point is measured.
    on_point: called with each point before it is measured.
    on_measurement: called after each row is on the disk.
    cancelled: asked several times a second; what has been measured is kept.
    isolate: measure in a child process, which a crash or a timeout ends; without it everything happens in this one.
    again: statuses and flags (`crashed`, `busy`) whose points are measured once more; a point's later row counts.
    retries: how often the samples of a throttled GPU are taken again, after a pause.
    anew: measure again, beside a file whose run is finished (`store.file_to_begin`); `say` is told of which file.
    devices: those that measure side by side, all of one kind and name; by default the sweep's own alone. A row says
        which one it is of; the points of one workload are measured on one.
    """
    from tqdm.auto import tqdm

    if is_collecting():
        raise ValueError(
            "sweep: is called by a file that is being read for its kernels; above the call this line is missing: "
            'if __name__ == "__main__":'
        )
    bars_of_one_process()
    topic = topic or sweep.operation
    path = Path(path) if path is not None else default_path(sweep, topic)
    devices = tuple(devices) or (sweep.device,)
    _check_devices(sweep, devices, isolate)
    points = sweep.points()  # before there is a file: a sweep that cannot be leaves none
    machine = this_machine(sweep.device, sweep.dtype)
    header = run_header(sweep, topic, machine, path.parent)
    if anew:
        path, which = file_to_begin(path, header)
        if which:
            say(which)
    with RunWriter(path, header) as writer:
        if on_start is not None:
            on_start(writer.run)
        settled = writer.settled(again)
        points = [point for point in points if row_key(point) not in settled]
        settings = MeasureSettings(sweep.seed, sweep.budget_s, {"machine": machine, "retries": retries})
        workers: list[Worker] = [(InChild if isolate else Here)(device, settings) for device in devices]
        bar = tqdm(total=len(points), unit="point", disable=not progress, desc="measured")

        def starting(point: Point) -> None:
            bar.set_postfix_str(f"{point.contender}, {point.workload.size}", refresh=True)
            on_point(point)

        with ending(writer), bar, closing(measured(points, workers, cancelled, starting)) as measurements:
            for taken in measurements:
                writer.append(row_of(taken))
                bar.update()
                if on_measurement is not None:
                    on_measurement(taken)
        return writer.run


def appended(path: Path, rows: Iterable[Mapping[str, Any]]) -> Run:
    """The run with rows that somebody else measured on the same device, each once, behind an end of its own.

    ValueError, and the file stays as it is, for a row of another device.
    """
    header = {name: value for name, value in read_run(path).header.items() if name not in END}
    with RunWriter(path, header) as writer:
        settled = writer.settled()
        for row in rows:
            if row["key"] not in settled:
                writer.append(row)
        return writer.finish(now())


def _check_devices(sweep: AnySweep, devices: Sequence[str], isolate: bool) -> None:
    """ValueError for devices that are missing, or whose rows cannot be in one run."""
    for device in devices:
        if not usable(device):
            raise ValueError(f"device: torch sees no {device} here; cpu is always there")
    if len(devices) > 1 and not isolate:
        raise ValueError(
            f"devices: got {', '.join(devices)} with isolate=False; in this process there is one at a time"
        )
    gpus = [device for device in devices if device != "cpu"]
    if twice := [device for device in gpus if gpus.count(device) > 1]:
        raise ValueError(f"devices: {twice[0]} is there twice; each GPU measures one point at a time")
    names = {device: describe(device)["name"] for device in devices}
    own = describe(sweep.device)["name"]
    if other := [f"{device} is {name}" for device, name in names.items() if name != own]:
        raise ValueError(
            f"devices: {other[0]}, and the sweep's {sweep.device} is {own}; a run is of one kind of device"
        )


@contextmanager
def ending(writer: RunWriter) -> Iterator[None]:
    """Notes the run's end when the block is left; as interrupted after Cancelled, which it swallows, or Ctrl-C."""
    try:
        yield
    except Cancelled:
        writer.finish(now(), interrupted=True)
    except KeyboardInterrupt:
        writer.finish(now(), interrupted=True)
        raise
    else:
        writer.finish(now())


def row_of(taken: Measurement) -> dict[str, Any]:
    """A measurement's row, with the key and the hashes of what it measured."""
    kernel = kernel_hash(taken.point)
    hashes = {"source_hash": source_hash(), **({"kernel_hash": kernel} if kernel else {})}
    return {**taken.row(), "key": row_key(taken.point), **hashes}


def row_key(point: Point) -> str:
    """The key by which resuming finds a row: point and kernel sources (device and versions are in the header)."""
    kernel = kernel_hash(point)
    return f"{point.key} | {source_hash()}" + (f" | {kernel}" if kernel else "")


def kernel_hash(point: Point) -> str:
    """The hash of a user's kernel; '' for the lab's own, and for one without a source."""
    source = source_of(contender(point.contender, point.workload.operation))
    return "" if source is None else source.hash
