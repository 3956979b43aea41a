"""The fused kernel compiled for GPUs that are not there: products on tensor cores, and no spills.

What the interpreter cannot show.
"""

import sys

import pytest
from anatomies import compiled_by

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="Triton compiles on Linux alone"),
    pytest.mark.timeout(600),
]
CAPABILITIES = ("8.0", "9.0", "12.0")


@pytest.fixture(scope="module")
def compiled(fresh_process):
    return compiled_by(fresh_process, "compile_fused.py", CAPABILITIES)


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
