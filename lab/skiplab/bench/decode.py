"""Decode on this device: split-K in its variants beside torch, against the memory's pace.

    skiplab bench decode [--device cuda] [--kv-lens 64 256 1024 4096 16384] [--buffer 16384] [--seconds 0.5]
    skiplab bench decode --tune     the kernel's tile configurations instead, one head size after the other

One query, B 1, bf16, the cache's buffer longer than the keys in it; in bf16 and in float8. On CUDA the time is a CUDA
graph's over rotated inputs (`skiplab.measure.timing`), kv_len an int32 tensor on the device. Each error stands beside
its time.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import blockskip as bs
import numpy as np
import torch
import torch.nn.functional as F
from blockskip.attention.call import DecodeArguments
from blockskip.attention.decode import eager as decode_eager
from blockskip.attention.decode import plan as decode_plan
from blockskip.config import TileConfig

from skiplab.bench.record import FOLDER, Listed, machine, options, table, write
from skiplab.measure.rotation import rotate
from skiplab.measure.timing import time_callable
from skiplab.text import digits

# name -> query heads, KV heads, head dim, window
SHAPES = {
    "gemma4 sliding": (32, 16, 256, 1024),
    "gemma4 full": (32, 4, 512, None),
    "qwen D256": (16, 2, 256, None),
    "D128 32/16": (32, 16, 128, None),
    "D128 32/8": (32, 8, 128, None),
    "D64 32/8": (32, 8, 64, None),
}


def by_kernel(length, window, scales, **changes) -> Callable:
    """The Triton kernel with a changed plan: f(q, k, v)."""
    from blockskip.attention.decode import launch as decode_launch

    def call(q, k, v):
        checked = decode_eager.check_decode(DecodeArguments(q, k, v, length, window, impl="triton", **scales))
        plan = dataclasses.replace(decode_plan.make_decode_plan(checked), **changes)
        if plan.fused and plan.config is not None and not decode_plan.can_fuse(checked, plan.config, plan.splits):
            raise ValueError("one program cannot hold all shares")
        return decode_launch.decode(checked, plan)[0]

    return call


def contenders(q, k, window, keys: int, scales: dict) -> dict[str, Callable]:
    """name -> f(q, k, v); torch gets a slice of the live keys, and no mask. scales: of a cache in float8."""
    live = slice(0 if window is None else max(keys - window, 0), keys)

    def torch_sdpa(q, k, v):
        return F.scaled_dot_product_attention(q, k[:, :, live], v[:, :, live], enable_gqa=True)

    if not q.is_cuda:
        ours = {"blockskip tiled": functools.partial(bs.decode, kv_len=keys, window=window, **scales)}
        return ours if scales else ours | {"torch": torch_sdpa}
    length = torch.tensor(keys, dtype=torch.int32, device=q.device)
    attend = functools.partial(bs.attention, mask=_mask(window), kv_len=length, route="prefill", **scales)
    ours = {
        "auto": functools.partial(bs.decode, kv_len=length, window=window, **scales),
        "fused merge": by_kernel(length, window, scales, fused=True),
        "one split": functools.partial(bs.decode, kv_len=length, window=window, splits=1, **scales),
        "prefill kernel": attend,
    }
    return ours if scales else ours | {"torch": torch_sdpa}


def configurations(q, k, window, keys: int, scales: dict) -> dict[str, Callable]:
    """Tiles, warps and stages, splits chosen anew for each."""
    length = torch.tensor(keys, dtype=torch.int32, device=q.device)
    calls = {}
    for block_n, warps, stages in itertools.product((16, 32, 64, 128), (2, 4, 8), (2, 3, 4, 5, 6)):
        shared = 2 * block_n * k.shape[3] * k.element_size() * (stages - 1)
        if 16 << 10 <= shared <= 200 << 10:
            config = TileConfig(16, block_n, warps, stages)
            calls[str(config)] = by_kernel(length, window, scales, config=config)
    return calls


def _mask(window):
    return bs.causal() if window is None else bs.sliding_window(window)


def measure(name: str, keys: int, buffer: int, device: str, seconds: float, make: Callable) -> list[dict]:
    """A row for each contender and cache; errors are those of the numbers before they became float8."""
    q_heads, kv_heads, head_dim, window = SHAPES[name]
    generator = torch.Generator().manual_seed(keys)
    sizes = ((q_heads, 1), (kv_heads, buffer), (kv_heads, buffer))
    q, k, v = (
        torch.randn(1, h, n, head_dim, generator=generator, dtype=torch.float32, device="cpu").to(
            device, torch.bfloat16
        )
        for h, n in sizes
    )
    double = (t.double().cpu() for t in (q, k[:, :, :keys], v[:, :, :keys]))
    want = bs.decode(*double, window=window, impl="reference")
    read = 2 * head_dim * kv_heads * min(keys, window or keys)
    rows = []
    for cache, keys_and_values, scales in caches(k, v):
        args_sets = rotate([t.clone() for t in (q, *keys_and_values)], device)  # which timing changes
        moved = read * keys_and_values[0].element_size() + 2 * q.nbytes
        for contender, call in make(q, keys_and_values[0], window, keys, scales).items():
            row = {"shape": name, "kv_len": keys, "contender": contender + cache, "bytes": moved}
            try:
                row["error"] = (call(q, *keys_and_values).double().cpu() - want).abs().max().item()
                timing = time_callable(call, args_sets, device, budget_s=seconds)
                row |= {"method": timing.method, "samples_ns": timing.samples_ns, "flags": list(timing.flags)}
            except Exception as error:  # a configuration that does not fit the device is a row, too
                row["failed"] = f"{type(error).__name__}: {error}"[:200]
            rows.append(row)
    return rows


def caches(k, v) -> Iterator[tuple[str, tuple[torch.Tensor, torch.Tensor], dict]]:
    """(what a contender's name ends in, keys and values, their scales) for each dtype."""
    yield "", (k, v), {}
    (k, k_scale), (v, v_scale) = bs.quantize_kv(k), bs.quantize_kv(v)
    yield " float8", (k, v), {"k_scale": k_scale, "v_scale": v_scale}


def cells(row: dict) -> list[str]:
    first = [row["shape"], str(row["kv_len"]), row["contender"]]
    if "failed" in row:
        return [*first, "failed", "", "", row["failed"][:40]]
    middle = float(np.median(row["samples_ns"]))
    return [
        *first,
        digits(middle / 1e3),
        digits(row["bytes"] / middle),
        f"{row['error']:.1e}",
        " ".join(row["flags"]),
    ]


def main(arguments: Sequence[str]) -> None:
    parser = options("decode", __doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--shapes", action=Listed, choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--kv-lens", type=int, action=Listed, default=[64, 256, 1024, 4096, 16384])
    parser.add_argument("--buffer", type=int, default=16384)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--out", type=Path, default=FOLDER)
    chosen = parser.parse_args(arguments)
    where = machine()
    is_cuda = chosen.device.startswith("cuda")
    device = torch.cuda.get_device_name(chosen.device) if is_cuda else where["cpu"]
    make = configurations if chosen.tune else contenders
    with torch.inference_mode():
        rows = [
            row
            for name in chosen.shapes
            for keys in chosen.kv_lens
            for row in measure(name, keys, chosen.buffer, chosen.device, chosen.seconds, make)
        ]
    notes = [
        f"Device: {device}. One query, B 1, bf16, a buffer of {chosen.buffer} slots; median time; GB/s: keys, "
        "values, q and out, once each, over that time. error: largest, against the reference in float64 of the numbers "
        "before float8.",
        "fused merge: by the last program of a KV head (auto takes a second kernel in a graph); one split: no merge; "
        "prefill kernel: `attention`; torch: "
        "SDPA on a slice of the live keys, without a mask.",
    ]
    name = ("decode_tuning" if chosen.tune else "decode") + ("" if is_cuda else "_cpu")
    head = ["shape", "kv_len", "contender", "µs", "GB/s", "error", "flags"]
    parts = [table(head, [cells(row) for row in rows])]
    write(name, "Decode", notes, parts, {"machine": where | {"device": device}, "rows": rows}, chosen.out)
