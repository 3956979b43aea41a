"""Compiles the prefill kernel for GPUs that are not there and prints what came out as JSON.

Usage: compile_all.py CAPABILITY..., such as 9.0
"""

from dataclasses import replace
from functools import partial
from itertools import product

import blockskip as bs
import torch
from anatomies import print_rows
from blockskip.attention.call import AttentionCall
from blockskip.attention.prefill import launch, plan
from blockskip.attention.varlen import launch as varlen
from blockskip.attention.varlen.call import VarlenArguments, check
from blockskip.attention.varlen.plan import plan_with
from blockskip.attention.varlen.schedule import most_items
from blockskip.config import TileConfig, prefill_config
from blockskip.launching.guards import GuardedInt
from skiplab.anatomy import attention_anatomy, compiling_for, read

SKIPS = ("none", "mask", "bounds", "map")
WINDOW_AND_SINK = bs.sliding_window(1024) | (bs.sink(4) & bs.causal())
CASES = [(d, skip, "bfloat16", "window") for d in (64, 128, 256, 512) for skip in SKIPS]
CASES += [(d, "map", "bfloat16", "mask bits") for d in (64, 128, 256, 512)]
CASES += [(128, skip, "float32", "window") for skip in ("none", "bounds")]
WIDE_TILES = {64: (64, 128, 4, 2), 128: (128, 128, 8, 2)}
"""Tiles of 128 keys, which the table has at D 512 alone, for Hopper."""
WARP_SPECIALIZED = {
    64: (128, 128, 12, 2), 96: (128, 128, 12, 3), 128: (128, 128, 12, 2), 256: (128, 64, 12, 2), 512: (64, 32, 12, 2),
}  # fmt: skip
"""Tiles of Hopper's warp-specialized kernel."""
# how keys and values are read where it is not the plain way: rows that a descriptor cannot describe, a ring, float8
READ = [(512, skip, "bfloat16", "odd rows") for skip in SKIPS] + [(d, "bounds", "bfloat16", "ring") for d in (128, 512)]
READ += [(d, skip, "bfloat16", "float8") for d in (128, 512) for skip in SKIPS]


def row_of(case, one):
    return {
        "case": case,
        "registers": one.registers,
        "spill_bytes": one.spill_bytes,
        "shared_bytes": one.shared_bytes,
        "wgmma": one.wgmma,
        "row_layouts": one.row_layouts,
        "ffma": one.instructions["FFMA"],
        "mufu": one.instructions["MUFU"],
    }


def read_otherwise(capability, head_dim, skip, dtype, kind, length=4096):
    """The anatomy of a kernel whose keys come from a ring, are float8, or lie in rows of an odd number of elements."""
    q, out = (torch.empty((1, 8, length, head_dim), dtype=dtype) for _ in range(2))
    of_keys = torch.float8_e4m3fn if kind == "float8" else dtype
    size = 1, 8, length, head_dim + (kind == "odd rows")
    k, v = (torch.empty(size, dtype=of_keys)[..., :head_dim] for _ in range(2))
    config = prefill_config(capability, head_dim, of_keys, use_tma=False)
    mask, ring = bs.sliding_window(1024), kind == "ring"
    call = AttentionCall(q, k, v, mask, head_dim**-0.5, None, length, None, skip, "triton", config, False, False, ring)
    if kind == "float8":
        call = replace(call, k_scale=torch.empty(8), v_scale=torch.empty(8))
    assert not plan.reads_by_tma(call, capability)
    kernel, made, options = launch.prepare(call, plan.plan_kernel(call, config), (q, k, v, out), None, None, (1, 8, 1))
    with compiling_for(capability):
        compiled = kernel.warmup(*made.arguments, **made.constants, **options, grid=made.grid)
    return read(compiled, capability)


def single_query(capability, head_dim=128, slots=4096):
    """The anatomy of a kernel that reads a table of positions, for one query of a growing number of keys."""
    q, out = (torch.empty((1, 8, 1, head_dim), dtype=torch.bfloat16) for _ in range(2))
    k = torch.empty((1, 8, slots, head_dim), dtype=torch.bfloat16)
    config = prefill_config(capability, head_dim, torch.bfloat16)
    call = AttentionCall(
        q, k, k, WINDOW_AND_SINK, head_dim**-0.5, None, GuardedInt(3000), None, "map", "triton", config, False, False
    )
    made = plan.plan_kernel(call, config, capability=capability)
    given = replace(call, q_start=2999, kv_len=3000)
    kernel, launched, options = launch.prepare(given, made, (q, k, k, out), None, None, (1, 8, 1))
    assert launched.arguments[6].first is not None
    with compiling_for(capability):
        compiled = kernel.warmup(*launched.arguments, **launched.constants, **options, grid=launched.grid)
    return read(compiled, capability)


def packed(capability, head_dim, config, mask, lse, total=16384):
    """The anatomy of the kernel that attends packed sequences, 16 of them."""
    q, k = (torch.empty((total, heads, head_dim), dtype=torch.bfloat16) for heads in (8, 2))
    cu = torch.zeros(17, dtype=torch.int32)
    call = check(VarlenArguments(q, k, k, cu, None, 4096, mask=mask, config=config, return_lse=lse))
    of_tma = plan.reads_by_tma(call.attention, capability)
    prefill = plan.plan_kernel(call.attention, TileConfig.of(config), use_tma=of_tma, capability=capability)
    made = plan_with(call, "triton", "asked for", prefill)
    out, items = torch.empty_like(call.attention.q), torch.empty(8, dtype=torch.int32)
    sums = torch.empty((1, 8, total)) if lse else None
    kernel, launched, options = varlen.attend_step(
        call, made, out, sums, items, most_items(total, 16, prefill.queries_per_tile)
    )
    with compiling_for(capability):
        compiled = kernel.warmup(*launched.arguments, **launched.constants, **options, grid=launched.grid)
    return read(compiled, capability)


def anatomies(capability):
    yield [128, "map", "bfloat16", "single query"], single_query(capability)
    for head_dim, skip, dtype, kind in CASES:
        mask = WINDOW_AND_SINK if kind == "mask bits" else bs.sliding_window(1024)
        one = attention_anatomy(capability, head_dim=head_dim, skip=skip, dtype=getattr(torch, dtype), mask=mask)
        yield [head_dim, skip, dtype, kind], one
    if capability == (9, 0):
        for head_dim, config in WIDE_TILES.items():
            for skip in SKIPS:
                case = [head_dim, skip, "bfloat16", "128 keys"]
                yield case, attention_anatomy(capability, head_dim=head_dim, skip=skip, config=config)
        capped = {"sinks": True, "softcap": 50.0}
        for skip in SKIPS:
            yield [128, skip, "bfloat16", "capped"], attention_anatomy(capability, skip=skip, **capped)
        for head_dim, config in WARP_SPECIALIZED.items():
            one = attention_anatomy(capability, head_dim=head_dim, config=config, **capped)
            yield [head_dim, "bounds", "bfloat16", "warp-specialized, capped"], one
        for head_dim, config in WARP_SPECIALIZED.items():
            for skip, mask, kind in (("bounds", None, ""), ("map", None, ""), ("map", WINDOW_AND_SINK, " mask bits")):
                for lse in (False, True) if skip == "map" else (False,):
                    case = [head_dim, skip, "bfloat16", f"warp-specialized{kind}{', lse' * lse}"]
                    shape = {"head_dim": head_dim, "skip": skip, "mask": mask, "config": config, "return_lse": lse}
                    yield case, attention_anatomy(capability, **shape)
        for head_dim, mask, lse in product((128, 256, 512), (bs.causal(), bs.sliding_window(1024)), (False, True)):
            case = [head_dim, "bounds", "bfloat16", f"packed {mask!r}{', lse' * lse}"]
            yield case, packed(capability, head_dim, WARP_SPECIALIZED[head_dim], mask, lse)
        for head_dim in (64, 512):
            config = prefill_config(capability, head_dim, torch.bfloat16)
            yield [head_dim, "bounds", "bfloat16", "packed"], packed(capability, head_dim, config, bs.causal(), True)
        for head_dim, skip, dtype, kind in READ:
            one = read_otherwise(capability, head_dim, skip, getattr(torch, dtype), kind)
            yield [head_dim, skip, dtype, kind], one


def compile_all(capability):
    for case, one in anatomies(capability):
        yield partial(row_of, case), one


if __name__ == "__main__":
    print_rows(compile_all)
