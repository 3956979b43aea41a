import blockskip as bs
import pytest
from skiplab.machine import Machine, known_gpus
from skiplab.roofline import bound, bound_of, predict
from skiplab.workload import HeadShape, Workload

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
    slow, fast = predict(workload, "none", machine), predict(workload, "map", machine)
    assert fast.source == "predicted for NVIDIA A100 80GB SXM"
    assert fast.seconds < slow.seconds / 5
    assert fast.seconds >= bound(workload.work("map"), machine).seconds
