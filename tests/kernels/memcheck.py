"""A launch of each kernel form at awkward shapes, for a memory checker to watch; not collected by pytest.

    make memcheck

which is: compute-sanitizer --tool memcheck --error-exitcode 1 python tests/kernels/memcheck.py [tiles decode ...]

Without torch's caching allocator every tensor is an allocation of its own, so that one element past its end is outside.
Each result is compared as well: a kernel that reads nothing is clean too. Needs a CUDA device.
"""

import math
import os
import sys

os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"

import blockskip as bs
import torch
from blockskip.pointwise.api import gated, residual_norm, rotated_heads
from blockskip.pointwise.call import HeadLayout, HeadNorms, Rotation, Targets

DEVICE = "cuda"
SHAPES = [(1, 1), (113, 203), (239, 1), (70, 300)]  # queries, keys
HEADS = [(2, 2), (6, 2)]
MASKS = {
    "all": None,
    "causal": bs.causal(),
    "window": bs.sliding_window(33),
    "sink": bs.sliding_window(17) | (bs.sink(4) & bs.causal()),
}


def tensors(q_len, kv_len, heads, head_dim, dtype, slots=None):
    shapes = [(1, heads[0], q_len, head_dim), *[(1, heads[1], slots or kv_len, head_dim)] * 2]
    return [torch.randn(shape, device=DEVICE, dtype=dtype) for shape in shapes]


def prefill_cases():
    for index, (q_len, kv_len) in enumerate(SHAPES):
        for name, mask in MASKS.items():
            skips = ("none", "mask", "map") if name == "sink" else ("none", "mask", "bounds", "map")
            head_dim, dtype = ((80, torch.bfloat16), (128, torch.float16), (256, torch.bfloat16))[index % 3]
            q, k, v = tensors(q_len, kv_len, HEADS[index % 2], head_dim, dtype)
            wanted = bs.attention(q, k, v, mask, impl="reference")
            for skip in skips:
                got = bs.attention(q, k, v, mask, impl="triton", skip=skip, route="prefill", return_lse=True)[0]
                yield f"prefill {q_len}x{kv_len} D {head_dim} {name} {skip}", got, wanted


def large_head_cases():
    """By descriptor where the GPU has a copy engine; by pointer where rows begin between multiples of 16 bytes."""
    for head_dim in (320, 512):
        q, k, v = tensors(33, 150, (4, 1), head_dim, torch.bfloat16)
        apart = torch.randn(1, 1, 150, head_dim + 1, device=DEVICE, dtype=torch.bfloat16)[..., :head_dim]
        for how, keys in (("tma", k), ("pointer", apart)):
            for mask in (bs.causal(), MASKS["sink"]):
                got = bs.attention(q, keys, v, mask, impl="triton", route="prefill")
                yield f"prefill D {head_dim} {how} {mask}", got, bs.attention(q, keys, v, mask, impl="reference")
        yield from lengths_cases(head_dim)


def lengths_cases(head_dim):
    """A number of keys for each batch, on the device, NaN beyond; the buffer ends in the middle of a tile."""
    lengths = torch.tensor([70, 150, 0, 9], dtype=torch.int32, device=DEVICE)
    q, k, v = (
        torch.randn(4, h, n, head_dim, device=DEVICE, dtype=torch.bfloat16) for h, n in ((4, 9), (2, 150), (2, 150))
    )
    mask = bs.causal()
    wanted = bs.attention(q, k, v, mask, kv_len=lengths, impl="reference")
    for batch, length in enumerate(lengths.tolist()):
        k[batch, :, length:] = v[batch, :, length:] = math.nan
    for skip in ("none", "mask", "bounds"):
        got = bs.attention(q, k, v, mask, kv_len=lengths, skip=skip, impl="triton", route="prefill")
        yield f"prefill D {head_dim} lengths {skip}", got, wanted


def score_cases():
    """Sinks, whose last one ends an allocation, and soft caps."""
    for q_len, heads in ((70, (6, 2)), (16, (6, 2)), (3, (2, 2))):
        q, k, v = tensors(q_len, 300, heads, 128, torch.bfloat16)
        options = {"sinks": torch.randn(heads[0], device=DEVICE), "softcap": 3.0}
        for name, mask in MASKS.items():
            got = bs.attention(q, k, v, mask, impl="triton", route="prefill", **options)
            wanted = bs.attention(q, k, v, mask, impl="reference", **options)
            yield f"prefill {q_len}x300 {name} sinks and soft cap", got, wanted
        if q_len <= 16:
            for splits in (1, 3):
                got = bs.decode(q, k, v, impl="triton", splits=splits, **options)
                yield f"decode {q_len}x300 {splits} splits sinks", got, bs.decode(q, k, v, impl="reference", **options)


def float8_cases():
    """Keys and values in 8 bits, in words of two and one by one, NaN beyond the lengths."""
    for head_dim in (40, 128):
        q, k, v = tensors(9, 150, (4, 2), head_dim, torch.bfloat16)
        (k, k_scale), (v, v_scale) = bs.quantize_kv(k), bs.quantize_kv(v)
        for t in (k, v):
            t.view(torch.uint8)[:, :, 130:] = 0x7F
        options = {"kv_len": 130, "k_scale": k_scale, "v_scale": v_scale}
        wanted = bs.attention(q, k, v, bs.causal(), impl="reference", **options)
        for skip in ("none", "mask", "bounds", "map"):
            got = bs.attention(q, k, v, bs.causal(), impl="triton", skip=skip, **options)
            yield f"prefill D {head_dim} float8 {skip}", got, wanted
        for splits in (1, 3):
            got = bs.decode(q, k, v, impl="triton", splits=splits, **options)
            yield f"decode D {head_dim} float8 {splits} splits", got, wanted


def wide_tile_cases():
    """Tiles of 128 keys, which have two int64 of mask bits a row, with ragged ends; groups of three in 64 rows."""
    for kv_len in (70, 130, 300):
        q, k, v = tensors(70, kv_len, (6, 2), 128, torch.float16)
        for name in ("window", "sink"):
            wanted = bs.attention(q, k, v, MASKS[name], impl="reference")
            for skip in ("none", "mask", "map") + (("bounds",) if name == "window" else ()):
                options = {"skip": skip, "config": (64, 128, 4, 1), "impl": "triton", "route": "prefill"}
                yield (
                    f"prefill 70x{kv_len} 128 keys {name} {skip}",
                    bs.attention(q, k, v, MASKS[name], **options),
                    wanted,
                )


def warp_specialized_cases():
    """Hopper's kernel with specialized warps, at the ends of tiles; groups of three, a key head's last rows."""
    sizes = (72, 128, torch.float16), (128, 128, torch.float16), (256, 64, torch.bfloat16)
    for head_dim, block_n, dtype in sizes:
        # 96 heads have more rows of tiles than a GPU of 132 multiprocessors has programs: these go on to further ones.
        small = (128, 128, (6, 2)), (203, 70, (6, 2)), (129, 300, (6, 2))
        for q_len, kv_len, heads in (*small, (203, 300, (96, 32))):
            q, k, v = tensors(q_len, kv_len, heads, head_dim, dtype)
            for name, skip in (("causal", "bounds"), ("window", "bounds"), ("window", "map"), ("sink", "map")):
                options = {"skip": skip, "config": (128, block_n, 12, 2), "impl": "triton", "route": "prefill"}
                got = bs.attention(q, k, v, MASKS[name], **options, return_lse=True)[0]
                yield (
                    f"prefill {q_len}x{kv_len} {heads} D {head_dim} warp-specialized {name} {skip}",
                    got,
                    bs.attention(q, k, v, MASKS[name], impl="reference"),
                )


def interleaved_cases():
    """Interleaved heads, on a GPU of 132 multiprocessors: two packed ones, all of 32, and 16 of them at a time."""
    for heads, length in (((6, 2), 40), ((32, 32), 300), ((32, 32), 1500)):
        q, k, v = tensors(length, length, heads, 64, torch.bfloat16)
        for mask in (bs.causal(), None):
            got = bs.attention(q, k, v, mask, impl="triton", route="prefill", return_lse=True)[0]
            yield (
                f"prefill heads {heads} of {length} interleaved {mask}",
                got,
                bs.attention(q, k, v, mask, impl="reference"),
            )


def packed_cases():
    """Sequences behind each other, NaN behind the last; by the plain kernel, the copy engine and Hopper's kernel."""
    lengths = [70, 0, 1, 300], [150, 9, 33, 300]
    cu = [torch.tensor([0, *numbers], device=DEVICE).cumsum(0).int() for numbers in lengths]
    for head_dim in (64, 80, 128, 256, 512):
        q, k, v = tensors(sum(lengths[0]) + 5, sum(lengths[1]) + 7, (4, 2), head_dim, torch.bfloat16)
        q, k, v = (t[0].transpose(0, 1).contiguous() for t in (q, k, v))
        for t, numbers in zip((q, k, v), (lengths[0], *[lengths[1]] * 2), strict=True):
            t[sum(numbers) :] = math.nan
        for mask in (bs.causal(), bs.sliding_window(33), None):
            wanted = bs.attention_varlen(q, k, v, *cu, mask=mask, impl="reference")
            yield f"packed D {head_dim} {mask}", bs.attention_varlen(q, k, v, *cu, mask=mask, impl="triton"), wanted


def decode_cases():
    for kv_len in (1, 63, 257, 1500):
        for window in (None, 100):
            for splits in (1, 7, "auto"):
                q, k, v = tensors(3 if kv_len > 3 else 1, kv_len, (6, 2), 128, torch.bfloat16, slots=kv_len + 5)
                options = {"kv_len": kv_len, "window": window}
                got = bs.decode(q, k, v, **options, splits=splits, impl="triton")
                yield (
                    f"decode {kv_len} window {window} splits {splits}",
                    got,
                    bs.decode(q, k, v, **options, impl="reference"),
                )
    q, k, v = tensors(1, 100, (8, 2), 256, torch.bfloat16)
    ring = {"kv_len": 374, "window": 100, "ring": True}
    yield "decode ring", bs.decode(q, k, v, **ring, impl="triton"), bs.decode(q, k, v, **ring, impl="reference")


def linear_cases():
    for bits in (4, 8):
        for group_size in (32, 128):
            weight = bs.quantize(torch.randn(67, 384, device=DEVICE), bits=bits, group_size=group_size)
            for rows in (1, 5, 8, 17, 70):
                x = torch.randn(rows, 384, device=DEVICE, dtype=torch.bfloat16)
                routes = ("matvec",) if rows <= 8 else ("fused", "dequantize")
                for route in routes:
                    got = bs.linear(x, weight, impl="triton", route=route)
                    yield (
                        f"linear int{bits} g{group_size} rows {rows} {route}",
                        got,
                        bs.linear(x, weight, impl="reference"),
                    )


def k_quant_cases():
    """Q6_K's groups of 16, and int8 codes with encoded minima of Q5_K, at an odd number of rows."""
    for kind, nbytes, steps in (("Q5_K", 176, (0, 2)), ("Q6_K", 210, (208,))):
        blocks = torch.randint(0, 256, (67, 3, nbytes), device=DEVICE, dtype=torch.uint8)
        for at in steps:
            blocks[..., at : at + 2] = torch.tensor([0, 0x14], device=DEVICE, dtype=torch.uint8)  # 2**-10
        weight = bs.from_gguf(blocks, kind, (67, 768))
        for rows in (1, 5, 8, 17, 70):
            x = torch.randn(rows, 768, device=DEVICE, dtype=torch.bfloat16)
            for route in ("matvec",) if rows <= 8 else ("fused", "dequantize"):
                got = bs.linear(x, weight, impl="triton", route=route)
                yield f"linear {kind} rows {rows} {route}", got, bs.linear(x, weight, impl="reference")


def tiles_cases():
    """Every block of rows, tiles that programs share, a row of tiles that is no whole block of a program's."""
    if torch.cuda.get_device_capability()[0] != 9:
        return
    for group_size, symmetric in ((32, True), (64, False), (128, False)):
        weight = torch.randn(320, 2048, device=DEVICE, dtype=torch.bfloat16)
        weight = bs.quantize(weight, group_size=group_size, symmetric=symmetric).packed("tiles")
        for rows in (1, 8, 9, 17, 33, 70, 130, 300):
            x = torch.randn(rows, 2048, device=DEVICE, dtype=torch.bfloat16)
            for route in ("fused", "dequantize"):
                got = bs.linear(x, weight, impl="triton", route=route)
                yield f"tiles g{group_size} rows {rows} {route}", got, bs.linear(x, weight, impl="reference")


def pointwise_cases():
    """What stands between products: widths that no tile divides, caches with rows of slots of their own."""
    for rows, columns in ((1, 5376), (3, 97), (17, 1)):
        x, update, gates = (torch.randn(rows, n, device=DEVICE).bfloat16() for n in (columns, columns, 2 * columns))
        weight, scalar = torch.randn(columns, device=DEVICE).bfloat16(), torch.ones(1, device=DEVICE).bfloat16()
        for given in ((x, None, weight), (x, update, weight), (x, update, weight, weight, scalar)):
            found = (residual_norm(*given, impl=impl) for impl in ("triton", "reference"))
            for name, got, wanted in zip(("out", "normed"), *found, strict=True):
                yield f"norm {rows}x{columns} of {len(given)} {name}", got, wanted
        for activation in ("silu", "gelu_tanh"):
            found = (gated(gates, activation, impl=impl) for impl in ("triton", "reference"))
            yield f"gate {rows}x{columns} {activation}", *found
    for layout in (HeadLayout(5, 3, 48), HeadLayout(4, 2, 256, key_is_value=True)):
        for tokens in (1, 20):
            yield from heads_cases(layout, tokens)


def heads_cases(layout, tokens):
    qkv = torch.randn(2, tokens, layout.width, device=DEVICE).bfloat16()
    angles = torch.randn(1, tokens, 1, layout.dim // 2, device=DEVICE)
    slots = torch.arange(tokens, device=DEVICE).flip(0).repeat(2, 1)
    norms = HeadNorms(torch.ones(layout.dim, device=DEVICE).bfloat16(), None, value=True)
    found = []
    for impl in ("triton", "reference"):
        keys, values = torch.zeros(2, 2, layout.kv, tokens, layout.dim, device=DEVICE).bfloat16()
        rotation, targets = Rotation(angles.cos(), angles.sin()), Targets(keys, values, slots)
        found.append((rotated_heads(qkv, layout, rotation, norms, targets, impl=impl), keys, values))
    for name, got, wanted in zip(("queries", "keys", "values"), *found, strict=True):
        yield f"heads {layout} {tokens} {name}", got, wanted


CASES = (
    prefill_cases, large_head_cases, score_cases, float8_cases, wide_tile_cases, warp_specialized_cases,
    interleaved_cases, packed_cases, decode_cases, linear_cases, k_quant_cases, tiles_cases, pointwise_cases,
)  # fmt: skip


def main():
    worst = 0.0
    count = 0
    named = [cases for cases in CASES if cases.__name__.removesuffix("_cases") in sys.argv[1:]]
    for cases in named or CASES:
        for name, got, wanted in cases():
            torch.cuda.synchronize()
            scale = wanted.float().abs().max().clamp(min=1.0)
            error = ((got.float() - wanted.float()).abs().max() / scale).item()
            # bfloat16 rounds the weights and the result, an eighth bit each: four such roundings are generous
            if not error <= 4 * 2**-8:
                sys.exit(f"{name}: differs from the reference by {error:.3g} of the largest value")
            worst, count = max(worst, error), count + 1
    print(f"{count} launches checked on {torch.cuda.get_device_name()}; largest relative difference {worst:.2g}")


if __name__ == "__main__":
    main()
