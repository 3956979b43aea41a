"""The kernels between products, compiled without a GPU: wide loads, no spills, early launches on Hopper."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="Triton compiles on Linux alone"),
    pytest.mark.timeout(600),
]
CAPABILITIES = ("8.0", "9.0")


def compile_all(capability):
    root = Path(__file__).parents[2]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = f"{root / 'kernels'}{os.pathsep}{root / 'lab'}"
    script = Path(__file__).with_name("compile_pointwise.py")
    done = subprocess.run([sys.executable, script, capability], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return {tuple(row["case"]): row for row in map(json.loads, done.stdout.splitlines())}


@pytest.fixture(scope="module")
def compiled():
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(CAPABILITIES, pool.map(compile_all, CAPABILITIES), strict=True))


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("rows", [1, 64])
@pytest.mark.parametrize("kernel", ["norm", "heads", "gate"])
def test_a_kernel_between_products(compiled, capability, rows, kernel):
    row = compiled[capability][kernel, rows]
    assert row["spill_bytes"] == 0
    assert row["wide_loads"] > row["narrow_loads"]
    assert row["waits"] == (capability == "9.0")
