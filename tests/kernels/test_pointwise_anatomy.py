"""The kernels between products, compiled without a GPU: wide loads, no spills, early launches on Hopper."""

import sys

import pytest
from anatomies import by_case, compiled_by

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="Triton compiles on Linux alone"),
    pytest.mark.timeout(600),
]
CAPABILITIES = ("8.0", "9.0")


@pytest.fixture(scope="module")
def compiled(fresh_process):
    found = compiled_by(fresh_process, "compile_pointwise.py", CAPABILITIES)
    return {capability: by_case(rows) for capability, rows in found.items()}


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("rows", [1, 64])
@pytest.mark.parametrize("kernel", ["norm", "heads", "gate"])
def test_a_kernel_between_products(compiled, capability, rows, kernel):
    row = compiled[capability][kernel, rows]
    assert row["spill_bytes"] == 0
    assert row["wide_loads"] > row["narrow_loads"]
    assert row["waits"] == (capability == "9.0")
