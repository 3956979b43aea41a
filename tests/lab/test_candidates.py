"""Candidates: what arithmetic leaves, and what compiling says. Compiles two kernels in processes of their own."""

import sys

import pytest
import torch
from blockskip.config import TileConfig, prefill_config
from skiplab.measure.timing import Cancelled
from skiplab.tuning import compiling as module
from skiplab.tuning.attention import candidates
from skiplab.tuning.base import Candidate
from skiplab.tuning.compiling import Compiled, Job, compile_all
from skiplab.workload import Workload

BOTH = [(9, 0), (8, 0), (8, 9), (12, 0)]


@pytest.mark.parametrize("capability", BOTH)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("head_dim", [40, 64, 96, 128, 256, 512])
def test_the_tables_own_are_among_them(capability, dtype, head_dim):
    for length, rows in (("short", 0), ("medium", None), ("long", None)):
        found = candidates(capability, head_dim, dtype, length)
        assert tuple(prefill_config(capability, head_dim, dtype, rows, 132)) in found
        assert len(found) < 100
        assert all(TileConfig(*config) for config in found)
        assert len(set(found)) == len(found)


def test_what_does_not_fit_in_shared_memory_is_left_out():
    long = candidates((9, 0), 256, torch.bfloat16, "long")
    assert (128, 64, 8, 2) in long
    assert (128, 64, 8, 4) not in long  # 128 rows and 4 x 2 x 64 keys of 512 bytes are 320 KiB of 227


def test_accumulators_must_fit_and_fill_the_registers():
    long = candidates((9, 0), 256, torch.bfloat16, "long")
    assert (256, 64, 8, 2) not in long  # 320 numbers a thread of 255 registers
    assert (64, 32, 16, 2) in long
    assert (64, 32, 16, 2) not in candidates((9, 0), 64, torch.bfloat16, "long")  # 12


def test_small_tiles_are_for_short_calls_where_products_want_warp_groups():
    assert {config[0] for config in candidates((9, 0), 128, torch.bfloat16, "long")} == {64, 128, 192, 256}
    assert 32 in {config[0] for config in candidates((9, 0), 128, torch.bfloat16, "short")}
    assert 32 in {config[0] for config in candidates((8, 0), 256, torch.bfloat16, "long")}


def test_given_ones_are_taken_as_they_are():
    assert candidates((9, 0), 128, torch.bfloat16, "long", [(16, 16, 1, 8)]) == [(16, 16, 1, 8)]


@pytest.mark.parametrize(
    ("compiled", "refusal"),
    [
        (Compiled(200, 0, 100 << 10), ""),
        (Compiled(255, 64, 100 << 10), ""),
        (Compiled(255, 72, 100 << 10), "spills"),
        (Compiled(255, 0, 228 << 10), "too much shared memory"),
        (Compiled(problem="died (ProcessExpired)"), "died (ProcessExpired)"),
    ],
)
def test_what_compiling_says(compiled, refusal):
    assert compiled.refusal((9, 0), 64) == refusal


def job(config, workload=None):
    return Job((9, 0), workload or Workload(512, head_dim=64), Candidate("blockskip", config))


@pytest.mark.skipif(sys.platform != "linux", reason="Triton compiles on Linux alone")
def test_kernels_are_compiled_side_by_side_for_a_gpu_that_is_not_here():
    workload = Workload(512, head_dim=64)
    jobs = [job(config, workload) for config in ((64, 64, 4, 2), (64, 48, 4, 2))]
    good, bad = compile_all(jobs, 2, progress=False).values()
    assert good.registers > 32
    assert good.shared_bytes >= 2 * 64 * (64 + 2 * 2 * 64)  # q, and keys and values of two stages
    assert good.refusal((9, 0), 0) == ""
    assert bad.problem == "does not compile (ValueError)"


def test_compiling_can_be_stopped():
    jobs = [job((64, 64, 4, 2))]
    with pytest.raises(Cancelled):
        compile_all(jobs, 1, cancelled=lambda: True, progress=False)


def test_a_compiler_that_dies_or_hangs_costs_one_candidate(monkeypatch):
    jobs = [job((64, 64, 4, stages)) for stages in (1, 2)]
    monkeypatch.setattr(module, "COMPILE_S", 0.001)
    assert [one.problem for one in compile_all(jobs, 1, progress=False).values()] == ["died (TimeoutError)"] * 2
