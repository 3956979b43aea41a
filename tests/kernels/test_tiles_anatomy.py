"""The product of a weight in tiles, compiled for a Hopper GPU that is not there: what its times rest on."""

import sys

import pytest
from anatomies import compiled_by

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Triton compiles on Linux alone")


@pytest.fixture(scope="module")
def compiled(fresh_process):
    return compiled_by(fresh_process, "compile_tiles.py", ["9.0"])["9.0"]


def test_next_to_nothing_spills_in_a_loop_and_all_fits(compiled):
    assert len(compiled) == 11
    for row in compiled:
        assert row["spilled_in_loops"] == 0, row
        assert row["spill_bytes"] <= 32, row
        assert row["shared_bytes"] <= 227 << 10, row


def steps(row):
    """How often a step stands in the kernel: from 128 rows on two in the loop, and one behind it for odd numbers. The
    first one's codes are unpacked before the loop, the last one's successor's not at all: as often."""
    return 3 if row["block_m"] >= 128 else 1


def test_codes_become_operands_in_registers_by_three_or_four_instructions_a_pair(compiled):
    """A thread has block_k / 2 codes of a step and group: a shift, an and-or and a difference for each pair, and a
    product where it is the codes that are scaled."""
    for row in compiled:
        pairs, found = row["groups"] * row["block_k"] // 4 * steps(row), row["instructions"]
        assert found.get("HMUL2", 0) == (pairs if row["block_m"] > 8 else 0), row
        assert pairs <= found["HADD2"] + found.get("HFMA2", 0) <= 1.25 * pairs, row


def test_few_rows_scale_sums(compiled):
    """A product of 16 x 8 x 16 a warp, and four sums a thread to scale for each 32 columns; operands come by fours."""
    for row in (row for row in compiled if row["block_m"] <= 8):
        products = row["groups"] * row["block_k"] // 16 * (row["block_m"] // 8)
        assert row["instructions"]["HMMA"] == products, row
        group_size = row["case"][3]
        assert row["instructions"]["FFMA"] == products * 2 * 32 // group_size, row
        assert row["matrix_loads"] == row["groups"] * row["block_k"] // 64 + products // 2, row
        assert row["loop_instructions"] <= 1.2 * row["block_k"] + 4 * row["block_m"], row


def test_addresses_of_a_loop_stay_in_uniform_registers(compiled):
    """A wait that threads of a warp may leave one by one, anywhere in the kernel, would keep them out of there."""
    for row in compiled:
        assert row["moved_in_loops"] == 0, row


def test_products_of_many_rows_follow_each_other_without_waiting(compiled):
    for row in (row for row in compiled if row["block_m"] > 8):
        assert row["instructions"]["HGMMA"] == row["groups"] * row["block_k"] // 16 * steps(row), row
        assert row["waits"] == row["groups"] * steps(row), row
        assert row["matrix_loads"] == row["groups"] * row["block_k"] // 64 * steps(row), row


def test_from_128_rows_on_codes_are_unpacked_while_tensor_cores_multiply(compiled):
    """Nearly all of the two steps in a loop: ptxas moves a few behind the wait."""
    for row in (row for row in compiled if row["block_m"] >= 128):
        scaled = row["groups"] * row["block_k"] // 4 * 2
        assert row["scaled_behind_waits"] <= 0.25 * scaled, row


def test_results_leave_by_the_copy_engine_and_shared_sums_by_16_bytes(compiled):
    for row in (row for row in compiled if row["block_m"] > 8):
        assert row["narrow_stores"] == 0 and row["instructions"]["UTMASTG"] == row["groups"], row
        assert row["wide_sums"] == row["groups"] * row["block_m"] // 8, row
