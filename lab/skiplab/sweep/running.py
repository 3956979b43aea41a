"""Runs a sweep: points -> measurements in a run file; an interrupted run continues where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from skiplab.contenders.base import is_collecting
from skiplab.machine import Machine, default_device, describe, this_machine
from skiplab.measure import Measurement, Point
from skiplab.measure.point import OTHER_DEVICE
from skiplab.measure.serving import bars_of_one_process
from skiplab.measure.timing import THROTTLE_RETRIES, Cancelled
from skiplab.paths import unused
from skiplab.provenance import now, source_hash
from skiplab.store import END, Run, RunWriter, file_to_begin, read_run
from skiplab.store.keys import without_index
from skiplab.sweep.grid import AnySweep, usable
from skiplab.sweep.header import Site, default_path, run_header, site_of
from skiplab.sweep.kernels import kernel_hash
from skiplab.sweep.progress import Progress
from skiplab.sweep.schedule import Dispatch, Home, home_of, measured
from skiplab.sweep.workers import Here, InChild, MeasureSettings, Worker


class SweepRunner(Protocol):
    """Where a sweep is measured: devices of one kind and name, with a worker each; `site`: what a header says of it."""

    site: Site

    def machine(self, dtype: str) -> Machine:
        """One of the devices, with its measured roofs."""
        ...

    def workers(self, settings: MeasureSettings) -> Sequence[Worker]:
        """A worker for each device; whoever measures with them closes them."""
        ...

    def close(self) -> None:
        """Release what is not a worker's."""
        ...


class Local:
    """Devices of this machine, each with a child process, or the one device in this process."""

    def __init__(self, own: str, devices: Sequence[str], isolate: bool):
        self._devices, self._isolate = tuple(devices) or (own,), isolate
        _check_devices(own, self._devices, isolate)
        self.site = site_of(self._devices[0])

    def machine(self, dtype: str) -> Machine:
        return this_machine(self._devices[0], dtype)

    def workers(self, settings: MeasureSettings) -> Sequence[Worker]:
        return [(InChild if self._isolate else Here)(device, settings) for device in self._devices]

    def close(self) -> None:
        """Nothing to release."""


@contextmanager
def opened(
    sweep: AnySweep,
    devices: Sequence[str],
    cluster: str | None,
    gpu: str | None,
    isolate: bool,
    say: Callable[[str], None],
) -> Iterator[SweepRunner]:
    """The runner for a sweep, closed when the block is left; ValueError where the options do not fit each other."""
    if cluster is None:
        if gpu is not None:
            raise ValueError(f"gpu: got {gpu!r} without a cluster; it chooses among the GPUs of one")
        runner: SweepRunner = Local(sweep.device, devices, isolate)
    else:
        if devices or not isolate:
            other = f"devices {', '.join(devices)}" if devices else "isolate=False"
            raise ValueError(f"cluster: got {cluster} beside {other}; its workers measure in child processes of theirs")
        from skiplab.sweep.cluster import Cluster

        runner = Cluster(cluster, sweep.device, gpu, say)
    try:
        yield runner
    finally:
        runner.close()


@dataclass(frozen=True)
class Where:
    """Where to measure: `device` names the sweep; several devices of this machine, or a cluster, if given."""

    device: str
    devices: tuple[str, ...] = ()
    cluster: str | None = None
    gpu: str | None = None

    @property
    def options(self) -> dict[str, Any]:
        """As `run_sweep` takes it."""
        return {"devices": self.devices, "cluster": self.cluster, "gpu": self.gpu}


def own_device(device: str | None, devices: Sequence[str] = (), cluster: str | None = None, dash: str = "") -> str:
    """The device that a sweep is named after: as given, the first of several, `cuda` of a cluster, else the default.

    ValueError for several devices beside another choice; dash: what stands before options' names in it.
    """
    other = f"device {device}" if device is not None else f"cluster {cluster}" if cluster is not None else None
    if devices and other:
        raise ValueError(f"{dash}devices: got {','.join(devices)} beside {dash}{other}; give one of them")
    return device or (devices[0] if devices else "cuda" if cluster is not None else default_device())


def run_sweep(
    sweep: AnySweep,
    path: Path | str | None = None,
    *,
    topic: str | None = None,
    folder: Path | None = None,
    fresh: bool = False,
    on_start: Callable[[Run], None] | None = None,
    on_measurement: Callable[[Measurement], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    cancelled: Callable[[], bool] = lambda: False,
    progress: bool = True,
    isolate: bool = True,
    again: Collection[str] = (),
    retries: int = THROTTLE_RETRIES,
    devices: Sequence[str] = (),
    cluster: str | None = None,
    gpu: str | None = None,
    anew: bool = False,
    say: Callable[[str], None] = print,
    as_row: Callable[[Measurement], dict[str, Any]] | None = None,
) -> Run:
    """Measure every point that the run file does not hold yet, and return the run.

    ValueError, and the file stays as it is, where it is no run, one of other parameters, or being written by another.
    When cancelled, or interrupted by Ctrl-C, it keeps what was measured and notes that; the same call continues.
    Of a sweep that interleaves the points of a workload are timed in turn, those that are left of it.

    path: the JSONL file, continued if it exists; None is `default_path` with the topic (default: the operation), in
        this folder (default: that of the user's runs); with `fresh` a file that is not there yet.
    on_start: called with the run in the file, once that is repaired, before the first point is measured.
    on_measurement: called after each row is on the disk.
    on_progress: called when a device begins points, and when it has measured one.
    cancelled: asked several times a second; what has been measured is kept.
    isolate: measure in a child process, which a crash or a timeout ends; without it everything happens in this one.
    again: statuses and flags (`crashed`, `busy`) whose points are measured once more; a point's later row counts.
    retries: how often the samples of a throttled GPU are taken again, after a pause.
    devices: those that measure side by side, all of one kind and name; by default the sweep's own alone. A row says
        which one it is of; the points of one workload are measured on one. A point whose worker is lost is measured by
        another one, and flagged where others of its workload are of another device.
    cluster: a Ray cluster that measures instead, `auto` or ray://host:10001, on all of its GPUs that are free (or on
        its CPUs, by the sweep's device); its nodes have the same skiplab. gpu: of GPUs of several names those that have
        this text in theirs.
    anew: measure again, beside a file whose run is finished (`store.file_to_begin`); `say` is told of which file, and
        of workers that are lost.
    as_row: makes a measurement's row; `row_of` by default.
    """
    if is_collecting():
        raise ValueError(
            "sweep: is called by a file that is being read for its kernels; above the call this line is missing: "
            'if __name__ == "__main__":'
        )
    points = sweep.points()  # before there is a file: a sweep that cannot be leaves none
    topic = topic or sweep.operation
    with opened(sweep, devices, cluster, gpu, isolate, say) as runner:
        machine = runner.machine(sweep.dtype)
        beside = Path(path).parent if path is not None else folder
        header = run_header(sweep, topic, machine, runner.site, beside)
        if path is None:
            path = default_path(sweep, topic, runner.site, folder)
            path = unused(path) if fresh else path
        if anew:
            path, which = file_to_begin(Path(path), header)
            if which:
                say(which)
        with RunWriter(path, header) as writer:
            if on_start is not None:
                on_start(writer.run)
            settled = writer.settled(again)
            homes = _homes(writer.run, points)
            left = [point for point in points if row_key(point) not in settled]
            settings = MeasureSettings(sweep.seed, sweep.budget_s, retries, machine)
            shown = _Shown(len(left), progress, on_progress)
            if sweep.interleave and (apart := _apart(points, left)):
                say(f"workloads with rows from before: {apart}; their other contenders are timed in turn without those")
            workers = runner.workers(settings)
            dispatch = Dispatch(left, workers, cancelled, shown.begun, say, homes, bool(sweep.interleave))
            with ending(writer), shown.bar, closing(measured(dispatch)) as measurements:
                for taken in measurements:
                    writer.append((as_row or row_of)(_placed(taken, runner.site, homes)))
                    shown.ended(taken)
                    if on_measurement is not None:
                        on_measurement(taken)
            return writer.run


class _Shown:
    """The progress as a bar in the terminal or the notebook, and as `on_progress` is told it."""

    def __init__(self, total: int, visible: bool, on_progress: Callable[[Progress], None] | None):
        from tqdm.auto import tqdm

        bars_of_one_process()
        self.bar = tqdm(total=total, unit="point", disable=not visible, desc="measured")
        self._now, self._heard = Progress(total), on_progress or (lambda progress: None)
        self._names: dict[Worker, str] = {}
        self._at: dict[str, str] = {}

    def begun(self, worker: Worker, points: Sequence[Point]) -> None:
        name = self._names.setdefault(worker, self._free_name(worker))
        self._at |= {point.key: name for point in points}
        self._now = self._now.begun(name, [replace(point, device="") for point in points])
        self.bar.set_postfix_str(str(self._now), refresh=True)
        self._heard(self._now)

    def ended(self, taken: Measurement) -> None:
        self._now = self._now.ended(self._at.pop(taken.point.key), replace(taken.point, device=""))
        self.bar.update()
        self._heard(self._now)

    def _free_name(self, worker: Worker) -> str:
        """The worker's device; `cpu #2` for the second one on a CPU."""
        name = f"{worker.device} of {worker.node}" if worker.node else worker.device
        count = sum(other.partition(" #")[0] == name for other in self._names.values())
        return f"{name} #{count + 1}" if count else name


def _apart(points: Sequence[Point], left: Sequence[Point]) -> int:
    """How many workloads have both points that are left and some that are not."""
    waiting = {point.key for point in left}
    begun = {point.workload.key() for point in points if point.key not in waiting}
    return len(begun & {point.workload.key() for point in left})


def _homes(run: Run, points: Iterable[Point]) -> dict[str, Home]:
    """By a workload's key the device on which the run's first points of it were measured."""
    workloads = {point.key: point.workload.key() for point in points}
    homes: dict[str, Home] = {}
    for row in run.rows:
        workload = workloads.get(without_index(row["point"]))
        if workload is not None and row["status"] == "ok" and OTHER_DEVICE not in row.get("flags", ()):
            homes.setdefault(workload, home_of(row.get("torch_device", ""), row.get("node", "")))
    return homes


def _placed(taken: Measurement, site: Site, homes: dict[str, Home]) -> Measurement:
    """With its device's name; flagged if the workload's first points were measured on another device."""
    home = home_of(taken.point.device, taken.node)
    if taken.status == "ok" and homes.setdefault(taken.point.workload.key(), home) != home:
        taken = replace(taken, flags=(*taken.flags, OTHER_DEVICE))
    return replace(taken, device_name=taken.device_name or site.device["name"])


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


def _check_devices(own: str, devices: Sequence[str], isolate: bool) -> None:
    """ValueError for devices that are missing, or whose rows cannot be in one run."""
    for device in devices:
        if not usable(device):
            raise ValueError(f"device: torch sees no {device} here; cpu is always there")
    if len(devices) > 1 and not isolate:
        raise ValueError(
            f"devices: got {', '.join(devices)} with isolate=False; in this process there is one at a time"
        )
    homes = [home_of(device) for device in devices if device != "cpu"]
    if twice := [device for device in devices if homes.count(home_of(device)) > 1]:
        raise ValueError(f"devices: {twice[-1]} is there twice; each GPU measures one point at a time")
    names = {device: describe(device)["name"] for device in devices}
    first = describe(own)["name"]
    if other := [f"{device} is {name}" for device, name in names.items() if name != first]:
        raise ValueError(f"devices: {other[0]}, and the sweep's {own} is {first}; a run is of one kind of device")


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


def row_key(point: Point) -> str:
    """The key by which resuming finds a row: point and kernel sources (device and versions are in the header)."""
    kernel = kernel_hash(point)
    return f"{point.key} | {source_hash()}" + (f" | {kernel}" if kernel else "")


def row_of(taken: Measurement) -> dict[str, Any]:
    """A measurement's row, with the key and the hashes of what it measured."""
    kernel = kernel_hash(taken.point)
    hashes = {"source_hash": source_hash(), **({"kernel_hash": kernel} if kernel else {})}
    return {**taken.row(), "key": row_key(taken.point), **hashes}
