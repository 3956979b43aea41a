"""Any quantised weight and any product with it, against the oracle."""

from __future__ import annotations

from dataclasses import dataclass

import blockskip as bs
import numpy as np
import oracle
import pytest
import torch
from draws import DTYPES, check, exactly, examples, lay_out, numbers
from hypothesis import given
from hypothesis import strategies as st

PLACES = {"plain": slice(None), "shifted": slice(1, None), "every other": slice(1, None, 2)}
BIAS = ("none", *PLACES, "expanded")
# weights and bytes of a block, and where its float16 numbers are
GGUF = {
    "Q4_0": (32, 18, (0,)), "Q4_1": (32, 20, (0, 2)), "Q5_0": (32, 22, (0,)), "Q5_1": (32, 24, (0, 2)),
    "Q8_0": (32, 34, (0,)), "Q4_K": (256, 144, (0, 2)), "Q5_K": (256, 176, (0, 2)), "Q6_K": (256, 210, (208,)),
}  # fmt: skip


def parts_of(w: bs.QuantizedWeight) -> dict:
    """What the oracle's `weight` takes."""
    names = ("scale", "zero", "minimum", "scale_step", "minimum_step")
    given = {name: exactly(t) for name in names if (t := getattr(w, name)) is not None}
    return {"data": w.data.numpy(), "bits": w.bits, **given}


def biases(kind: str, n: int, seed: int, dtype: torch.dtype) -> torch.Tensor | None:
    """[n] numbers, laid out awkwardly, among NaN; or None."""
    if kind == "none":
        return None
    drawn = numbers((n,), "normal", seed, dtype)
    if kind == "expanded":
        return drawn[:1].expand(n)
    around = torch.full((2 * n + 1,), float("nan"), dtype=dtype)
    return around[PLACES[kind]][:n].copy_(drawn)


@dataclass(frozen=True, repr=False)
class Product:
    """x [.., K], a packed weight, a bias, and the float weight that was packed, if it was not imported."""

    x: torch.Tensor
    w: bs.QuantizedWeight
    bias: torch.Tensor | None
    weight: torch.Tensor | None = None
    symmetric: bool = False

    def __repr__(self):
        bias = None if self.bias is None else f"stride {self.bias.stride()}"
        return f"Product(x {tuple(self.x.shape)} {self.x.dtype} stride {self.x.stride()}, {self.w!r}, bias {bias})"


@st.composite
def products(draw, outputs, inputs, rows):
    bits, size = draw(st.sampled_from([4, 8])), draw(st.sampled_from([32, 64, 128]))
    symmetric, metadata = draw(st.booleans()), draw(st.sampled_from(["bfloat16", "uint8"]))
    unit = 256 if metadata == "uint8" else size
    n, k = draw(st.integers(1, outputs)), unit * draw(st.integers(1, max(1, inputs // unit)))
    seed, dtype = draw(st.integers(0, 999)), DTYPES[draw(st.sampled_from(list(DTYPES)))]
    weight = numbers((n, k), draw(st.sampled_from(["normal", "large", "whole", "zero"])), seed, dtype)
    weight = weight + draw(st.sampled_from([0.0, 0.0, 3.0, -8.0]))
    w = bs.quantize(weight, bits, size, symmetric, metadata)
    return Product(*draw(activations(n, k, rows, seed, dtype, w)), weight, symmetric)


@st.composite
def activations(draw, n, k, rows, seed, dtype, w):
    """x, w, bias of up to so many rows."""
    m = draw(st.integers(1, rows))
    layout = draw(st.sampled_from(["plain", "inside", "every other", "shifted", "positions", "rows apart"]))
    x = lay_out(numbers((m, k), draw(st.sampled_from(["normal", "large", "whole", "zero"])), seed + 1, dtype), layout)
    return x, w, biases(draw(st.sampled_from(BIAS)), n, seed + 2, dtype)


@st.composite
def imported(draw, outputs, inputs, rows):
    """A product with a weight of any codes from GGUF."""
    kind = draw(st.sampled_from(list(GGUF)))
    unit, nbytes, halves = GGUF[kind]
    n, blocks = draw(st.integers(1, outputs)), draw(st.integers(1, max(1, inputs // unit)))
    seed, dtype = draw(st.integers(0, 999)), DTYPES[draw(st.sampled_from(list(DTYPES)))]
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 256, (n, blocks, nbytes), dtype=np.uint8)
    for at in halves:
        data[..., at : at + 2] = rng.normal(0, 1e-3, (n, blocks, 1)).astype(np.float16).view(np.uint8)
    w = bs.from_gguf(data.tobytes(), kind, (n, blocks * unit))
    return Product(*draw(activations(n, blocks * unit, rows, seed, dtype, w)))


def any_product(outputs, inputs, rows):
    return st.one_of(products(outputs, inputs, rows), imported(outputs, inputs, rows))


def run(product: Product, impl: str, **words) -> torch.Tensor:
    x, w, bias = product.x, product.w, product.bias
    out = bs.linear(x, w, bias, impl=impl, **words)
    assert out.dtype == x.dtype and out.shape == (*x.shape[:-1], w.shape[0])
    values, terms = oracle.weight(**parts_of(w))
    name = str(x.dtype).removeprefix("torch.")
    rows = exactly(x).reshape(-1, x.shape[-1])
    want = oracle.linear(rows, values, terms, None if bias is None else exactly(bias), name)
    check(out.reshape(rows.shape[0], -1), want.out, want.bound, "out")
    return out


@examples(100)
@given(products(9, 512, 1))
def test_quantising(product):
    """Codes span each group and 0; no weight is off by more than half a step, nor is 0 where zero points are whole."""
    w, weight = product.w, exactly(product.weight)
    values, terms = oracle.weight(**parts_of(w))
    found = exactly(w.dequantize(torch.float64))
    np.testing.assert_allclose(found, values, rtol=1e-12, atol=1e-12 * terms.max())
    groups = weight.reshape(len(weight), -1, w.group_size)
    low, high = np.minimum(groups.min(-1), 0), np.maximum(groups.max(-1), 0)
    scale = exactly(w.scale)
    if w.scale_step is not None:
        scale = scale * np.repeat(exactly(w.scale_step), scale.shape[1] // w.scale_step.shape[1], 1)
    error = np.abs(values - weight).reshape(groups.shape).max(-1)
    slack = 8 * oracle.U32 * (np.maximum(high, -low) + 256 * scale)  # float32: quotients, sums with the zero point
    assert (error <= scale / 2 + slack).all()
    if w.zero is not None or product.symmetric:
        assert not values[weight == 0].any()
    if not w.encoded:
        middle = 2 ** (w.bits - 1)
        span = np.maximum(high / (middle - 1), -low / middle) if product.symmetric else (high - low) / (2**w.bits - 1)
        assert (scale <= span * (1 + 2.0**-7)).all()  # rounded up to bfloat16, a float32 rounding at most beyond
    assert w.nbytes == sum(t.nbytes for t in w.tensors) and w.bits_per_weight == w.nbytes * 8 / weight.size


@pytest.mark.parametrize("impl", ["tiled", "reference", "auto"])
@examples(80)
@given(any_product(33, 768, 40))
def test_in_pytorch(impl, product):
    run(product, impl)


@examples(25)
@given(any_product(3, 256, 8))
def test_the_matvec(product):
    run(product, "triton")


@examples(25)
@given(any_product(40, 512, 40), st.sampled_from(["measured", "fused", "dequantize"]))
def test_more_rows(product, route):
    """By both kernels for more than eight rows."""
    dtype, rows = product.x.dtype, product.x.shape[0]
    if rows <= 8 or (route == "fused" and dtype == torch.float32):
        if route != "measured":
            with pytest.raises(ValueError, match=f"route: given '{route}' with"):
                bs.linear(product.x, product.w, product.bias, impl="triton", route=route)
        return
    run(product, "triton", route=route)


@examples(40)
@given(any_product(9, 256, 40), st.data())
def test_leading_dimensions_and_modules(product, data):
    """A module holds the same layer: of 1 to 4 dimensions, through its state_dict, and when used again."""
    x, w, bias = product.x, product.w, product.bias
    shape = data.draw(st.sampled_from([(1, len(x)), (len(x), 1), (1, len(x), 1)]))
    wanted = run(product, "auto")
    layer, again = (bs.QuantizedLinear(w.clone(), bias) for _ in "ab")
    again.load_state_dict(layer.state_dict())
    for module in (layer, again):
        for _ in range(2):
            assert torch.equal(module(x.reshape(*shape, -1)).reshape(wanted.shape), wanted)


@st.composite
def products_in_tiles(draw):
    """A product with a weight that can lie in tiles, given in rows."""
    n, k = 64 * draw(st.integers(1, 2)), 256 * draw(st.integers(1, 3))
    seed, dtype = draw(st.integers(0, 999)), DTYPES[draw(st.sampled_from(list(DTYPES)))]
    weight = numbers((n, k), draw(st.sampled_from(["normal", "large", "whole", "zero"])), seed, dtype)
    w = bs.quantize(weight, 4, draw(st.sampled_from([32, 64, 128])), draw(st.booleans()))
    return Product(*draw(activations(n, k, 20, seed, dtype, w)))


@examples(25)
@given(products_in_tiles(), st.sampled_from(["reference", "tiled", "triton"]))
def test_in_tiles(product, impl):
    """The bits of a weight in rows wherever activations are named, and of a module that loads either."""
    x, w, bias = product.x, product.w, product.bias
    layers = [bs.QuantizedLinear(w.packed(packing), bias) for packing in ("rows", "tiles")]
    for layer in layers:
        other = bs.QuantizedLinear(w.clone(), bias)
        other.load_state_dict(layer.state_dict())
        assert torch.equal(other.data, w.data) and torch.equal(other.scale, w.scale)
    for word in (
        ("float",) if impl == "triton" else ("float", "int8")
    ):  # the interpreter takes long for each row of weights
        options = {"impl": impl, "activations": word}
        route = {"route": "dequantize"} if impl == "triton" else {}
        found = bs.linear(x, w.packed("tiles"), bias, **options, **route)
        assert torch.equal(found, bs.linear(x, w, bias, **options, **route))
