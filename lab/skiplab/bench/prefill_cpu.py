"""Prefill on this CPU: the tiled implementation beside compiled FlexAttention and torch's dense + mask.

    skiplab bench prefill_cpu [--lengths 1024 2048 4096] [--repeats 15] [--threads N] [--cpu-time]

One sliding window, causal, B 1, 8 heads, D 128. Each error stands beside its time. `--cpu-time` (one thread) counts
the thread's own processor time, which neighbours on the machine disturb less.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import blockskip as bs
import torch
import torch.nn.functional as F
from blockskip.attention import reference
from blockskip.attention.prefill import tiled
from blockskip.attention.prefill.tiled_plan import make_tiled_plan
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from skiplab.bench.cpu import OVER, CpuBenchmark, over
from skiplab.bench.record import Listed, least_and_median, options

HEADS, HEAD_DIM, WINDOW = 8, 128, 512
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp16": torch.float16}
DEVIATIONS = (1, 8)
CPU = torch.device("cpu")
CLAIMS = {"bf16": 1.7, "fp32": 1.15, "fp16": 1.0}  # least speed-up over FlexAttention that the project asks for


def exact(q, k, v, mask, rows=512) -> torch.Tensor:
    """The reference in float64, some rows at a time."""
    parts = []
    for first in range(0, q.shape[2], rows):
        part = q[:, :, first : first + rows].double()
        start, end = max(0, first - WINDOW), min(first + rows, k.shape[2])
        keys = (x[:, :, start:end].double() for x in (k, v))
        positions = {"scale": HEAD_DIM**-0.5, "q_start": first - start, "kv_len": end - start}
        parts.append(reference.attention(part, *keys, mask, **positions)[0])  # pyright: ignore[reportCallIssue]
    return torch.cat(parts, 2)


def contenders(length: int, mask) -> dict:
    """name -> f(q, k, v); masks and block masks are made outside the timed calls."""
    kept = mask.dense(length, length, 0)
    block_mask = create_block_mask(
        lambda b, h, q_idx, kv_idx: (q_idx >= kv_idx) & (q_idx - kv_idx < WINDOW),
        None,
        None,
        length,
        length,
        device="cpu",
    )
    positions = {"scale": HEAD_DIM**-0.5, "q_start": 0, "kv_len": length}
    return {
        "blockskip tiled": lambda q, k, v: tiled.attention(q, k, v, mask, **positions)[0],
        "FlexAttention": functools.partial(torch.compile(flex_attention, dynamic=False), block_mask=block_mask),
        "dense + mask": functools.partial(F.scaled_dot_product_attention, attn_mask=kept),
    }


def errors(calls: dict, q, k, v, mask) -> dict:
    """contender -> largest error at each deviation of the logits; and the error that METHOD allows."""
    largest: dict[str, list[float]] = {name: [] for name in [*calls, "allowed"]}
    for deviation in DEVIATIONS:
        steep = q * deviation  # a power of two: exact
        want = exact(steep, k, v, mask)
        for name, call in calls.items():
            largest[name].append((call(steep, k, v).double() - want).abs().max().item())
        rounding = torch.finfo(q.dtype).eps / 2 * want.abs().max().item()
        largest["allowed"].append(2 * largest["dense + mask"][-1] + rounding)
    return largest


def executed_pairs(mask, length: int) -> int:
    plan = make_tiled_plan(mask, length, length, 0, 0, 0, CPU)
    return sum(g.blocks * g.height * s.keys for g in plan.groups for s in g.spans)


def prepare(length: int, name: str) -> tuple[dict, dict]:
    """The point's record without its samples, and the calls to time."""
    generator = torch.Generator().manual_seed(length)
    dtype, mask = DTYPES[name], bs.sliding_window(WINDOW)
    q, k, v = (
        torch.randn(1, HEADS, length, HEAD_DIM, generator=generator, dtype=torch.float32, device="cpu").to(dtype)
        for _ in range(3)
    )
    calls = contenders(length, mask)
    product = tiled._product_dtype(dtype, CPU)
    square = torch.randn(1024, 1024, generator=generator, dtype=torch.float32, device="cpu").to(product)
    flops_a_pair = 4 * HEADS * HEAD_DIM
    point = {
        "q_len": length,
        "dtype": name,
        "product_dtype": str(product).removeprefix("torch."),
        "errors": errors(calls, q, k, v, mask),
        "executed_flops": executed_pairs(mask, length) * flops_a_pair,
        "useful_flops": bs.TileMap.build(mask, length, length, q_start=0).kept_pairs * flops_a_pair,
        "roof_flops": 2 * 1024**3,
    }
    return point, {n: functools.partial(c, q, k, v) for n, c in calls.items()} | {"roof": lambda: square @ square}


def row(point: dict) -> list[str]:
    samples, errs = point["samples_ns"], point["errors"]
    best = {name: min(s) for name, s in samples.items()}
    ours, flex, dense = "blockskip tiled", "FlexAttention", "dense + mask"
    roof = point["roof_flops"] / best["roof"]
    fits = all(e <= a for e, a in zip(errs[ours], errs["allowed"], strict=True))
    cells = [point["dtype"], point["q_len"]]
    for name in (ours, flex, dense):
        cells += [least_and_median(samples[name])]
        cells += [" / ".join(f"{e:.1e}" for e in errs[name])]
    cells += ["yes" if fits else "NO"]
    cells += over(samples, ours, (flex, dense))
    cells += [f"{roof:.0f}", f"{100 * point['executed_flops'] / best[ours] / roof:.0f} %"]
    cells += [f"{100 * point['useful_flops'] / best[ours] / roof:.0f} %"]
    return cells


def main(arguments: Sequence[str]) -> None:
    parser = options("prefill_cpu", __doc__)
    parser.add_argument("--lengths", type=int, action=Listed, default=[1024, 2048, 4096])
    parser.add_argument("--dtypes", action=Listed, choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--repeats", type=int, default=15)
    run = CpuBenchmark.begin(parser, arguments)
    chosen = run.chosen
    torch._dynamo.config.recompile_limit = 64
    with torch.inference_mode():
        prepared = [prepare(length, name) for name in chosen.dtypes for length in chosen.lengths]
        points = run.timed(prepared, chosen.repeats)
    head = ["dtype", "L", "tiled ms", "error", "Flex ms", "error", "dense ms", "error", "within", "over Flex"]
    head += ["over dense", "roof GFLOP/s", "executed", "useful"]
    notes = [
        f"Sliding window {WINDOW}, causal, B 1, {HEADS} heads, D {HEAD_DIM}. {run.in_turn(f'{chosen.repeats} times')} "
        "FlexAttention compiled, its BlockMask given.",
        "error: largest, against the reference in float64, at logits of deviation 1 / 8. within: ours is at most twice "
        "that of dense + mask plus one rounding, at both.",
        OVER,
        "roof: from the least time of a 1024^3 matrix product in the dtype of our products, same repeats. executed, "
        "useful: our rate on the pairs computed, and on the pairs kept, as a share of the roof.",
        "asked for over FlexAttention: " + ", ".join(f"{d} {CLAIMS[d]}" for d in chosen.dtypes) + "; bf16 over dense "
        "+ mask at 4096: 5.",
    ]
    data = {"window": WINDOW, "heads": HEADS, "head_dim": HEAD_DIM, "points": points}
    run.write("prefill_cpu", "Prefill attention on a CPU", head, map(row, points), notes, data)
