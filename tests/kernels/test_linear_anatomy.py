"""The matvec compiled for GPUs that are not there: 16-byte loads, dp4a, no shared memory in the loop, no spills.

What the interpreter cannot show.
"""

import sys

import pytest
from anatomies import compiled_by

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="Triton compiles on Linux alone"),
    pytest.mark.timeout(1200),
]
CAPABILITIES = ("8.0", "9.0", "12.0")
METADATA = {
    "zero": 2,
    "tiles": 2,
    "symmetric": 1,
    "minimum": 2,
    "middle": 2,
    "encoded": 4,
    "encoded symmetric": 2,
}  # loads of it
METADATA |= {"symmetric of 16": 3}  # scale codes of both halves of a block, and the step
MOST_REGISTERS = 136  # 15 programs of one warp fit an SM's registers


def matvecs(rows):
    return [row for row in rows if "case" in row]


@pytest.fixture(scope="module")
def compiled(fresh_process):
    return compiled_by(fresh_process, "compile_linear.py", CAPABILITIES)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_the_asked_for_shapes_are_there(compiled, capability):
    cases = {tuple(row["case"]) for row in matvecs(compiled[capability])}
    assert {(k, group, 4, 1, "zero") for k in (5376, 8192, 21504) for group in (32, 64, 128)} <= cases
    assert {(5376, 32, 4, 1, "encoded"), (5376, 32, 4, 8, "encoded")} <= cases


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_no_shared_memory_in_the_loop_and_no_spills(compiled, capability):
    for row in matvecs(compiled[capability]):
        assert row["products_in_loop"] > 0 and row["shared_in_loop"] == [], row
        assert row["spill_bytes"] == 0 and row["registers"] <= MOST_REGISTERS, row


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_a_weight_load_of_16_bytes_serves_all_rows(compiled, capability):
    """A step is 8 dp4a a row: one or two wide loads of weights in all, two of activations a row, and the metadata."""
    for row in matvecs(compiled[capability]):
        _, _, bits, rows, metadata = row["case"]
        steps = row["products"] / (8 * rows)
        assert row["wide_loads"] == steps * (bits // 4 + 2 * rows), row
        sums_needed = 0 if "symmetric" in metadata and bits == 8 else rows
        more = row["narrow_loads"] - steps * (METADATA[metadata] + rows + sums_needed)
        assert more == 0 or (more == 1 and "16" in metadata), row  # Triton 3.6 reads the step for each half, in the L1


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_dequantizing_moves_16_bytes_at_a_time_and_a_group_s_metadata_once(compiled, capability):
    for row in compiled[capability]:
        if "dequantize" in row:
            assert row["spill_bytes"] == 0 and all(".128" in name for name in row["stores"]), row
            narrow, wide = ([name for name in row["loads"] if (".128" in name) == wide] for wide in (False, True))
            assert len(narrow) == METADATA[row["metadata"]] and len(wide) == row["dequantize"] // 4, row


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_what_is_kept_to_be_shown_differs_in_that_alone(compiled, capability):
    wide = {
        row["ablation"]: row["wide_loads"] * 8 / row["products"] for row in compiled[capability] if "ablation" in row
    }
    assert wide == {"strided": 3, "scalar": 1}  # a step: one of weights and two of activations, or of weights alone
