"""Contenders of one workload whose samples are taken in turn: the order, and that none costs another its row."""

import importlib
import os
import time
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import blockskip as bs
import pytest
import torch
from skiplab.contenders import contender, kernel
from skiplab.machine import Machine
from skiplab.measure import Child, Measurement, Point, timing
from skiplab.measure.checked import measure_together
from skiplab.measure.child import order_of
from skiplab.measure.timing import TimeLimits
from skiplab.store import read_run
from skiplab.sweep import DecodeSweep, LinearSweep, ModelSweep, Sweep, cluster, interleaved, run_sweep, sweep_of
from skiplab.sweep.header import site_of
from skiplab.sweep.schedule import Dispatch, measured
from skiplab.sweep.workers import MeasureSettings, WorkerLost
from skiplab.workload import Workload

running = importlib.import_module("skiplab.sweep.running")
SMALL = Workload(96, mask=bs.sliding_window(32), q_heads=2, kv_heads=1, head_dim=32)
HIGH = Machine("CPU", "cpu", bandwidth_gbps=1e6, tflops=1e6, source="measured")
SHAPE = {"q_heads": 2, "kv_heads": 1, "head_dim": 16, "budget_s": 0.05, "interleave": True}
QUICK = TimeLimits(0.05)
pytestmark = pytest.mark.usefixtures("own_registry", "warm_children")


@pytest.fixture(autouse=True)
def roofs(monkeypatch):
    """Roofs that nothing beats, instead of measured ones: that takes seconds."""
    monkeypatch.setattr(running, "this_machine", lambda device, dtype: HIGH)


def register(name, act, honest="sdpa"):
    """A kernel of a notebook that acts, then does what an honest one does."""

    def build(workload, inputs):
        compute = contender(honest).build(workload, inputs)

        def call(q, k, v):
            act()
            return compute(q, k, v)

        return call

    build.__module__ = "__main__"
    kernel(name=name)(build)
    return Point(SMALL, name)


def test_three_contenders_are_timed_in_turn_and_say_so(clock):
    points = [register(name, lambda name=name: clock.passes(name, 0.005)) for name in "abc"]
    taken = measure_together(points, QUICK, machine=HIGH)
    assert [one.status for one in taken] == ["ok"] * 3
    assert [one.together for one in taken] == [("b", "c"), ("a", "c"), ("a", "b")]
    assert "abccbabcaacbcabbac" in "".join(clock.calls)
    for one in taken:
        assert len(one.samples_ns) >= 10 and set(one.samples_ns) == {5_000_000} and one.error is not None
        assert Measurement.from_row(one.row()) == one and one.row()["together"] == list(one.together)
    alone = measure_together(points[:1], QUICK, machine=HIGH)
    assert alone[0].together == () and "together" not in alone[0].row()


def test_flags_are_each_ones_own_but_those_of_the_device_are_all_ones(clock, monkeypatch):
    monkeypatch.setattr(timing, "others_share", lambda before, after: 0.5)
    steps = iter(range(10**6))
    points = [
        register("even", lambda: clock.passes("e", 0.005)),
        register("in two", lambda: clock.passes("t", 0.005 + 0.001 * (next(steps) % 2))),
    ]
    even, two = measure_together(points, QUICK, machine=HIGH)
    assert "busy" in even.flags and "busy" in two.flags
    assert "bimodal" in two.flags and "bimodal" not in even.flags


def raiser(error):
    def act():
        raise error

    return act


def test_who_fails_beside_others_is_measured_alone(tmp_path):
    """Whatever it was, also where it succeeds then: memory may have been out because of the others."""
    builds = []

    def once():
        builds.append(1)
        if len(builds) == 1:
            raise MemoryError

    register("raises", raiser(ValueError("no")))
    register("is short of memory", once)
    wrong = register("wrong", lambda: None)
    entry = wrong.entry

    @kernel(name="wrong")
    def build(workload, inputs):
        compute = entry.build(workload, inputs)
        return lambda q, k, v: compute(q, k, v) + 1

    sweep = Sweep(
        ("sdpa", "raises", "wrong", "is short of memory", "blockskip", "blockskip-map"), (64,), (16,), **SHAPE
    )
    run = run_sweep(sweep, tmp_path / "run.jsonl", isolate=False, progress=False)
    rows = {row["contender"]: (row["status"], row.get("together", [])) for row in run.rows}
    assert len(run.rows) == 6 and rows == {
        "sdpa": ("ok", ["blockskip"]), "blockskip": ("ok", ["sdpa"]), "blockskip-map": ("unsupported", []),
        "raises": ("crashed", []), "wrong": ("wrong", []), "is short of memory": ("ok", []),
    }  # fmt: skip


def test_results_that_are_kept_are_found_beside_others(tmp_path):
    kept = {}

    @kernel(name="caches")
    def build(workload, inputs):
        compute = contender("sdpa").build(workload, inputs)

        def call(q, k, v):
            calls = kept.setdefault("calls", [])
            calls.append(1)
            if len(calls) <= 3 or q.data_ptr() not in kept:
                kept[q.data_ptr()] = compute(q, k, v)
            return kept[q.data_ptr()]

        return call

    run = run_sweep(
        Sweep(("caches", "sdpa"), (64,), (16,), **SHAPE), tmp_path / "r.jsonl", isolate=False, progress=False
    )
    assert {row["contender"]: row["status"] for row in run.rows} == {"caches": "wrong", "sdpa": "ok"}


def test_one_of_three_that_ends_the_child_costs_its_own_row_alone(tmp_path):
    register("aborts", os.abort)
    sweep = Sweep(("sdpa", "aborts", "blockskip"), (64,), (16,), **SHAPE)
    seen = []
    run = run_sweep(sweep, tmp_path / "run.jsonl", progress=False, on_progress=seen.append)
    rows = {row["contender"]: row for row in run.rows}
    assert len(run.rows) == 3 and rows["aborts"]["status"] == "crashed" and "Aborted" in rows["aborts"]["error_text"]
    assert rows["sdpa"]["status"] == rows["blockskip"]["status"] == "ok"
    assert not any("together" in row for row in run.rows)
    assert (seen[-1].total, seen[-1].done) == (3, 3)
    begun = [[point.contender for point in one.begins] for one in seen if one.begins]
    assert begun == [["sdpa", "aborts", "blockskip"], ["sdpa"], ["aborts"], ["blockskip"]]


def test_one_that_hangs_ends_the_child_and_leaves_all_to_be_measured_alone():
    points = [Point(SMALL, "sdpa"), register("hangs", lambda: time.sleep(600))]
    order = order_of(points, QUICK, 0, machine=HIGH, device_name="CPU")
    with Child() as child:
        assert child.take(replace(order_of(points[:1], QUICK, 0, machine=HIGH, device_name="CPU")))[0].status == "ok"
        assert child.take(replace(order, limit_s=3.0)) == [] and child._process is None


def test_each_stage_has_the_limit_for_itself():
    points = [register(name, lambda: time.sleep(0.4)) for name in ("first", "second", "third")]
    with Child() as child:
        child.take(order_of([Point(SMALL, "sdpa")], QUICK, 0, machine=HIGH, device_name="CPU"))
        order = order_of(points, QUICK, 0, machine=HIGH, device_name="CPU")
        begun = time.monotonic()
        taken = child.take(replace(order, limit_s=5.0))
        assert [one.status for one in taken] == ["ok"] * 3 and time.monotonic() - begun > 5.0


def test_a_kernel_that_cannot_be_sent_is_a_row_and_the_others_are_measured(tmp_path):
    import threading

    lock = threading.Lock()
    register("holds a lock", lambda: lock.locked())
    run = run_sweep(Sweep(("sdpa", "holds a lock"), (64,), (16,), **SHAPE), tmp_path / "run.jsonl", progress=False)
    rows = {row["contender"]: row for row in run.rows}
    assert rows["sdpa"]["status"] == "ok" and "holds a lock cannot be sent" in rows["holds a lock"]["error_text"]


def test_cancelled_in_the_middle_it_keeps_whole_workloads_and_goes_on(tmp_path):
    rows, begun = [], []
    for name in "abc":
        register(name, lambda: begun and begun[-1].append(1))
    sweep = Sweep(tuple("abc"), (64, 96), (16,), **SHAPE)
    how = {"isolate": False, "progress": False, "on_measurement": rows.append}
    heard = lambda progress: progress.begins and begun.append([])  # noqa: E731
    stopped = run_sweep(
        sweep,
        tmp_path / "run.jsonl",
        on_progress=heard,
        cancelled=lambda: len(begun) == 2 and len(begun[1]) > 20,
        **how,
    )
    assert len(begun[1]) > 20 and len(stopped.rows) == 3 and "interrupted" in stopped.header
    assert {row["axes"]["q_len"] for row in stopped.rows} == {64}
    said = []
    done = run_sweep(sweep, tmp_path / "run.jsonl", say=said.append, **how)
    assert len(done.rows) == len(rows) == 6 and not said and "interrupted" not in done.header
    assert all(len(row["together"]) == 2 for row in done.rows)


def test_a_workload_with_some_rows_goes_on_with_the_others_and_says_so(tmp_path):
    for name in "abc":
        register(name, lambda: None)
    path, how = tmp_path / "run.jsonl", {"isolate": False, "progress": False}
    sweep = Sweep(tuple("abc"), (64, 96), (16,), **SHAPE)
    run_sweep(sweep, path, **how)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2]))  # as a process that was killed between two rows leaves it
    said = []
    done = run_sweep(sweep, path, say=said.append, **how)
    assert said == ["workloads with rows from before: 1; their other contenders are timed in turn without those"]
    assert path.read_text().splitlines(keepends=True)[:2] == lines[:2] and len(done.rows) == 6
    assert [(row["contender"], row["together"]) for row in done.rows[:3]] == [
        ("a", ["b", "c"]), ("b", ["c"]), ("c", ["b"]),
    ]  # fmt: skip


def test_two_children_measure_whole_workloads_each(tmp_path):
    sweep = Sweep(("sdpa", "blockskip"), (64, 96), (16, None), **SHAPE)
    run = run_sweep(sweep, tmp_path / "run.jsonl", devices=("cpu", "cpu"), progress=False)
    assert len(run.rows) == 8 and {row["status"] for row in run.rows} == {"ok"}
    assert all(len(row["together"]) == 1 for row in run.rows)


class Fake:
    """A worker that notes what it is given, and is lost at some contenders."""

    node = ""

    def __init__(self, device, lost_at=()):
        self.device, self.lost_at, self.groups = device, lost_at, []

    def measure(self, points, cancelled):
        self.groups.append([point.contender for point in points])
        time.sleep(0.01)
        if {point.contender for point in points} & set(self.lost_at):
            raise WorkerLost("the machine is gone")
        return [Measurement(point, "ok") for point in points]

    def revive(self, cancelled):
        return True

    def close(self):
        pass


def test_a_group_stays_on_one_device_whatever_the_order_of_its_points():
    sweep = Sweep(("sdpa", "blockskip"), (64, 96), (16, None), **SHAPE)
    points = sorted(sweep.points(), key=lambda point: point.contender)
    workers = [Fake("cuda:0"), Fake("cuda:1")]
    taken = list(measured(Dispatch(points, workers, lambda: False, together=True)))
    assert len(taken) == 8 and all(group == ["blockskip", "sdpa"] for one in workers for group in one.groups)
    assert {one.point.device for one in taken} == {"cuda:0", "cuda:1"}


@pytest.mark.parametrize("count", [1, 2])
def test_points_of_a_group_at_which_a_worker_is_lost_are_measured_alone(count):
    points = Sweep(("sdpa", "blockskip", "sdpa-flash"), (64,), (16,), **SHAPE).points()
    workers = [Fake(f"cuda:{index}", {"blockskip"}) for index in range(count)]
    taken = list(measured(Dispatch(points, workers, lambda: False, together=True)))
    assert {one.point.contender: one.status for one in taken} == {
        "sdpa": "ok", "blockskip": "crashed", "sdpa-flash": "ok",
    }  # fmt: skip
    groups = [group for one in workers for group in one.groups]
    assert sorted(map(len, groups)) == [1, 1, 1, 3] and len(taken) == 3


def test_on_ray_a_group_is_one_order_and_its_answers_are_told_apart_by_their_points(monkeypatch):
    orders = []

    def answer(self, asked, limit_s, cancelled):
        assert limit_s >= 5 * asked.limit_s  # two checks, the timing, two checks
        orders.append(asked)
        return [replace(one, status="ok") for one in reversed(asked.blanks)]

    monkeypatch.setattr(cluster.OnRay, "_answer", answer)
    actor = SimpleNamespace(take=SimpleNamespace(remote=lambda order: order))
    site = replace(site_of("cpu"), device={"name": "a GPU", "kind": "cuda"})
    there = cluster.Placed("3", "a" * 56, site)
    worker = cluster.OnRay(None, actor, there, MeasureSettings(0, 0.05, 0, HIGH))  # type: ignore[arg-type]
    points = [Point(SMALL, name, device="cuda:3") for name in ("sdpa", "blockskip")]
    taken = worker.measure(points, lambda: False)
    assert [one.point for one in taken] == points[::-1] and {one.node for one in taken} == {"a" * 8}
    assert [one.point.device for one in orders[0].blanks] == ["cuda", "cuda"] and len(orders) == 1


def test_who_asks_for_it_is_recorded_and_repeated(tmp_path):
    assert interleaved(None, "cuda:1") is True and interleaved(None, "cpu") is None
    assert interleaved(False, "cuda") is None and interleaved(True, "cpu") is True
    sweep = Sweep(("sdpa", "blockskip"), (64,), (16,), **SHAPE)
    run = run_sweep(sweep, tmp_path / "run.jsonl", isolate=False, progress=False)
    header = read_run(run.path).header
    assert header["parameters"]["interleave"] is True and header["command"].endswith(" --interleave")
    assert sweep_of("attention", header["parameters"]) == sweep
    older = {name: value for name, value in header["parameters"].items() if name != "interleave"}
    assert sweep_of("attention", older).interleave is None
    for kind in (Sweep, DecodeSweep, LinearSweep):
        assert "interleave" not in kind().command()  # a CPU's default
        assert kind(interleave=True).command().endswith(" --interleave")
        assert kind(device="cuda").command().endswith(" --no-interleave")
    assert ModelSweep(device="cuda").interleave is None and "interleave" not in ModelSweep(device="cuda").command()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_graphs_are_replayed_in_turn(monkeypatch):
    replayed, replay = [], torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda graph: replayed.append(id(graph)) or replay(graph))
    workload = Workload(2048, mask=bs.causal(), q_heads=8, kv_heads=8, head_dim=64)
    names = ("sdpa-flash", "sdpa-efficient", "sdpa-causal")
    points = [Point(workload, name, device="cuda") for name in names]
    taken = measure_together(points, TimeLimits(0.1, 0))
    assert [(one.status, one.method) for one in taken] == [("ok", "graph")] * 3
    assert [set(one.together) for one in taken] == [set(names) - {name} for name in names]
    assert all(set(one.other_samples) == {"eager", "warm"} and one.clocks["before"] for one in taken)
    changes = sum(a != b for a, b in pairwise(replayed))
    assert changes > 3 * 10
