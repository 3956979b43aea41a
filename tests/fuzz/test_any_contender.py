"""Whatever a contender does is a row with the right status, and the next point is measured as if nothing had been."""

import importlib
import json
import sys

import blockskip as bs
import pytest
from draws import examples
from hypothesis import given
from hypothesis import strategies as st
from skiplab.contenders import Registry, base, contenders
from skiplab.machine import Machine
from skiplab.measure import Child, Measurement, Point
from skiplab.operations import OPERATIONS
from skiplab.workload import Workload

SMALL = Workload(128, mask=bs.sliding_window(40), q_heads=2, kv_heads=1, head_dim=64, dtype="float32")
FAST = Machine("fast", "cpu", bandwidth_gbps=1e6, tflops=1e6)


@pytest.fixture(autouse=True)
def compiled(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)  # nothing is timed in the interpreter


@pytest.fixture(scope="module")
def misbehaving():
    """The module of misbehaving contenders, registered while these tests run."""
    copy = Registry()
    for operation in OPERATIONS:
        for entry in contenders(operation).values():
            copy.add(entry)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "REGISTRY", copy)
        yield importlib.import_module("misbehaving")
    del sys.modules["misbehaving"]


@pytest.fixture(scope="module")
def child():
    with Child() as one:
        yield one


def measured(child: Child, name: str) -> Measurement:
    """A row, or an AssertionError where it ends the sweep instead."""
    try:
        return child.measure(Point(SMALL, name), budget_s=0.02, machine=FAST)
    except BaseException as error:
        pytest.fail(f"{name} ended the sweep: {type(error).__name__}", pytrace=False)


@examples(25)
@given(data=st.data())
def test_it_is_a_row(misbehaving, child, data):
    name = data.draw(st.sampled_from(sorted(misbehaving.STATUS)))
    taken = measured(child, name)
    assert taken.status == misbehaving.STATUS[name], taken.error_text
    assert bool(taken.samples_ns) == (taken.status == "ok")
    assert "\n" not in taken.error_text and bool(taken.error_text) == (taken.status != "ok")
    assert Measurement.from_row(json.loads(json.dumps(taken.row(), allow_nan=False))).row() == taken.row()


def test_after_all_of_them_a_good_one_is_measured(misbehaving, child):
    assert measured(child, "misbehaving: is good").status == "ok"
    assert set(misbehaving.STATUS) <= set(contenders("attention"))
