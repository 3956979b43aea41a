"""The product of packed weights on tensor cores, for more than eight rows, and which way `linear` takes.

Tolerance: an element is a sum of K products in float32, in another order than the reference's: K roundings of the sum
of their magnitudes at most, on either side, and one rounding to the result's dtype.
"""

import itertools

import blockskip as bs
import pytest
import torch
from blockskip.linear import plan as plans
from blockskip.linear import route
from blockskip.linear.plan import FusedConfig, LinearPlan

WAYS = ("fused", "dequantize")


def draw(device, rows, n, k, dtype=torch.bfloat16, **quantising):
    generator = torch.Generator().manual_seed(rows * 1000 + n + k)
    x = torch.randn(rows, k, generator=generator).to(device, dtype)
    weight = torch.randn(n, k, generator=generator).to(device) * 0.05
    return x, bs.quantize(weight, **quantising).packed("rows")


def check(out, x, w, bias=None):
    weight = w.dequantize(x.dtype).double()
    want = x.double() @ weight.T + (0 if bias is None else bias.double())
    sums = (
        2 * x.shape[1] * 2.0**-24 * (x.double().abs() @ weight.abs().T + (0 if bias is None else bias.double().abs()))
    )
    rounding = torch.finfo(x.dtype).eps / 2 * want.abs()
    assert out.dtype == x.dtype and out.shape == want.shape
    assert ((out.double() - want).abs() <= sums + rounding * 1.01).all()


@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
def test_both_ways_are_right_for_every_format(device, bits, group_size, symmetric):
    x, w = draw(device, 19, 70, 384, bits=bits, group_size=group_size, symmetric=symmetric)
    for way in WAYS:
        check(bs.linear(x, w, impl="triton", route=way), x, w)


@pytest.mark.parametrize(("rows", "n", "k"), [(9, 1, 32), (16, 64, 128), (17, 65, 160), (130, 5, 96), (33, 129, 2080)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_ragged_sizes_with_a_bias(device, rows, n, k, dtype):
    x, w = draw(device, rows, n, k, dtype)
    bias = torch.randn(n, generator=torch.Generator().manual_seed(1)).to(device, dtype)
    check(bs.linear(x, w, bias, impl="triton", route="fused"), x, w, bias)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_encoded_metadata(device, bits, symmetric):
    x, w = draw(device, 12, 40, 512, bits=bits, symmetric=symmetric, metadata="uint8")
    check(bs.linear(x, w, impl="triton", route="fused"), x, w)


def test_a_weight_with_minima_from_gguf(device):
    generator = torch.Generator().manual_seed(2)
    numbers = torch.rand(24, 4, 2, generator=generator).half().view(torch.uint8)
    codes = torch.randint(0, 256, (24, 4, 16), generator=generator, dtype=torch.uint8)
    w = bs.from_gguf(torch.cat([numbers.view(24, 4, 4), codes], -1), "Q4_1", (24, 128)).to(device)
    x = torch.randn(11, 128, generator=generator).to(device, torch.float16)
    check(bs.linear(x, w, impl="triton", route="fused"), x, w)


@pytest.mark.parametrize("kind", ["Q5_K", "Q6_K"])
@pytest.mark.parametrize(("rows", "n", "k"), [(9, 1, 256), (17, 70, 768)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_k_quants_by_both_ways(device, kind, rows, n, k, dtype):
    generator = torch.Generator().manual_seed(n)
    nbytes, steps = {"Q5_K": (176, (0, 2)), "Q6_K": (210, (208,))}[kind]
    blocks = torch.randint(0, 256, (n, k // 256, nbytes), generator=generator, dtype=torch.uint8)
    for at in steps:
        step = (torch.rand(n, k // 256, generator=generator) * 1e-3).half()
        blocks[..., at : at + 2] = step.view(torch.uint8).unflatten(1, (-1, 2))
    w = bs.from_gguf(blocks, kind, (n, k)).to(device)
    x = torch.randn(rows, k, generator=generator).to(device, dtype)
    for way in WAYS:
        check(bs.linear(x, w, impl="triton", route=way), x, w)


@pytest.mark.parametrize("splits", [2, 3, 5])
def test_shares_along_k_are_summed(device, splits):
    from blockskip.linear import launch

    x, w = draw(device, 20, 33, 1184)
    bias = torch.ones(33, dtype=x.dtype, device=device)
    plan = LinearPlan("triton", "fused", FusedConfig(32, 32, 4, 4, 2), splits, "asked for")
    first = launch.linear(x, w, bias, plan)
    check(first, x, w, bias)
    assert torch.equal(first, launch.linear(x, w, bias, plan))


def test_strided_activations_and_more_dimensions(device):
    x, w = draw(device, 24, 48, 256)
    wide = torch.full((24, 512), float("nan"), dtype=x.dtype, device=device)
    wide[:, ::2] = x
    assert torch.equal(
        bs.linear(wide[:, ::2], w, impl="triton", route="fused"), bs.linear(x, w, impl="triton", route="fused")
    )
    check(bs.linear(x.view(2, 12, 256), w, impl="triton", route="fused").flatten(0, 1), x, w)


@pytest.mark.parametrize(
    "quantising", [{}, {"group_size": 128}, {"metadata": "uint8"}, {"bits": 8}, {"bits": 8, "metadata": "uint8"}]
)
def test_the_measured_way_follows_the_crossover(device, quantising):
    capability = torch.cuda.get_device_capability() if device == "cuda" else (9, 0)
    _, w = draw(device, 1, 32, 256, **quantising)
    last = route.crossover(w, capability).rows
    for rows in sorted({1, 8, 9, last, last + 1}):
        kernel = "matvec" if rows <= 8 else "fused" if rows <= last else "dequantize"
        x = torch.zeros(rows, 256, dtype=torch.bfloat16, device=device)
        plan = bs.explain_linear(x, w, impl="triton")
        assert plan.kernel == kernel and f"kernel  {kernel}: {rows} row" in str(plan)
    assert bs.explain_linear(torch.zeros(9, 256, device=device), w, impl="triton").kernel == "dequantize"


def test_the_spelling_of_recorded_runs_means_the_same_route(device):
    x, w = draw(device, 9, 32, 256)
    ours, recorded = (bs.linear(x, w, impl="triton", route=route) for route in ("dequantize", "dequantise"))
    assert torch.equal(ours, recorded)
    assert bs.explain_linear(x, w, impl="triton", route="dequantise").kernel == "dequantize"


def test_every_gpu_and_format_has_a_crossover_with_its_source():
    for capability in ((8, 0), (9, 0), (12, 0)):
        for bits, group_size, metadata in itertools.product((4, 8), (32, 64, 128), ("bfloat16", "uint8")):
            _, w = draw("cpu", 1, 2, 256, bits=bits, group_size=group_size, metadata=metadata)
            found = route.crossover(w, capability)
            assert found.rows >= 8 and found.source.startswith(("predicted", "measured on", "as on"))


def test_few_rows_of_weights_are_split_along_k():
    _, w = draw("cpu", 1, 512, 8192)
    config = plans.fused_config(16, w)
    assert plans.fused_splits(16, w, config, 132) == 8  # steps // LEAST_STEPS
    assert plans.fused_splits(16, w, config, 8) == 2  # two programs a multiprocessor
    assert plans.fused_splits(64, w, plans.fused_config(64, w), 8) == 1  # one
    _, w = draw("cpu", 1, 4096, 2048)
    assert plans.fused_splits(16, w, config, 16) == 1


@pytest.mark.parametrize(
    ("rows", "dtype", "arguments", "message"),
    [
        (8, torch.bfloat16, {"route": "fused"}, "route: given 'fused' with 8 rows; up to 8 rows"),
        (8, torch.bfloat16, {"route": "dequantize"}, "route: given 'dequantize' with 8 rows"),
        (9, torch.bfloat16, {"route": "matvec"}, "route: given 'matvec' with 9 rows; it takes 8 at most"),
        (9, torch.float32, {"route": "fused"}, "route: given 'fused' with float32 activations"),
        (
            9,
            torch.bfloat16,
            {"route": "quick"},
            "route: given 'quick'; allowed are measured, matvec, fused, dequantize",
        ),
        (9, torch.bfloat16, {"route": "fused", "impl": "tiled"}, "with impl='tiled', which has one way"),
    ],
)
def test_errors_say_what_can_be_done(device, rows, dtype, arguments, message):
    x, w = draw(device, rows, 16, 64, dtype)
    with pytest.raises(ValueError, match=message):
        bs.linear(x, w, **{"impl": "triton", **arguments})


def test_torch_compile_goes_the_same_way(device):
    x, w = draw(device, 10, 32, 64)
    call = lambda x: bs.linear(x, w, impl="triton", route="fused")  # noqa: E731
    assert torch.equal(torch.compile(call, fullgraph=True, backend="aot_eager")(x), call(x))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="sizes beyond the interpreter need CUDA")
@pytest.mark.parametrize(("n", "k"), [(21504, 5376), (5376, 21504), (5376, 8192)])
@pytest.mark.parametrize("rows", [16, 100, 300])
def test_gemmas_layers(device, rows, n, k):
    for bits, group_size in ((4, 32), (4, 128), (8, 64)):
        x, w = draw(device, rows, n, k, bits=bits, group_size=group_size)
        check(bs.linear(x, w, route="fused"), x, w)
