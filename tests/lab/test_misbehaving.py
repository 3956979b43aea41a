"""Contenders that cheat, crash or hang: each becomes a row that says so, and the sweep goes on."""

import importlib
import linecache
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import blockskip as bs
import psutil
import pytest
import torch
from skiplab.contenders import Planned, contender, kernel
from skiplab.doctor import usable_contenders
from skiplab.machine import Machine
from skiplab.measure import Child, Point, measure
from skiplab.measure import child as child_module
from skiplab.measure.failure import attempt
from skiplab.measure.shipping import dumps
from skiplab.measure.timing import Cancelled
from skiplab.measure.verify import check
from skiplab.workload import Workload

SMALL = Workload(96, mask=bs.sliding_window(32), q_heads=2, kv_heads=1, head_dim=32)
SLOW_MACHINE = Machine("slow", "cpu", bandwidth_gbps=1.0, tflops=1e-3)
FAST = Machine("fast", "cpu", bandwidth_gbps=1e6, tflops=1e6)
"""Roofs that a child need not measure first, which takes two seconds."""
pytestmark = pytest.mark.usefixtures("own_registry")


def register(name, act, module="__main__"):
    """A kernel that acts, then does what SDPA does; by its module one of a notebook."""

    def build(workload, inputs):
        sdpa = contender("sdpa").build(workload, inputs)

        def call(q, k, v):
            act()
            return sdpa(q, k, v)

        return call

    build.__module__ = module
    kernel(name=name)(build)
    return Point(SMALL, name)


def raiser(error):
    def act():
        raise error

    return act


class Unreadable(BaseException):
    def __str__(self):
        raise SystemExit(5)


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (SystemExit(3), "crashed", "SystemExit: 3"), (KeyboardInterrupt(), "crashed", "KeyboardInterrupt"),
        (GeneratorExit("no"), "crashed", "GeneratorExit: no"), (BaseException("no"), "crashed", "BaseException: no"),
        (Cancelled(), "crashed", "Cancelled"), (MemoryError(), "out-of-memory", "MemoryError"),
        (Unreadable(), "crashed", "Unreadable: (its message cannot be read)"),
    ],
)  # fmt: skip
def test_whatever_is_raised_is_a_row(error, status, text):
    point = register("fails", raiser(error))
    taken = measure(point, budget_s=0.05)
    assert (taken.status, taken.error_text, taken.samples_ns) == (status, text, ())
    report = check("fails", "cpu", ["float32"])
    assert {row.status for row in report.rows} == {status} and not report.passed


def test_memory_that_the_cpu_does_not_have_is_out_of_memory():
    taken = measure(register("fails", lambda: torch.empty(1 << 50)), budget_s=0.05)
    assert taken.status == "out-of-memory" and "allocate" in taken.error_text


def test_supports_may_raise():
    kernel(name="fails", supports=raiser_of(KeyError("no")))(lambda workload, inputs: None)
    assert measure(Point(SMALL, "fails")).error_text == "KeyError: 'no'"
    assert {row.text for row in check("fails", "cpu", ["float32"]).rows} == {"KeyError: 'no'"}
    assert [one.reason for one in usable_contenders("cpu") if one.name == "fails"] == ["KeyError: 'no'"]


def raiser_of(error):
    return lambda workload: raiser(error)()


def test_a_plan_that_no_file_holds_is_a_row():
    @kernel(name="plans")
    def build(workload, inputs):
        return Planned(contender("sdpa").build(workload, inputs), {"dtype": torch.float16})

    taken = measure(Point(SMALL, "plans"), budget_s=0.05)
    assert taken.status == "crashed" and "not JSON serializable" in taken.error_text


@pytest.mark.parametrize("swallows", [False, True])
def test_ctrl_c_of_the_user_is_no_row(swallows):
    def act():
        try:
            signal.raise_signal(signal.SIGINT)
        except BaseException:
            if not swallows:
                raise

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        measure(register("interrupted", act), budget_s=0.05)
    assert signal.getsignal(signal.SIGINT) is handler


def test_what_is_cancelled_is_cancelled():
    with pytest.raises(Cancelled):
        attempt(raiser(Cancelled()), lambda: True)


# In the child: a row too, at once, and this process lives.


@pytest.fixture(scope="module")
def shared_child():
    with Child() as one:
        yield one


@pytest.fixture
def child(shared_child, warm_children):
    """One for all tests; where it must be started anew, it is warm."""
    return shared_child


MODULE = """
import skiplab
from skiplab.contenders import contender

@skiplab.kernel(name="of a module")
def build(workload, inputs):
    return contender("sdpa").build(workload, inputs)
"""


def test_a_child_survives_what_is_raised(child):
    assert child.measure(register("works", lambda: None), budget_s=0.05, machine=SLOW_MACHINE).status == "ok"
    process = child._process
    for act, text in (
        (sys.exit, "SystemExit"), (raiser_here(), "KeyboardInterrupt"), (raiser(ValueError("no")), "ValueError: no"),
    ):  # fmt: skip
        taken = child.measure(register("raises", act), budget_s=0.05)
        assert (taken.status, taken.error_text) == ("crashed", text)
    forked = child.measure(register("forks", fork_once()), budget_s=0.05, machine=FAST)
    assert forked.status == "ok", forked.error_text
    assert (
        child.measure(register("works again", lambda: None), budget_s=0.05, machine=FAST).point.contender
        == "works again"
    )
    assert child._process is process


def test_kernels_of_modules_are_imported_and_those_that_cannot_be_are_rows(child, tmp_path, monkeypatch):
    (tmp_path / "a_module_of_a_test.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("a_module_of_a_test")
    assert child.measure(Point(SMALL, "of a module"), budget_s=0.05, machine=FAST).status == "ok"
    gone = types.ModuleType("a_module_that_nobody_finds")
    monkeypatch.setitem(sys.modules, gone.__name__, gone)
    exec("def build(workload, inputs): ...", gone.__dict__)
    kernel(name="gone")(gone.build)
    assert "No module named 'a_module_that_nobody_finds'" in child.measure(Point(SMALL, "gone")).error_text
    lock = threading.Lock()
    unsendable = child.measure(register("holds a lock", lambda: lock.locked()), budget_s=0.05)
    assert unsendable.status == "crashed"
    assert "holds a lock cannot be sent to a child process (TypeError: cannot pickle" in unsendable.error_text


def test_a_hung_kernel_is_ended_by_its_limit_or_when_cancelled(child):
    hangs = register("hangs", lambda: time.sleep(600))
    hung = child.measure(hangs, budget_s=0.05, timeout_s=0.5)
    assert (hung.status, hung.error_text) == ("timeout", "no result after 0.5 s; the child was ended")
    with pytest.raises(Cancelled):
        child.measure(hangs, cancelled=iter([False] * 40 + [True]).__next__)
    assert child._process is None


def test_a_child_whose_gpu_failed_is_replaced(child):
    def poison():
        import torch

        def synchronize():
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

        torch.cuda.is_initialized, torch.cuda.synchronize = lambda: True, synchronize

    assert child.measure(register("poisons", poison), budget_s=0.05, machine=FAST).status == "ok"
    assert child._process is None


def raiser_here():
    def act():
        raise KeyboardInterrupt

    return act


def fork_once():
    done = []

    def act():
        if not done:
            done.append(1)
            os.fork()

    return act


def test_what_ends_the_child_is_a_row_at_once(child, monkeypatch):
    left = child.measure(register("leaves", lambda: os._exit(0)), budget_s=0.05)
    assert (left.status, left.error_text) == ("crashed", "the child process died with exit code 0")
    kills = iter((0, 1))
    monkeypatch.setattr(child_module, "oom_kills", lambda: next(kills))
    full = child.measure(register("is killed", lambda: os.kill(os.getpid(), signal.SIGKILL)), budget_s=0.05)
    assert (full.status, full.error_text.partition(",")[0]) == ("out-of-memory", "the system ended the child process")


def test_the_systems_count_of_kills_is_read(monkeypatch):
    assert child_module.oom_kills() >= 0
    monkeypatch.setattr(Path, "read_text", lambda self: "nr_free_pages 1\noom_kill 7\n")
    assert child_module.oom_kills() == 7


def test_a_notebooks_kernel_that_aborts_takes_nobody_along(child):
    aborted = child.measure(register("aborts", os.abort), budget_s=0.05)
    assert (aborted.status, aborted.error_text) == ("crashed", "the child process died of signal 6 (Aborted)")


def test_ctrl_c_ends_a_child_and_is_the_users():
    with Child() as one:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            one.measure(register("hangs", lambda: time.sleep(600)))
        assert one._process is None


LAB = """
import ctypes, os, subprocess, sys, time
from pathlib import Path
import blockskip as bs
from skiplab.contenders import kernel
from skiplab.machine import Machine
from skiplab.measure import Child, Point
from skiplab.workload import Workload

@kernel(name="hangs")
def build(workload, inputs):
    grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(PIDS).write_text(f"{os.getpid()} {os.getppid()} {grandchild.pid}\\n")
    ctypes.PyDLL(None).sleep(600)  # it holds Python's lock

with Child() as child:  # no guard: a child does not run this file again
    child.measure(Point(Workload(96), "hangs"))
"""


def test_a_hung_kernel_dies_with_its_lab_even_by_kill_9(tmp_path):
    script, pids = tmp_path / "lab.py", tmp_path / "pids"
    script.write_text(f"PIDS = {str(pids)!r}\n{LAB}")
    lab = subprocess.Popen([sys.executable, script], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    try:
        wait_until(lambda: pids.exists() and pids.read_text().endswith("\n"))
        started = [int(word) for word in pids.read_text().split()]
        assert len(started) == 3 and all(map(is_running, started))
    finally:
        lab.kill()
        lab.wait()
    wait_until(lambda: not any(map(is_running, started)))


def wait_until(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def is_running(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


CELL = """import triton
import triton.language as tl

@triton.jit
def add_one(x, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x + at, tl.load(x + at, mask=at < n) + 1, mask=at < n)
"""


def test_a_triton_kernel_of_a_notebook_comes_with_its_source():
    cell = {"__name__": "__main__"}
    linecache.cache["<cell>"] = (len(CELL), None, CELL.splitlines(keepends=True), "<cell>")
    exec(compile(CELL, "<cell>", "exec"), cell)
    sent = dumps(cell["add_one"])
    del linecache.cache["<cell>"]
    found = pickle.loads(sent)
    assert found is not cell["add_one"] and found.src == cell["add_one"].src
    assert found.arg_names == ["x", "n", "BLOCK"] and found.constexprs == [2]


def test_a_triton_kernel_of_a_module_goes_by_name(tmp_path, monkeypatch):
    """A module of its own: blockskip's may have been imported for the interpreter."""
    (tmp_path / "its_own.py").write_text(CELL)
    monkeypatch.syspath_prepend(tmp_path)
    add_one = importlib.import_module("its_own").add_one
    assert type(add_one).__name__ == "JITFunction" and pickle.loads(dumps(add_one)) is add_one
    del sys.modules["its_own"]
