"""The decode kernels compiled for GPUs that are not there: registers, spills, shared memory, asynchronous copies.

What the interpreter cannot show.
"""

import sys

import pytest
import torch
from anatomies import by_case, compiled_by
from blockskip.attention.call import DecodeCall
from blockskip.attention.decode.plan import MOST_A_MULTIPROCESSOR, decode_config, programs_at_once

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="Triton compiles on Linux alone"),
    pytest.mark.timeout(1200),
]
SHARED_KIB = {"8.0": 163, "9.0": 227, "12.0": 99}  # a block's, by the maker's programming guides

SPILLS = {
    ("9.0", "fused float8", 128, 2, "bfloat16"): 8,
    ("9.0", "decode", 128, 64, "bfloat16"): 8,
    ("9.0", "decode", 256, 64, "bfloat16"): 8,
    ("9.0", "decode", 96, 48, "float16"): 8,
    ("9.0", "decode bits", 128, 64, "bfloat16"): 40,
    ("9.0", "decode bits", 512, 64, "bfloat16"): 8,
    ("9.0", "decode ragged", 128, 64, "bfloat16"): 112,
    ("9.0", "decode ragged", 256, 2, "bfloat16"): 48,
    ("9.0", "decode ragged", 256, 64, "bfloat16"): 216,
    ("9.0", "decode ragged", 512, 2, "bfloat16"): 48,
    ("9.0", "decode ragged", 512, 64, "bfloat16"): 240,
    ("9.0", "warp-specialized", 128, 512, "bfloat16"): 32,
    ("9.0", "warp-specialized", 256, 512, "bfloat16"): 40,
    ("9.0", "warp-specialized", 512, 64, "bfloat16"): 40,
    ("9.0", "warp-specialized", 512, 512, "bfloat16"): 40,
    ("9.0", "warp-specialized capped", 128, 512, "bfloat16"): 16,
    ("9.0", "warp-specialized started", 512, 512, "bfloat16"): 56,
    ("9.0", "warp-specialized known", 96, 512, "bfloat16"): 16,
    ("9.0", "warp-specialized known", 128, 512, "bfloat16"): 24,
    ("9.0", "warp-specialized known", 256, 512, "bfloat16"): 32,
    ("9.0", "warp-specialized known", 512, 512, "bfloat16"): 40,
    ("8.0", "decode ragged", 128, 64, "bfloat16"): 24,
    ("12.0", "decode", 256, 512, "bfloat16"): 8,
    ("12.0", "decode capped", 64, 64, "bfloat16"): 8,
    ("12.0", "decode ragged", 128, 64, "bfloat16"): 96,
    ("12.0", "decode bits", 128, 64, "bfloat16"): 8,
    ("12.0", "decode bits", 128, 512, "bfloat16"): 8,
}
"""Bytes, with triton 3.7.1: numbers that are stored before the loop over tiles and loaded behind it; ragged ones before
all KV heads of a program, and loaded for each. With 3.6 one case in ten."""


@pytest.fixture(scope="module")
def compiled(fresh_process):
    found = compiled_by(fresh_process, "compile_decode.py", SHARED_KIB)
    return {capability: by_case(rows) for capability, rows in found.items()}


@pytest.mark.parametrize("capability", SHARED_KIB)
def test_nothing_spills_and_shared_memory_fits(compiled, capability):
    cases = compiled[capability]
    assert {
        ("fused", 128, 2),
        ("decode" if capability != "9.0" else "warp-specialized", 512, 64),
        ("reduce", 512, 2),
        ("decode ring", 512, 2),
        ("decode capped", 64, 64),
        ("decode started", 512, 2),
    } <= {case[:3] for case in cases}
    for case, row in cases.items():
        assert row["spill_bytes"] <= SPILLS.get((capability, *case), 0), case
        assert row["shared_bytes"] <= SHARED_KIB[capability] * 1024, case


def test_hopper_multiplies_64_rows_by_wgmma_and_waits_for_products_not_for_each_instruction(compiled):
    """A wait for each of the 32 instructions of a product of 512 dimensions took as long as memory does."""
    rows = {case: row for case, row in compiled["9.0"].items() if case[2] >= 64 and row["wgmma"]}
    assert {
        ("decode", 128, 64, "bfloat16"),
        ("decode bits", 512, 64, "bfloat16"),
        ("decode ragged", 512, 64, "bfloat16"),
        ("warp-specialized", 128, 512, "bfloat16"),
        ("warp-specialized", 512, 64, "bfloat16"),
    } <= set(rows)
    for case, row in rows.items():
        # those of two groups, each with its first product, its loop's two, and its last; 96 is multiplied in two pieces
        of_groups = 24 if case[1] == 96 else 20
        assert row["wgmma_waits"] <= (of_groups if case[0].startswith("warp-specialized") else 6), case


def test_programs_that_share_work_are_as_many_as_hopper_holds(compiled):
    """By what they are compiled to: 228 KiB, of which each block takes one more, and 65,536 registers by eights."""
    rows = {case: row for case, row in compiled["9.0"].items() if case[0] == "decode ragged"}
    assert len(rows) >= 8
    for case, row in rows.items():
        _, head_dim, of_a_head, dtype = case
        q, k = (torch.empty((6, 4, n, head_dim), dtype=getattr(torch, dtype), device="meta") for n in (of_a_head, 4096))
        call = DecodeCall(q, k, k, 1.0, 4096, None, None, None, "triton", False)
        config = decode_config((9, 0), head_dim, call.tile_dtype, of_a_head)
        by_registers = 65536 // (-(-row["registers"] // 8) * 8 * 32 * config.num_warps)
        held = min(MOST_A_MULTIPROCESSOR, by_registers, (228 << 10) // (row["shared_bytes"] + 1024))
        assert programs_at_once(call, config, (9, 0)) == held, case


@pytest.mark.parametrize("capability", SHARED_KIB)
def test_keys_and_values_come_by_asynchronous_copies_of_16_bytes(compiled, capability):
    """Or by the copy engine."""
    for case, row in compiled[capability].items():
        if case[0].startswith("warp-specialized"):
            assert row["bulk_copies"] > 0 and row["copies"] == 0, case
        elif not case[0].startswith("reduce"):
            assert row["copies"] > 0 and row["copies"] == row["wide_copies"], case


@pytest.mark.parametrize("capability", ["9.0", "12.0"])
def test_float8_comes_from_shared_memory_in_words_and_becomes_float16_two_by_two(compiled, capability):
    """Bytes one by one, and conversions one by one, would take a step longer than memory does.

    Up to 8 bytes are of masks, and up to 64 conversions of the queries, once a program; a tile of keys has 64 or more.
    """
    rows = [row for case, row in compiled[capability].items() if case[0].endswith("float8")]
    assert len(rows) == 9
    for row in rows:
        assert row["byte_loads"] <= 8 and row["slow_conversions"] <= 64, row


@pytest.mark.parametrize("capability", SHARED_KIB)
def test_half_precision_runs_on_tensor_cores(compiled, capability):
    for (name, *_, dtype), row in compiled[capability].items():
        assert (row["tensor_cores"] > 0) == (not name.startswith("reduce") and dtype != "float32")
