"""The decode kernels compiled for GPUs that are not there: registers, spills, shared memory, asynchronous copies.

What the interpreter cannot show. All are compiled in processes of their own, two at a time.
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
    pytest.mark.timeout(1200),
]
SHARED_KIB = {"8.0": 163, "9.0": 227, "12.0": 99}  # a block's, by the maker's programming guides


def compile_decode(capability):
    root = Path(__file__).parents[2]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = f"{root / 'kernels'}{os.pathsep}{root / 'lab'}"
    script = Path(__file__).with_name("compile_decode.py")
    done = subprocess.run([sys.executable, script, capability], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return {tuple(row["case"]): row for row in map(json.loads, done.stdout.splitlines())}


@pytest.fixture(scope="module")
def compiled():
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(SHARED_KIB, pool.map(compile_decode, SHARED_KIB), strict=True))


@pytest.mark.parametrize("capability", SHARED_KIB)
def test_nothing_spills_and_shared_memory_fits(compiled, capability):
    cases = compiled[capability]
    assert {
        ("fused", 128, 2),
        ("decode", 512, 64),
        ("reduce", 512, 2),
        ("decode ring", 512, 2),
        ("decode capped", 64, 64),
        ("decode started", 512, 2),
    } <= {case[:3] for case in cases}
    for case, row in cases.items():
        assert row["spill_bytes"] == 0, case
        assert row["shared_bytes"] <= SHARED_KIB[capability] * 1024, case


@pytest.mark.parametrize("capability", SHARED_KIB)
def test_keys_and_values_come_by_asynchronous_copies_of_16_bytes(compiled, capability):
    for case, row in compiled[capability].items():
        if case[0] != "reduce":
            assert row["copies"] > 0 and row["copies"] == row["wide_copies"], case


@pytest.mark.parametrize("capability", SHARED_KIB)
def test_half_precision_runs_on_tensor_cores(compiled, capability):
    for (name, *_, dtype), row in compiled[capability].items():
        assert (row["tensor_cores"] > 0) == (name != "reduce" and dtype != "float32")
