import functools
import json
from types import SimpleNamespace

import pytest
import torch
from skiplab.machine import (
    CpuUse,
    copy_probe,
    cpu_use,
    describe,
    device_name,
    known_gpus,
    last_cache_bytes,
    measured_machine,
    others_share,
    product_probe,
    read_probe,
    this_machine,
)
from skiplab.machine import machine as machine_module


def test_known_gpus_are_data_sheets():
    h200 = known_gpus()["NVIDIA H200"]
    assert (h200.bandwidth_gbps, h200.tflops, h200.sms, h200.compute_capability) == (4800, 989, 132, "9.0")
    assert h200.source == "data sheet"


def test_description_is_json_without_a_host_name():
    import socket

    text = json.dumps(describe("cpu"))
    assert device_name("cpu") in text
    assert socket.gethostname() not in text


def test_measured_roofs_are_kept():
    machine = this_machine("cpu", "float32")
    assert machine.source == "measured"
    assert 0.1 < machine.bandwidth_gbps < 5000
    assert 1e-3 < machine.tflops < 500
    assert this_machine("cpu", "float32") is machine
    json.dumps(machine.roof())


def test_the_roof_is_the_better_of_a_copy_and_a_read(monkeypatch):
    seconds = iter([4.0, 2.0, 0.5, 0.25])  # products, in bfloat16 and in float32, then copy and read
    monkeypatch.setattr(machine_module, "_best_seconds", lambda call, device: next(seconds))
    machine = measured_machine("cpu")
    assert machine.tflops == pytest.approx(product_probe("cpu", "float32").amount / 2.0 / 1e12)
    copied, read = copy_probe("cpu").amount / 0.5, read_probe("cpu").amount / 0.25
    assert machine.bandwidth_gbps == pytest.approx(max(copied, read) / 1e9)


def test_a_roof_that_two_kinds_of_numbers_share_is_measured_once(monkeypatch):
    seconds = iter([1.0, 2.0, 4.0, 8.0])  # a product in float32, a copy, a read; for bfloat16 its product alone
    monkeypatch.setattr(machine_module, "_best_seconds", lambda call, device: next(seconds))
    monkeypatch.setattr(machine_module, "_kept_rate", functools.cache(machine_module._rate))
    roofs = [machine_module.this_machine.__wrapped__("cpu", dtype) for dtype in ("float32", "bfloat16")]
    assert roofs[0].bandwidth_gbps == roofs[1].bandwidth_gbps == copy_probe("cpu").amount / 2.0 / 1e9
    assert roofs[0].tflops == roofs[1].tflops == product_probe("cpu", "float32").amount / 1.0 / 1e12
    assert next(seconds, None) is None


@pytest.mark.parametrize(("device", "calls"), [("cpu", 4 + machine_module.SETTLED), ("cuda", 4 + 20)])
def test_on_a_cpu_calls_end_when_they_settle_and_on_a_gpu_with_the_time(monkeypatch, device, calls):
    """A warm-up, two calls of 4 s, one of 2 s, and from then on calls of 2 s, which are no faster."""
    clock, made = [0.0], []
    monkeypatch.setattr(machine_module, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)

    def call():
        made.append(None)
        clock[0] += 4.0 if len(made) <= 3 else 2.0

    assert machine_module._best_seconds(call, device, budget_s=50.0) == 2.0
    assert len(made) == calls


def test_name_says_how_many_threads():
    assert device_name("cpu").endswith("s" if torch.get_num_threads() > 1 else "thread")


def test_cache_size_is_plausible():
    assert last_cache_bytes("cpu") == 0 or 1 << 15 < last_cache_bytes("cpu") < 1 << 33


def test_others_share():
    before = CpuUse(everybody=10.0, own=4.0, clock=0.0)
    assert others_share(before, None) == 0
    assert others_share(before, CpuUse(11.0, 5.0, 1.0)) == 0
    assert others_share(before, CpuUse(13.0, 5.0, 1.0)) > 0
    if cpu_use() is not None:
        assert 0 <= others_share(cpu_use(), cpu_use()) < 1000


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_described():
    identity = describe("cuda")
    assert identity["sms"] > 0
    assert this_machine("cuda").bandwidth_gbps > 50
