"""What all tests share."""

import os
import sys
import tempfile
from pathlib import Path

import torch

# before what is installed, here and in the tests' child processes
QUICK = str(Path(__file__).with_name("quick"))
sys.path.insert(0, QUICK)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (QUICK, os.environ.get("PYTHONPATH"))))

# nobody's own measurements decide what the tests see
os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="skiplab-tests-")

# processes beside each other share the cores: each with a thread for every core, they would wait for one another
torch.set_num_threads(max(1, torch.get_num_threads() // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))))
