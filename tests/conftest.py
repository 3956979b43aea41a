"""What all tests share."""

import os
import sys
import tempfile
from pathlib import Path

import pytest

# Processes beside each other share the cores, and their children, too: each with a thread for every core, they would
# wait for one another, and spin meanwhile. Read when torch is imported.
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, CORES // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))))
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch  # noqa: E402

# before what is installed, here and in the tests' child processes
QUICK = str(Path(__file__).with_name("quick"))
sys.path.insert(0, QUICK)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (QUICK, os.environ.get("PYTHONPATH"))))

# nobody's own measurements decide what the tests see
os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="skiplab-tests-")


@pytest.fixture
def one_thread():
    """One thread of torch for small problems, where threads cost more than they bring."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
