"""The fused kernel compiled for GPUs that are not there: products on tensor cores, and no spills.

What the interpreter cannot show. Each GPU's kernels are compiled in a process of their own, two at a time.
"""

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
CAPABILITIES = ("8.0", "9.0", "12.0")


def compile_all(capability):
    root = Path(__file__).parents[2]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = f"{root / 'kernels'}{os.pathsep}{root / 'lab'}"
    script = Path(__file__).with_name("compile_fused.py")
    done = subprocess.run([sys.executable, script, capability], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def compiled():
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(CAPABILITIES, pool.map(compile_all, CAPABILITIES), strict=True))


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_height_of_tile_is_there(compiled, capability):
    assert {row["case"][3] for row in compiled[capability]} == {16, 32, 64, 128}


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_nothing_spills_and_tensor_cores_do_the_product(compiled, capability):
    for row in compiled[capability]:
        assert row["spill_bytes"] == 0 and row["products"] > 0, row


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_no_code_is_loaded_alone(compiled, capability):
    assert all(row["byte_loads"] == 0 for row in compiled[capability] if row["case"][4] != "encoded")
