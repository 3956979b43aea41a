import numpy as np
import pytest
from skiplab.compare import differences, ratio_interval, ratios
from skiplab.measure import Measurement, Point
from skiplab.store import Run
from skiplab.workload import Workload


def a_run(name="A", factor=1.0, **header):
    samples = tuple(int(1e6 * factor) + noise for noise in range(20))
    row = Measurement(Point(Workload(64), "blockskip"), "ok", samples_ns=samples, method="cpu", device_name=name).row()
    return Run({"run_id": name, "device": {"name": name}, **header}, (row,))


def test_differences_name_what_changed():
    found = differences(a_run(torch="1", threads=2), a_run("B", torch="2", threads=2))
    assert found == {"device name": ("A", "B"), "torch": ("1", "2")}
    assert differences(a_run(), a_run()) == {}


def test_ratios_pair_the_points():
    table = ratios(a_run(), a_run("B", factor=2))
    assert len(table) == 1
    assert table["ratio"][0] == pytest.approx(2, rel=1e-3)
    assert table["low"][0] <= table["ratio"][0] <= table["high"][0]
    assert ratios(a_run(), Run(a_run().header)).empty


def test_the_interval_is_wider_for_samples_that_scatter():
    rng = np.random.default_rng(0)
    quiet, noisy = (rng.normal(1e6, scale, 50).astype(int).tolist() for scale in (1e3, 1e5))
    spans = [ratio_interval(samples, samples) for samples in (quiet, noisy)]
    assert spans[0][2] - spans[0][1] < spans[1][2] - spans[1][1]
    assert all(low <= 1 <= high for _, low, high in spans)
