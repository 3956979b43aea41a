"""How a call of a whole model is timed: every call another one, by kinds of layers, taken apart by names, its peak."""

from __future__ import annotations

import gc
import itertools
import sys
import weakref
from dataclasses import replace

import pytest
import torch
from skiplab.contenders.model import LAST, TIMES, ModelCall, ours, pieces_of
from skiplab.measure import memory, traced
from skiplab.measure import model as measuring
from skiplab.measure.model import timed
from skiplab.measure.timing import Built, TimeLimits
from test_model_throughput import PROMPT, STEP

pytestmark = pytest.mark.usefixtures("one_thread")


class Ticking:
    """A runner whose calls take so many nanoseconds of a clock of its own."""

    named = False
    now = 0

    def __init__(self, *each):
        self.each, self.read = itertools.cycle(each), []

    def is_graph(self, phase, tokens):
        return False

    def prefill(self, ids, *, graph=None):
        Ticking.now += next(self.each)
        self.read.append(tuple(ids.flatten().tolist()))
        return torch.zeros(1, 1, 160)

    def begin(self, depth, room):
        self.begun = depth, room

    def step(self, ids, *, graph=None):
        return self.prefill(ids)


@pytest.fixture
def ticks(monkeypatch):
    between = lambda marks: [b - a for a, b in itertools.pairwise(marks)]  # noqa: E731
    monkeypatch.setattr(measuring, "_marks", lambda device: (lambda: Ticking.now, between))


@pytest.mark.parametrize("work", [PROMPT, STEP], ids=["prompt", "step"])
def test_one_layer_of_each_kind_stands_for_all(work, ticks):
    """Two layers of each of two kinds: 5,000 and 2,000 ns, and 3,000 around them, once in four calls more."""
    pieces = ((1 - 4, Ticking(3000, 3000, 9000, 3000)), (2, Ticking(8000)), (2, Ticking(5000)))
    call = ModelCall(replace(work, by_kind=True), Ticking(10_000), pieces)
    (taken,) = timed([Built(call, call.workload, (), None)], "cpu", TimeLimits(0.05))
    assert set(taken.samples_ns) == {3000 + 2 * 5000 + 2 * 2000}
    lost = replace(call, pieces=((-3, Ticking(5000)), (2, Ticking(1000))))
    with pytest.raises(RuntimeError, match="lost in noise"):
        timed([Built(lost, call.workload, (), None)], "cpu", TimeLimits(0.05))


def test_points_of_a_model_share_it_and_another_replaces_it():
    made = LAST.get(ours, PROMPT, "cpu")
    assert (
        LAST.get(ours, STEP, "cpu") is made and LAST.get(ours, replace(PROMPT, bits=8), "cpu", keep=False) is not made
    )
    assert LAST.get(ours, PROMPT, "cpu") is made
    there = weakref.ref(made)
    del made

    def next_one(workload, device):
        gc.collect()
        assert there() is None, "two models at once"
        return ours(workload, device)

    LAST.get(next_one, PROMPT, "cpu")


def test_every_call_that_is_timed_is_another_one(ticks):
    runner = Ticking(1000)
    (taken,) = timed([Built(ModelCall(STEP, runner), STEP, (), None)], "cpu", TimeLimits(1.0))
    assert runner.begun == (20, (measuring.WARM_STEPS + 5) * 3) and taken.samples_ns == (1000,) * 5
    assert len(set(runner.read)) == measuring.WARM_STEPS + 5
    runner = Ticking(1000)
    (taken,) = timed([Built(ModelCall(PROMPT, runner), PROMPT, (), None)], "cpu", TimeLimits(0.01))
    assert len(set(runner.read)) == len(runner.read) == len(taken.samples_ns) + 1 and not taken.parts_ns


def test_pieces_of_a_decoder_hold_each_kind_and_nothing():
    work = replace(PROMPT, by_kind=True)
    decoder = LAST.get(ours, work, "cpu")
    pieces = pieces_of(work.whole_spec, decoder)
    layers = [one.decoder.spec.layers for _, one in pieces]
    assert [len(each) for each in layers] == [0, TIMES, TIMES] and all(len(set(each)) == 1 for each in layers[1:])
    assert sum(factor for factor, _ in pieces) == 1
    assert [factor * len(each) for (factor, _), each in zip(pieces, layers, strict=True)] == [0, 2, 2]
    assert pieces[1][1].decoder.weights.layers[3] is decoder.weights.layers[0]


def event(cat, name, ts, dur, correlation=None):
    return {"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur, "args": {"correlation": correlation}}


CALL = event("user_annotation", traced.CALL, 100, 100)


def test_ranges_on_a_cpu():
    """Operators inside a name are its own; of those outside the outermost count; the rest is Python's."""
    events = [
        CALL, event("user_annotation", "qkv", 110, 20), event("cpu_op", "mm", 112, 15), event("cpu_op", "add", 140, 10),
        event("cpu_op", "inner", 142, 5), event("cpu_op", "before", 50, 10), event("user_annotation", "other", 160, 10),
        {"ph": "M", "name": "process_name"},
    ]  # fmt: skip
    assert traced.ranges_by_name(events, {"qkv"}) == {"qkv": 20, "pointwise": 10, "gaps": 70}
    with pytest.raises(RuntimeError, match="did not record the call"):
        traced.ranges_by_name(events[1:], {"qkv"})


def test_kernels_on_a_gpu_belong_to_where_they_were_launched():
    """They run long after it; a driver's launch (Triton) counts as a runtime's does, one outside the call does not."""
    events = [
        CALL, event("user_annotation", "qkv", 110, 20), event("user_annotation", "head", 150, 10),
        event("cuda_runtime", "cudaLaunchKernel", 112, 2, 1), event("cuda_driver", "cuLaunchKernelEx", 152, 2, 2),
        event("cuda_runtime", "cudaLaunchKernel", 170, 2, 3), event("cuda_runtime", "cudaMemcpyAsync", 120, 2, 4),
        event("cuda_runtime", "cudaLaunchKernel", 60, 2, 5),
        event("kernel", "gemm", 500, 30, 1), event("kernel", "matvec", 540, 7, 2), event("kernel", "add", 560, 3, 3),
        event("gpu_memcpy", "copy", 570, 1, 4), event("kernel", "earlier", 580, 90, 5),
        event("gpu_user_annotation", "qkv", 500, 100, 1),
    ]  # fmt: skip
    assert traced.kernels_by_name(events, {"qkv", "head"}) == {"qkv": 31, "head": 7, "pointwise": 3}


def test_a_kernel_that_starts_early_counts_from_where_the_one_ahead_ended():
    launches = [event("cuda_driver", "cuLaunchKernelEx", 101 + i, 1, i) for i in range(4)]
    kernels = [
        event("kernel", "product", 500, 100, 0), event("kernel", "gate", 510, 95, 1),  # it waited for 90 of these
        event("kernel", "norm", 520, 60, 2), event("kernel", "product", 610, 30, 3),
    ]  # fmt: skip
    ranges = [event("user_annotation", "qkv", 101, 0.5), event("user_annotation", "head", 103.5, 2)]
    found = traced.kernels_by_name([CALL, *ranges, *launches, *reversed(kernels)], {"qkv", "head"})
    assert found == {"qkv": 100, "pointwise": 5, "head": 30}


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is Linux' own")
def test_peak_memory_forgets_what_was_before():
    big = torch.ones(1 << 26, dtype=torch.uint8)
    del big
    assert memory.begin_peak("cpu")
    before = memory.peak_bytes("cpu")
    big = torch.ones(1 << 26, dtype=torch.uint8)
    assert memory.peak_bytes("cpu") - before > 0.9 * big.nbytes
