import blockskip as bs
import pytest
import torch
from skiplab import contenders as contenders_module
from skiplab.contenders import Planned, contender, kernel
from skiplab.machine import Machine
from skiplab.measure import Measurement, Point, impossible, measure
from skiplab.measure.attention import work_done
from skiplab.workload import LinearWorkload, Workload

SMALL = Workload(96, mask=bs.sliding_window(32), q_heads=2, kv_heads=1, head_dim=32)


pytestmark = pytest.mark.usefixtures("own_registry")


def test_a_measurement_is_checked_and_timed():
    taken = measure(Point(SMALL, "blockskip"), budget_s=2)
    assert taken.status == "ok", taken.error_text
    assert taken.error <= taken.tolerance
    assert taken.method == "cpu"
    assert len(taken.samples_ns) >= 10
    assert taken.median_ns > 0
    assert taken.iqr_ns >= 0
    assert taken.plan["impl"] == "tiled"
    assert taken.work.useful_flops < taken.work.executed_flops <= taken.work.dense_flops


def test_rows_come_back():
    taken = measure(Point(SMALL, "sdpa"), budget_s=0.2)
    assert Measurement.from_row(taken.row()) == taken


def test_what_a_build_chose_is_in_the_row():
    @kernel(name="chooses")
    def build(workload, inputs):
        return Planned(contender("sdpa").build(workload, inputs), {"kernel_options": {"BLOCK_M": 64}})

    taken = measure(Point(SMALL, "chooses"), budget_s=0.1)
    assert taken.status == "ok", taken.error_text
    assert taken.row()["plan"] == {"kernel_options": {"BLOCK_M": 64}}


def test_a_wrong_result_is_a_row_without_a_time():
    @kernel(name="wrong")
    def build(workload, inputs):
        return lambda q, k, v: torch.zeros_like(q)

    taken = measure(Point(SMALL, "wrong"), budget_s=0.2)
    assert taken.status == "wrong"
    assert taken.samples_ns == ()
    assert "above the tolerance" in taken.error_text
    assert taken.error > taken.tolerance


def test_a_result_that_goes_wrong_after_a_while_is_found():
    @kernel(name="tires")
    def build(workload, inputs):
        sdpa, calls = contender("sdpa").build(workload, inputs), []

        def call(q, k, v):
            calls.append(1)
            return sdpa(q, k, v) * (1 if len(calls) < 5 else 2)

        return call

    taken = measure(Point(SMALL, "tires"), budget_s=0.2)
    assert taken.status == "wrong"
    assert "fresh seed after timing" in taken.error_text


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("no\nmore"), "crashed"), (torch.OutOfMemoryError("full"), "out-of-memory"),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried"), "out-of-memory"),
        (contenders_module.Unsupported("not today"), "unsupported"),
    ],
)  # fmt: skip
def test_failures_are_rows(error, status):
    @kernel(name="fails")
    def build(workload, inputs):
        raise error

    taken = measure(Point(SMALL, "fails"), budget_s=0.2)
    assert (taken.status, taken.samples_ns) == (status, ())
    assert "\n" not in taken.error_text
    taken.row()


def test_unsupported_says_why():
    taken = measure(Point(SMALL, "blockskip-map"))
    assert taken.status == "unsupported"
    assert "CUDA" in taken.error_text
    if not torch.cuda.is_available():
        assert "no CUDA device" in measure(Point(SMALL, "sdpa", device="cuda")).error_text


def test_nothing_is_timed_in_the_interpreter(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    taken = measure(Point(SMALL, "sdpa"))
    assert taken.status == "unsupported"
    assert "interpreter" in taken.error_text


def test_unknown_contenders_are_errors():
    with pytest.raises(ValueError, match="no 'nobody'"):
        measure(Point(SMALL, "nobody"))


def test_impossible_times_are_flagged(monkeypatch):
    slow = Machine("slower", "cpu", bandwidth_gbps=1.0, tflops=1e-9)
    monkeypatch.setattr(impossible, "measured_machine", lambda device, dtype: slow)
    assert "impossible" in measure(Point(SMALL, "sdpa"), budget_s=0.2, machine=slow).flags


def test_our_linear_says_what_it_chose():
    taken = measure(Point(LinearWorkload(64, 64), "blockskip"), budget_s=0.05)
    assert taken.status == "ok", taken.error_text
    assert taken.plan == {"impl": "tiled", "kernel": None, "config": None, "splits": 1}
    assert measure(Point(LinearWorkload(64, 64), "bf16"), budget_s=0.05).plan == {}


def test_work_counts_what_a_contender_reads():
    workload = Workload(256, head_dim=64)
    dense = work_done(contender("sdpa"), workload, None)
    least = 2 * 2 * 64 * 8 * (256 + 256)
    assert dense.executed_flops == dense.dense_flops
    assert dense.bytes == least + 256 * 256
    assert dense.minimal_bytes == least
    assert work_done(contender("sdpa-causal"), workload, None).executed_flops is None


def test_work_in_a_buffer_counts_its_mask_and_the_repeated_heads():
    workload = Workload(64, 128, bs.sliding_window(32), q_heads=4, kv_heads=2, head_dim=32, q_start=0)
    q_and_out, all_keys, pairs = 2 * 2 * 64 * 4 * 32, 2 * 2 * 128 * 4 * 32, 64 * 128
    added = work_done(contender("sdpa-efficient-mask"), workload, None)
    assert added.bytes == q_and_out + all_keys + 2 * pairs
    assert added.executed_flops == added.dense_flops == 4 * 4 * 32 * pairs
    dense = work_done(contender("sdpa"), workload, None)
    assert dense.bytes == q_and_out + all_keys // 2 + pairs
    for name in ("flash-window", "fa3", "fa4", "flashinfer", "efficient-window"):
        assert work_done(contender(name), workload, None).executed_flops is None  # its tiles are its own affair


def test_a_childs_bars_make_no_semaphore(fresh_process):
    code = (
        "from multiprocessing import resource_tracker, set_start_method\n"
        "set_start_method('spawn')\n"
        "resource_tracker.register = lambda name, kind: print('made', kind)\n"
        "import os\n"
        "from skiplab.measure.serving import begin_child\n"
        "begin_child(os.getppid())\n"
        "from torch.hub import tqdm\n"
        "tqdm([]).close()\n"
    )
    done = fresh_process("-c", code)
    assert done.returncode == 0, done.stderr
    assert "made" not in done.stdout
