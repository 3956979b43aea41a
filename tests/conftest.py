"""What all tests share."""

import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

# Processes beside each other share the cores, and their children, too: each with a thread for every core, they would
# wait for one another, and spin meanwhile. Read when torch is imported.
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, CORES // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))))
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Where bytecode is not kept, as containers often ask, every child would compile all that it imports of ours.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

import torch  # noqa: E402

# before what is installed, here and in the tests' child processes
WARM = Path(__file__).with_name("warm")
QUICK = str(Path(__file__).with_name("quick"))
sys.path.insert(0, QUICK)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (QUICK, os.environ.get("PYTHONPATH"))))

# nobody's own measurements decide what the tests see
os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="skiplab-tests-")


gc.disable()  # while tests are imported, which leaves hardly any


def pytest_collection_finish():
    """What is imported stays: looking for garbage in it, again and again, takes a seventh of the lab's tests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    gc.enable()


@pytest.fixture
def one_thread():
    """One thread of torch for small problems, where threads cost more than they bring."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def warm():
    """Variables with which notebooks' kernels, and `warm/client.py`, are forked from a process that has torch imported.

    SKIPLAB_TESTS_PYTHON: what stands in for `python`, and has modules, code, scripts and measuring children run so; all
    else is Python's own.
    Nothing elsewhere than on Linux, where processes start as they do for users.
    """
    if sys.platform != "linux":
        yield {}
        return
    folder = Path(tempfile.mkdtemp(prefix="warm-"))  # paths of sockets must be short
    kernel = folder / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    words = [sys.executable, str(WARM / "client.py"), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.write_text(json.dumps({"argv": words, "display_name": "Python 3", "language": "python"}))
    python = folder / "python"
    python.write_text(
        f'#!/bin/sh\ncase "$1" in -m|-c|-P|*.py) set -- "{WARM}/client.py" "$@";; esac\nexec "{sys.executable}" "$@"\n'
    )
    python.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    server = subprocess.Popen([sys.executable, WARM / "server.py", folder / "socket"], env=environment)
    while not (folder / "socket").exists():
        assert server.poll() is None, "what warm/server.py says is on stderr"
        time.sleep(0.05)
    yield {
        "SKIPLAB_TESTS_WARM": str(folder / "socket"),
        "SKIPLAB_TESTS_PYTHON": str(python),
        "JUPYTER_PATH": str(folder),
    }
    server.terminate()
    server.wait()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def warm_kernels(warm, monkeypatch):
    """Kernels that the test starts are warm."""
    for name, value in warm.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def warm_python(warm_kernels, monkeypatch):
    """Modules that are run in a Python of their own are, in a warm one."""
    monkeypatch.setattr(sys, "executable", os.environ.get("SKIPLAB_TESTS_PYTHON", sys.executable))


@pytest.fixture
def warm_children(warm_kernels, monkeypatch):
    """What the lab measures in a child of this process, it does in a warm one."""
    from skiplab.measure import child

    python = os.environ.get("SKIPLAB_TESTS_PYTHON", sys.executable)
    monkeypatch.setattr(child, "sys", SimpleNamespace(path=sys.path, executable=python))


@pytest.fixture(scope="session")
def fresh_process(warm):
    """fresh_process(*words) -> what a Python of its own said, where kernels are compiled, or interpreted if asked.

    Where a test runs may be settled already which of both they are. words: as for `python`; options: of subprocess.run.
    """

    def run(*words, interpret=False, **options):
        environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        environment |= {**warm, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        environment |= {"TRITON_INTERPRET": "1"} if interpret else {}
        python = [sys.executable, str(WARM / "client.py")] if warm else [sys.executable]
        options = {"timeout": 300, **options}
        return subprocess.run([*python, *words], capture_output=True, text=True, env=environment, **options)

    return run
