"""A core of calls, for `test_defaults.py`: how many results there are and a digest of all their bits.

    python tests/defaults.py usual | others

others: under other defaults of torch first, then under its own again; both must give what `usual` gives.
"""

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import replace

import blockskip as bs
import torch
from skiplab.contenders import contender
from skiplab.measure.verify import verify
from skiplab.model import Decoder, ModelSpec
from skiplab.workload import DecodeWorkload, LinearWorkload, Workload


def results() -> Iterator[torch.Tensor]:
    generator = torch.Generator("cpu").manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")

    kept = draw(70, 90) < 0.5
    masks = [
        bs.band(None, None),
        bs.causal(),
        bs.sliding_window(9) | (bs.sink(2) & bs.causal()),
        bs.prefix_lm(30),
        bs.chunked(16),
        bs.document([40, 30, 20]),
        bs.dilated(3) & bs.causal(),
        ~bs.sliding_window(20),
        bs.dense(kept),
        bs.mask_mod(lambda b, h, q, k: (q + k) % 3 == 0),
        bs.mask_mod(lambda b, h, q, k: True),
    ]
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        q, k, v = (draw(1, heads, n, 16).to(dtype) for heads, n in ((4, 70), (2, 90), (2, 90)))
        yield from attended(q, k, v, masks)
        yield bs.scaled_dot_product_attention(q, k, v, kept, enable_gqa=True)
        weight, x = bs.quantize(draw(64, 64).to(dtype)), draw(3, 64).to(dtype)
        yield from (bs.linear(x, weight, impl=impl) for impl in ("auto", "reference"))
        yield bs.quantize(draw(64, 256).to(dtype), metadata="uint8").dequantize()
        yield bs.QuantizedLinear(weight)(x)
    for kind, nbytes in (("Q4_K", 144), ("Q5_K", 176), ("Q6_K", 210)):
        yield bs.from_gguf(bytes(range(nbytes)), kind, (1, 256)).dequantize()
    for mask in masks:
        tilemap = bs.TileMap.build(mask, 70, 90, 16, 16)
        yield from (tilemap.state, *tilemap.to_csr(), tilemap.to_block_mask(device="cpu").kv_indices)
        yield mask.dense(70, 90)
    yield from verified()
    yield from decoded()


def attended(q, k, v, masks) -> Iterator[torch.Tensor]:
    lengths = torch.full((1,), 80, dtype=torch.int32, device="cpu")
    for mask in masks:
        for impl in ("tiled", "reference"):
            yield from bs.attention(q, k, v, mask, impl=impl, return_lse=True)
        yield bs.attention(q, k, v, mask, kv_len=lengths, q_start=0)
    for options in ({}, {"window": 20}, {"kv_len": lengths}, {"kv_len": 200, "window": 30, "ring": True}):
        yield from bs.decode(q[:, :, :3], k, v, return_lse=True, **options)


def verified() -> Iterator[torch.Tensor]:
    workloads = Workload(40, mask=bs.sliding_window(9)), DecodeWorkload(50), LinearWorkload(2, 64, 64)
    for workload in workloads:
        check = verify(workload, contender("blockskip", workload.operation), "cpu", 0)
        yield torch.tensor([check.error, check.tolerance, check.passed], dtype=torch.float64, device="cpu")


def decoded() -> Iterator[torch.Tensor]:
    spec = ModelSpec.named("laptop").cut(1)
    ids = torch.arange(1, 31, dtype=torch.int64, device="cpu").view(2, 15)
    for bits in (None, 4):
        model = Decoder.random(replace(spec, vocabulary=64, intermediate=96), bits=bits)
        yield model.prefill(ids, lengths=[15, 4], chunk=6, logits="all")
        yield model.step(ids[:, :2])


def digest() -> tuple[int, str]:
    found = []
    for t in results():
        bits = t.contiguous().flatten().view(torch.uint8).numpy()
        found.append((str(t.dtype), str(t.device), tuple(t.shape), hashlib.sha256(bits).hexdigest()))
    return len(found), hashlib.sha256(repr(found).encode()).hexdigest()


if __name__ == "__main__":
    if sys.argv[1] == "others":
        torch.set_default_dtype(torch.bfloat16)
        torch.set_default_device("meta")  # nothing can be computed with a tensor that is made there
        first = digest()  # what is kept of it must not spoil what follows
        torch.set_default_dtype(torch.float32)
        torch.set_default_device("cpu")
        if first != digest():
            sys.exit(f"under other defaults: {first}; after them: {digest()}")
    print(*digest())
