"""A sweep over several workers: each point once, whoever is lost, and one writer."""

import importlib
import re
import threading
import time
from dataclasses import replace

import pytest
from skiplab.figures.frames import speedups
from skiplab.machine import Machine
from skiplab.measure import Measurement
from skiplab.measure.timing import Cancelled
from skiplab.store import read_run
from skiplab.sweep import Sweep, row_key, run_sweep
from skiplab.sweep.header import site_of
from skiplab.sweep.schedule import Dispatch, measured
from skiplab.sweep.workers import WorkerLost

running = importlib.import_module("skiplab.sweep.running")
TINY = Sweep(("blockskip", "sdpa"), (64, 96), (16, None), q_heads=2, kv_heads=1, head_dim=16, budget_s=0.05)


@pytest.fixture(autouse=True)
def roofs(monkeypatch):
    high = Machine("CPU", "cpu", bandwidth_gbps=1e6, tflops=1e6, source="measured")
    monkeypatch.setattr(running, "this_machine", lambda device, dtype: high)


class Fake:
    """A worker that notes what it does, and in which thread.

    lost_at: numbers, or keys, of the points that it is lost at. revives: how often it comes back.
    """

    def __init__(self, device, lost_at=(), seconds=0.0, revives=0, node=""):
        self.device, self.lost_at, self.seconds, self.revives = device, lost_at, seconds, revives
        self.points, self.groups, self.threads, self.closed, self.node = [], [], set(), 0, node

    def measure(self, points, cancelled):
        self.threads.add(threading.get_ident())
        self.groups.append(points)
        return [one for one in (self.measure_one(point, cancelled) for point in points) if one.status == "ok"]

    def measure_one(self, point, cancelled):
        assert point.device == self.device
        self.points.append(point)
        if {len(self.points), point.key} & set(self.lost_at):
            raise WorkerLost("the machine is gone")
        end = time.monotonic() + self.seconds
        while time.monotonic() < end:
            if cancelled():
                raise Cancelled
            time.sleep(0.002)
        return Measurement(point, "ok", samples_ns=(1,), device_name="a GPU", node=self.node)

    def revive(self, cancelled):
        self.revives -= 1
        return self.revives >= 0

    def close(self):
        self.threads.add(threading.get_ident())
        self.closed += 1


def all_of(workers, points=None, losses=0, **how):
    started, lost = [], []
    begin = lambda worker, points: started.extend(points)  # noqa: E731
    taken = list(measured(Dispatch(points or TINY.points(), workers, lambda: False, begin, lost.append, **how)))
    assert len(started) == len(taken) + losses - sum(one.status == "crashed" for one in taken)
    assert len(lost) == losses
    return taken


def keys(measurements):
    return sorted(one.point.key for one in measurements)


def test_every_point_is_measured_once_and_a_workload_on_one_device():
    workers = [Fake("cuda:0", seconds=0.01), Fake("cuda:1", seconds=0.01)]
    taken = all_of(workers)
    assert keys(taken) == sorted(point.key.replace("cpu", "cuda") for point in TINY.points())
    assert {one.point.device for one in taken} == {"cuda:0", "cuda:1"}
    by_workload = {}
    for one in taken:
        by_workload.setdefault(one.point.workload.key(), set()).add(one.point.device)
    assert all(len(devices) == 1 for devices in by_workload.values())
    for worker in workers:
        assert worker.closed == 1 and len(worker.threads) == 1  # the one that started its child
        assert threading.get_ident() not in worker.threads


def test_one_worker_measures_in_turn_in_this_thread():
    (worker,) = workers = [Fake("cpu")]
    assert [one.point for one in all_of(workers)] == TINY.points()
    assert worker.threads == {threading.get_ident()} and worker.closed == 1


def test_the_points_of_one_workload_stay_on_one_device_whatever_their_order():
    """A model's sweep is contender by contender."""
    points = sorted(TINY.points(), key=lambda point: point.contender)
    taken = all_of([Fake("cuda:0", seconds=0.01), Fake("cuda:1", seconds=0.01)], points)
    devices = {(one.point.workload.key(), one.point.device) for one in taken}
    assert len(taken) == len(points) and len(devices) == len({point.workload.key() for point in points}) == 4
    assert {device for _, device in devices} == {"cuda:0", "cuda:1"}


def test_a_lost_workers_point_is_measured_by_another():
    lost, other = Fake("cuda:0", lost_at={1}), Fake("cuda:1", seconds=0.01)
    taken = all_of([lost, other], losses=1)
    assert keys(taken) == sorted(point.key.replace("cpu", "cuda") for point in TINY.points())
    assert {one.status for one in taken} == {"ok"} and {one.point.device for one in taken} == {"cuda:1"}
    assert len(lost.points) == 1 and lost.closed == other.closed == 1


def test_a_point_at_which_two_workers_are_lost_is_a_row():
    """It may be what ends them; so a worker that comes back leaves it to others."""
    first = TINY.points()[0].key.replace("cpu", "cuda")
    workers = [Fake(f"cuda:{index}", lost_at={first}, revives=1) for index in range(2)]
    taken = all_of(workers, losses=2)
    (bad,) = [one for one in taken if one.status != "ok"]
    assert (bad.status, bad.error_text) == ("crashed", "its worker was lost, 2 times: the machine is gone")
    assert bad.point.key == first
    assert all([point.key for point in worker.points].count(first) == 1 for worker in workers)
    assert keys(taken) == sorted(point.key.replace("cpu", "cuda") for point in TINY.points())


def test_a_lost_worker_that_comes_back_measures_on():
    (alone,) = workers = [Fake("cuda:0", lost_at={2, 4}, revives=9)]
    assert {one.status for one in all_of(workers, losses=2)} == {"ok"}
    assert len(alone.points) == len(TINY.points()) + 2
    back, other = Fake("cuda:0", lost_at={1}, revives=1), Fake("cuda:1", seconds=0.05)
    taken = all_of([back, other], losses=1)
    assert {one.point.device for one in taken} == {"cuda:0", "cuda:1"} and len(back.points) > 1


def test_a_worker_that_is_lost_again_and_again_is_left_alone():
    broken, other = Fake("cuda:0", lost_at=range(99), revives=99), Fake("cuda:1", seconds=0.05)
    taken = all_of([broken, other], losses=3)
    assert len(broken.points) == 3 and keys(taken) == sorted(
        point.key.replace("cpu", "cuda") for point in TINY.points()
    )


def test_when_no_worker_is_left_it_says_how_many_points_are():
    for count in (1, 2):
        workers = [Fake(f"cuda:{index}", lost_at={1}) for index in range(count)]
        with pytest.raises(WorkerLost, match=f"no worker is left, and {len(TINY.points())} points are not measured"):
            list(measured(Dispatch(TINY.points(), workers, lambda: False)))
        assert all(worker.closed == 1 for worker in workers)


def test_what_was_begun_on_a_device_goes_on_there():
    points = TINY.points()
    homes = {points[0].workload.key(): ("", "cuda:1"), points[-1].workload.key(): ("", "cuda:7")}
    taken = all_of([Fake("cuda:0", seconds=0.02), Fake("cuda:1", seconds=0.02)], points, homes=homes)
    at = {one.point.workload.key(): one.point.device for one in taken}
    assert at[points[0].workload.key()] == "cuda:1" and at[points[-1].workload.key()] in ("cuda:0", "cuda:1")


def test_cancelled_it_gives_what_is_done_and_ends_the_others():
    workers = [Fake("cuda:0"), Fake("cuda:1", seconds=60)]
    seen, start = [], time.monotonic()
    with pytest.raises(Cancelled):
        for one in measured(Dispatch(TINY.points(), workers, lambda: len(seen) >= 2)):
            seen.append(one)
    assert time.monotonic() - start < 30 and 2 <= len(seen) < len(TINY.points())
    assert all(worker.closed for worker in workers)


def test_what_reads_them_may_stop_at_any_time():
    workers = [Fake("cuda:0", seconds=0.01), Fake("cuda:1", seconds=60)]
    measurements = measured(Dispatch(TINY.points(), workers, lambda: False))
    next(measurements)
    measurements.close()
    assert all(worker.closed == 1 for worker in workers)


def test_a_fault_of_the_labs_own_is_raised_and_not_a_row():
    class Broken(Fake):
        def measure(self, points, cancelled):
            raise ValueError("contender: no 'nobody'")

    workers = [Broken("cuda:0"), Fake("cuda:1", seconds=0.01)]
    with pytest.raises(ValueError, match="no 'nobody'"):
        all_of(workers)
    assert all(worker.closed == 1 for worker in workers)


@pytest.mark.usefixtures("warm_children")
def test_two_children_give_the_same_run_as_one(tmp_path):
    seen = []
    two = run_sweep(
        TINY, tmp_path / "two.jsonl", devices=("cpu", "cpu"), progress=False, on_measurement=seen.append
    )  # fmt: skip
    assert len(two.rows) == len(seen) == len(TINY.points())
    assert {row["key"] for row in two.rows} == {row_key(point) for point in TINY.points()}
    assert {row["status"] for row in two.rows} == {"ok"}
    read = read_run(two.path)
    assert read.header["parameters"]["device"] == "cpu" and read.header["end"] and "interrupted" not in read.header
    again = run_sweep(TINY, two.path, isolate=False, progress=False)  # one worker goes on with it: nothing is left
    assert len(again.rows) == len(TINY.points())


@pytest.mark.parametrize(
    ("devices", "isolate", "message"),
    [
        (("cpu", "cpu"), False, "devices: got cpu, cpu with isolate=False"),
        (("cpu", "cuda:97"), True, "torch sees no cuda:97"),
        (("tpu",), True, "device: got 'tpu'"),
    ],
)
def test_devices_that_cannot_be_leave_no_file(tmp_path, devices, isolate, message):
    with pytest.raises(ValueError, match=message):
        run_sweep(TINY, tmp_path / "run.jsonl", devices=devices, isolate=isolate)
    assert not list(tmp_path.iterdir())


def test_a_run_is_of_one_kind_of_device(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "usable", lambda device: True)
    names = {"cpu": "a CPU", "cuda:0": "NVIDIA H100", "cuda:1": "NVIDIA H200"}
    monkeypatch.setattr(running, "describe", lambda device: {"name": names[device]})
    with pytest.raises(ValueError, match="devices: cuda:1 is NVIDIA H200, and the sweep's cpu is a CPU"):
        run_sweep(TINY, tmp_path / "run.jsonl", devices=("cpu", "cuda:1"))
    with pytest.raises(ValueError, match="devices: cuda:1 is there twice"):
        run_sweep(TINY, tmp_path / "run.jsonl", devices=("cuda:1", "cuda:1"))


class Stand:
    """Stands for devices of this machine: one Fake each."""

    def __init__(self, *fakes):
        self.fakes, self.site = fakes, replace(site_of("cpu"), device={"name": "a GPU", "kind": "cuda"})

    def machine(self, dtype):
        return Machine("a GPU", "cuda", bandwidth_gbps=1.0, tflops=1.0)

    def workers(self, settings):
        return self.fakes

    def close(self):
        pass


def run_on(monkeypatch, path, *fakes, **how):
    monkeypatch.setattr(running, "Local", lambda own, devices, isolate: Stand(*fakes))
    return run_sweep(replace(TINY, device="cuda"), path, progress=False, **how)


def devices_by_workload(run):
    found = {}
    for row in run.rows:
        found.setdefault((row["axes"]["q_len"], row["axes"]["window"]), []).append(
            (row["torch_device"], "other-device" in row["flags"])
        )
    return found


def test_a_row_of_another_device_than_its_workload_is_flagged_and_in_no_speedup(tmp_path, monkeypatch):
    said = []
    lost, other = Fake("cuda:0", lost_at={2}), Fake("cuda:1", seconds=0.02)
    run = run_on(monkeypatch, tmp_path / "run.jsonl", lost, other, say=said.append)
    assert said == ["cuda:0: the machine is gone"]
    moved = [rows for rows in devices_by_workload(run).values() if len(set(rows)) == 2]
    assert moved == [[("cuda:0", False), ("cuda:1", True)]]
    assert len(run.rows) == len(TINY.points()) and {row["status"] for row in run.rows} == {"ok"}
    assert len(speedups(run.frame())) == len(TINY.workloads()) - 1


def test_devices_of_one_index_in_two_machines_are_told_apart(tmp_path, monkeypatch):
    lost, other = Fake("cuda:0", lost_at={2}, node="a"), Fake("cuda:0", seconds=0.02, node="b")
    seen = []
    run = run_on(monkeypatch, tmp_path / "run.jsonl", lost, other, say=lambda text: None, on_progress=seen.append)
    assert [row["node"] for row in run.rows if "other-device" in row["flags"]] == ["b"]
    assert sorted(row["node"] for row in run.rows) == ["a", *["b"] * (len(TINY.points()) - 1)]
    assert {row["torch_device"] for row in run.rows} == {"cuda:0"}
    assert set(seen[-1].devices) == {"cuda:0 of a", "cuda:0 of b"}
    rows = [Measurement.from_row(row) for row in read_run(run.path).rows]
    assert [one.node for one in rows] == [row["node"] for row in run.rows]


def test_what_goes_on_goes_on_where_it_was_begun(tmp_path, monkeypatch):
    path, rows = tmp_path / "run.jsonl", []
    begun = run_on(monkeypatch, path, Fake("cuda:1"), cancelled=lambda: len(rows) >= 3, on_measurement=rows.append)
    assert [row["torch_device"] for row in begun.rows] == ["cuda:1"] * 3
    whole = run_on(monkeypatch, path, Fake("cuda:0"), Fake("cuda:1"))
    assert all(len(set(devices)) == 1 for devices in devices_by_workload(whole).values())
    assert not any("other-device" in row["flags"] for row in whole.rows) and len(whole.rows) == len(TINY.points())


def test_cuda_is_its_first_device(tmp_path, monkeypatch):
    path, rows = tmp_path / "run.jsonl", []
    run_on(monkeypatch, path, Fake("cuda"), cancelled=lambda: len(rows) >= 1, on_measurement=rows.append)
    whole = run_on(monkeypatch, path, Fake("cuda:0"))
    assert not any("other-device" in row["flags"] for row in whole.rows)


def test_a_row_that_no_worker_measured_is_of_the_runs_device(tmp_path, monkeypatch):
    first = TINY.points()[0].key.replace("cpu", "cuda")
    fakes = [Fake(f"cuda:{index}", lost_at={first}, revives=1) for index in range(2)]
    run = run_on(monkeypatch, tmp_path / "run.jsonl", *fakes, say=lambda text: None)
    (bad,) = [row for row in run.rows if row["status"] != "ok"]
    assert (bad["device"], bad["point"]) == ("a GPU", first)


def test_progress_by_device(tmp_path, monkeypatch):
    seen = []
    fakes = [Fake("cuda:0", lost_at={1}), Fake("cuda:1", seconds=0.01), Fake("cuda:2", seconds=0.01)]
    run_on(monkeypatch, tmp_path / "run.jsonl", *fakes, on_progress=seen.append, say=lambda text: None)
    total, last = len(TINY.points()), seen[-1]
    assert all(one.total == total and one.done == sum(each.done for each in one.devices.values()) for one in seen)
    assert last.done == total and set(last.devices) == {"cuda:0", "cuda:1", "cuda:2"}
    assert last.devices["cuda:0"].done == 0 and not any(one.now for one in last.devices.values())
    assert re.fullmatch(r"cuda:0 0, cuda:1 \d, cuda:2 \d", last.counts)
    begun = [point.contender for one in seen for point in one.begins]
    assert len(begun) == total + 1 and set(begun) == {"blockskip", "sdpa"}  # the lost one twice
    assert any("cuda:1: 0, now blockskip, 6" in str(one) or "cuda:1: 0, now sdpa, 6" in str(one) for one in seen)
