"""The product of a weight in tiles, compiled for a Hopper GPU that is not there: what its times rest on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Triton compiles on Linux alone")


@pytest.fixture(scope="module")
def compiled():
    root = Path(__file__).parents[2]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = f"{root / 'kernels'}{os.pathsep}{root / 'lab'}"
    script = Path(__file__).with_name("compile_tiles.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def products(rows):
    return [row for row in rows if row["kernel"] == "product"]


def test_nothing_spills_and_all_fits(compiled):
    assert len(products(compiled)) == 8 and len(compiled) > 8
    for row in compiled:
        assert row["spill_bytes"] == 0 and row["shared_bytes"] <= 227 << 10, row


def test_codes_become_operands_in_registers_by_four_instructions_a_pair(compiled):
    """A thread has block_k / 2 codes of a step and group: an and-or, a difference and a product for each pair."""
    for row in products(compiled):
        pairs, found = row["groups"] * row["block_k"] // 4, row["instructions"]
        assert found["HMUL2"] == pairs and pairs <= found["HADD2"] + found.get("HFMA2", 0) <= 1.25 * pairs, row
        assert row["matrix_loads"] == row["groups"] * row["block_k"] // 64, row


def test_products_of_a_step_follow_each_other_without_waiting(compiled):
    for row in products(compiled):
        assert row["instructions"]["HGMMA"] == row["groups"] * row["block_k"] // 16, row
        assert row["waits"] == row["groups"], row
