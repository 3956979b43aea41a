"""Contenders whose time is not that of what they compute: results that they keep are found after timing."""

import blockskip as bs
import pytest
import torch
from skiplab.contenders import contender, kernel
from skiplab.measure import Point, measure, rotation
from skiplab.measure.checked import verify_repeats
from skiplab.measure.rotation import refill, tensors_of
from skiplab.measure.timing import Repeat, time_callable
from skiplab.workload import DecodeWorkload, LinearWorkload, Workload

SMALL = Workload(96, mask=bs.sliding_window(32), q_heads=2, kv_heads=1, head_dim=32)
NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
pytestmark = pytest.mark.usefixtures("own_registry")

KEYS = {
    "address": lambda q, k, v: q.data_ptr(),
    "object": lambda q, k, v: (id(q), id(k), id(v)),
    "shape": lambda q, k, v: q.shape,
    "nothing": lambda q, k, v: None,
}


def register_cache(key_of, operation="attention", honest="sdpa", first_calls=3):
    """A kernel that keeps its results by that key once it has been checked; returns the list of calls it computed."""
    computed = []

    @kernel(operation, name="caches")
    def build(workload, inputs):
        compute, kept, calls = contender(honest, operation).build(workload, inputs), {}, []

        def call(*arguments):
            calls.append(1)
            key = key_of(*arguments)
            if len(calls) <= first_calls or key not in kept:
                computed.append(1)
                kept[key] = compute(*arguments)
            return kept[key]

        return call

    return computed


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_CUDA)])
def test_results_that_are_kept_are_found(key, device):
    register_cache(KEYS[key])
    taken = measure(Point(SMALL, "caches", device=device), budget_s=0.05)
    assert (taken.status, taken.samples_ns) == ("wrong", ())
    assert "in the memory timed" in taken.error_text


@pytest.mark.parametrize(
    ("workload", "honest"),
    [(DecodeWorkload(80, q_heads=2, kv_heads=1, head_dim=32, buffer=96), "sdpa"), (LinearWorkload(64, 64), "bf16")],
)
def test_results_of_decode_and_linear_that_are_kept_are_found(workload, honest):
    register_cache(lambda first, *others: first.data_ptr(), workload.operation, honest)
    assert measure(Point(workload, "caches"), budget_s=0.05).status == "wrong"


@pytest.mark.parametrize(
    "key_of", [lambda q, k, v: (q.data_ptr(), q._version), lambda q, k, v: q.float().numpy().tobytes()]
)
def test_results_kept_by_version_or_content_are_never_used_again_while_timing(monkeypatch, key_of):
    monkeypatch.setitem(rotation.ROTATION_LIMIT, "cpu", 1)  # the same arguments in every call
    computed = register_cache(key_of)
    taken = measure(Point(SMALL, "caches"), budget_s=0.2)
    assert taken.status == "ok", taken.error_text
    assert len(computed) >= len(taken.samples_ns)


def test_an_element_changes_even_where_what_is_drawn_is_what_was_there(monkeypatch):
    monkeypatch.setattr(rotation.random, "gauss", lambda: 0.3)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        x = torch.full((5,), 0.3, dtype=dtype)
        rotation.stir([x])
        assert (x != torch.full((5,), 0.3, dtype=dtype)).sum() == 1


def test_a_graph_without_a_kernel_is_found():
    """As one that was captured while a kept result was returned: replaying it computes nothing."""
    inputs = SMALL.inputs("cpu", 0)
    out = contender("sdpa").build(SMALL, inputs)(*inputs)
    found = verify_repeats(SMALL, contender("sdpa"), "cpu", 1, [Repeat("graph", inputs, lambda: out)])
    assert "above the tolerance" in found.problem and "(graph)" in found.problem
    honest = contender("sdpa").build(SMALL, inputs)
    assert verify_repeats(SMALL, contender("sdpa"), "cpu", 1, [Repeat("cpu", inputs, lambda: honest(*inputs))]) is None


def test_a_call_that_changes_its_inputs_late_is_found():
    inputs = SMALL.inputs("cpu", 0)
    honest = contender("sdpa").build(SMALL, inputs)

    def run():
        out = honest(*inputs)
        inputs[1].mul_(2)
        return out

    assert (
        "changed its inputs" in verify_repeats(SMALL, contender("sdpa"), "cpu", 1, [Repeat("cpu", inputs, run)]).problem
    )


@NEEDS_CUDA
def test_every_way_of_timing_is_repeated_on_cuda():
    args = [(torch.randn(64, 64, device="cuda"),) for _ in range(3)]
    taken = time_callable(lambda x: x * 2, args, "cuda", budget_s=0.05)
    assert {one.way for one in taken.repeats} == {"graph", "warm", "eager"}
    for one in taken.repeats:
        one.args[0].fill_(3)
        assert (one.run() == 6).all(), one.way


@pytest.mark.parametrize("name", ["blockskip", "dequantize", "bf16", "tinygemm"])
def test_packed_weights_are_refilled_in_place(name):
    workload, entry = LinearWorkload(128, 128), contender(name, "linear")
    old, new = (entry.prepare(workload, workload.inputs("cpu", seed)) for seed in (0, 1))
    addresses = [one.data_ptr() for one in tensors_of(old)]
    refill(old, new)
    assert [one.data_ptr() for one in tensors_of(old)] == addresses
    assert all(map(torch.equal, tensors_of(old), tensors_of(new)))
