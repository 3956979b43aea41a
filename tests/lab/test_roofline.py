import blockskip as bs
import pytest
from skiplab.machine import Machine, known_gpus
from skiplab.machine.roofline import bound, bound_of, predict
from skiplab.workload import DecodeWorkload, HeadShape, LinearWorkload, Workload

MACHINE = Machine("M", "cuda", bandwidth_gbps=1000, tflops=100)


def test_the_slower_roof_is_the_bound():
    assert bound_of(1e12, 1, MACHINE).seconds == pytest.approx(0.01)
    assert bound_of(1e12, 1, MACHINE).limited_by == "compute"
    assert bound_of(1, 1e9, MACHINE).seconds == pytest.approx(1e-3)
    assert bound_of(1, 1e9, MACHINE).limited_by == "memory"


def test_bounds_of_gemma_sliding_layers_agree_with_the_floors_computed_for_an_h200():
    """50 sliding layers at 2,048 tokens: 3.26 ms at 790 TFLOP/s and 4.3 TB/s; at 256: 0.146 ms, limited by memory."""
    h200 = Machine("H200 as seen", "cuda", bandwidth_gbps=4300, tflops=790)
    layer = HeadShape(32, 16, 256, 1024)
    assert 50e3 * bound(layer.workload(2048).work("bounds"), h200).seconds == pytest.approx(3.26, rel=0.01)
    short = bound(layer.workload(256).work("bounds"), h200)
    assert 50e3 * short.seconds == pytest.approx(0.146, rel=0.01)
    assert short.limited_by == "memory"


def test_a_prediction_says_for_which_machine_and_skipping_pays():
    workload = Workload(8192, mask=bs.sliding_window(512))
    machine = known_gpus()["NVIDIA A100 80GB SXM"]
    slow, fast = (predict(workload, machine, skip=skip) for skip in ("none", "map"))
    assert fast.source == "predicted for NVIDIA A100 80GB SXM"
    assert fast.seconds < slow.seconds / 5
    assert fast.seconds >= bound(workload.work("map"), machine).seconds


def test_a_decode_step_reads_the_keys_that_it_sees_once():
    """By hand: 16 heads x 1,024 keys x 256 x (k, v) x 2 bytes, and q and out of 32 heads; splits leave float32."""
    workload = DecodeWorkload(8192, 1024, q_heads=32, kv_heads=16, head_dim=256)
    moved = 16 * 1024 * 256 * 2 * 2 + 2 * 32 * 256 * 2
    least = predict(workload, MACHINE)
    assert least.seconds == pytest.approx(moved / 1e12)
    assert (least.limited_by, least.source) == ("memory", "predicted for M")
    split = predict(workload, MACHINE, splits=4)
    assert split.seconds - least.seconds == pytest.approx(4 * 32 * 258 * 4 * 2 / 1e12)  # written once and read once


def test_a_linear_layer_goes_from_memory_to_compute_with_its_rows():
    """By hand, 5 bits a weight at groups of 32 with zero points; two FLOPs a weight and row."""
    one = predict(LinearWorkload(4096, 2048), MACHINE)
    assert one.seconds == pytest.approx((4096 * 2048 * 5 / 8 + 2 * (4096 + 2048)) / 1e12)
    many = predict(LinearWorkload(4096, 2048, rows=4096), MACHINE)
    assert many.seconds == pytest.approx(2 * 4096**2 * 2048 / 1e14)
    assert (one.limited_by, many.limited_by) == ("memory", "compute")
    assert predict(LinearWorkload(4096, 2048, symmetric=True), MACHINE).seconds < one.seconds
