"""What all tests share."""

import os
import tempfile

import torch

# nobody's own measurements decide what the tests see
os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="skiplab-tests-")

# processes beside each other share the cores: each with a thread for every core, they would wait for one another
torch.set_num_threads(max(1, torch.get_num_threads() // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))))
