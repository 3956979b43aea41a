"""The quantised linear layer: every implementation against W4A8 worked out here in float64, interpreted or on CUDA."""

import math

import blockskip as bs
import pytest
import torch
from blockskip.linear import tiled
from blockskip.linear.activations import round_to_int8
from blockskip.linear.packing import tile_order

IMPLS = ("reference", "tiled", "triton")
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def inputs(device, rows=1, n=11, k=384, dtype=torch.float32, kind=(4, 32, False), seed=0):
    generator = torch.Generator().manual_seed(seed + rows)
    x, weight, bias = (torch.randn(shape, generator=generator).to(dtype) for shape in ((rows, k), (n, k), (n,)))
    return x.to(device), bs.quantize(weight.to(device), *kind).packed("rows"), bias.to(device)


def rounded(x):
    """x [M, K] as int8 leaves it, float64: a step for each 32, decided in float32."""
    blocks = x.float().unflatten(1, (-1, 32))
    step = blocks.abs().amax(-1, keepdim=True) / torch.full((), 127.0, device=x.device)  # a number CUDA multiplies by
    codes = torch.where(step > 0, torch.round(blocks / step), 0)
    assert codes.abs().max() <= 127
    return (codes.double() * step.double()).flatten(1)


def numbers(w, values, step):
    """Metadata of each weight, float64 [N, K]: codes count steps."""
    values = values.double()
    if step is not None:
        values = values * step.double().repeat_interleave(256 // w.group_size, 1)
    return values.repeat_interleave(w.group_size, 1)


def weight_of(w):
    """(values, bound of the terms that they are summed of), float64 [N, K], as `QuantizedWeight` defines them."""
    code, scale = w.codes().double(), numbers(w, w.scale, w.scale_step)
    smallest, middle = (0, 8) if w.bits == 4 else (-128, 0)
    if w.zero is not None:
        weight = (code - numbers(w, w.zero, None)) * scale
    elif w.minimum is not None:
        minimum = numbers(w, w.minimum, w.minimum_step)
        return (code - smallest) * scale + minimum, (code - smallest) * scale + minimum.abs()
    else:
        weight = (code - middle) * scale
    return weight, weight.abs()


def truth(x, w, bias=None):
    """(result, sum of magnitudes), float64 [M, N] on x's device: what `linear` means, term by term."""
    few = x.shape[0] <= 8
    activations = rounded(x) if few else x.double()
    weight, terms = weight_of(w)
    weight = weight if few else weight.to(x.dtype).double()
    extra = 0.0 if bias is None else bias.double()
    return activations @ weight.T + extra, activations.abs() @ terms.T + abs(extra)


def check(out, x, w, bias=None):
    """Derived: one rounding to the output's dtype; in float32 a rounding for each product and each sum of K."""
    expected, magnitude = truth(x, w, bias)
    assert out.dtype == x.dtype and out.shape == (x.shape[0], w.shape[0]) and out.device == x.device
    summing = (x.shape[1] + 8) * torch.finfo(torch.float32).eps / 2
    allowed = magnitude * summing + expected.abs() * torch.finfo(x.dtype).eps
    if x.shape[0] > 8 and x.dtype != torch.float32:
        allowed += magnitude * torch.finfo(x.dtype).eps  # the bias may be added to what was rounded already
    assert ((out.double() - expected).abs() <= allowed).all()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize("bits", [4, 8])
def test_one_row_equals_float64_arithmetic(device, impl, bits, group_size, symmetric):
    x, w, bias = inputs(device, kind=(bits, group_size, symmetric))
    check(bs.linear(x, w, bias, impl=impl), x, w, bias)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize("bits", [4, 8])
def test_encoded_metadata_equals_float64_arithmetic(device, impl, bits, group_size, symmetric):
    for rows in (1, 3, 9):
        x, w, bias = inputs(device, rows, k=512, kind=(bits, group_size, symmetric, "uint8"))
        assert w.encoded
        check(bs.linear(x, w, bias, impl=impl), x, w, bias)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bits", [4, 8])
def test_encoded_metadata_in_half_precision(device, impl, dtype, bits):
    for rows in (2, 9):
        x, w, bias = inputs(device, rows, k=256, dtype=dtype, kind=(bits, 32, False, "uint8"))
        check(bs.linear(x, w, bias, impl=impl), x, w, bias)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("rows", [2, 3, 5, 8])
@pytest.mark.parametrize("bits", [4, 8])
def test_up_to_eight_rows_are_rounded(device, impl, rows, bits):
    x, w, _ = inputs(device, rows, n=5, k=128, kind=(bits, 64, False))
    out = bs.linear(x, w, impl=impl)
    check(out, x, w)
    unrounded = x.double() @ w.dequantize(torch.float64).T
    assert (out.double() - unrounded).abs().max() > 1e-4  # the rounding is there, in every implementation


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
def test_more_rows_leave_activations_untouched(device, impl, dtype, bits, symmetric):
    x, w, bias = inputs(device, 9, dtype=dtype, kind=(bits, 128, symmetric))
    check(bs.linear(x, w, bias, impl=impl), x, w, bias)
    check(bs.linear(x, w, impl=impl), x, w)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(device, impl, dtype):
    x, w, bias = inputs(device, 2, dtype=dtype)
    check(bs.linear(x, w, bias, impl=impl), x, w, bias)


@pytest.mark.parametrize(("n", "k"), [(1, 32), (3, 96), (17, 32 * 7), (6, 32 * 33)])
def test_ragged_sizes(device, n, k):
    for bits in (4, 8):
        x, w, bias = inputs(device, n=n, k=k, kind=(bits, 32, False))
        check(bs.linear(x, w, bias, impl="triton"), x, w, bias)


@pytest.mark.parametrize(("n", "k"), [(1, 256), (5, 256 * 3), (3, 256 * 5)])
def test_ragged_sizes_of_encoded_metadata(device, n, k):
    for kind in ((4, 32, False, "uint8"), (8, 128, True, "uint8")):
        x, w, bias = inputs(device, n=n, k=k, kind=kind)
        check(bs.linear(x, w, bias, impl="triton"), x, w, bias)


def of_sixteen(n, k, has_step):
    """A weight of int8 codes with a scale of either sign for each 16: numbers, or int8 codes of a step."""
    generator = torch.Generator().manual_seed(k)
    codes, scale = (torch.randint(-128, 128, (n, columns), generator=generator) for columns in (k, k // 16))
    data = codes.to(torch.int8).unflatten(1, (-1, 2, 16)).transpose(1, 2).contiguous()
    if not has_step:
        return bs.QuantizedWeight(data, scale.float() / 64, None, torch.float32)
    step = torch.rand((n, k // 256), generator=generator).half()
    return bs.QuantizedWeight(data, scale.to(torch.int8), None, torch.float32, scale_step=step)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("n", "k", "has_step"), [(1, 32, 0), (5, 224, 0), (3, 256, 1), (2, 1280, 1)])
def test_groups_of_sixteen(device, impl, n, k, has_step):
    w = of_sixteen(n, k, has_step).to(device)
    for rows in (1, 3, 6, 9):
        x, _, bias = inputs(device, rows, n=n, k=k)
        check(bs.linear(x, w, bias, impl=impl), x, w, bias)


@pytest.mark.parametrize("config", [(4, 4, 1), (8, 16, 2)])
def test_every_way_to_step_takes_groups_of_sixteen(device, config):
    from blockskip.linear.launch import linear
    from blockskip.linear.plan import LinearPlan, MatvecConfig

    w = of_sixteen(9, 768, 1).to(device)
    x, _, _ = inputs(device, 2, n=9, k=768)
    check(linear(x, w, None, LinearPlan("triton", "matvec", MatvecConfig(*config), 1, "asked for")), x, w)


@pytest.mark.parametrize("config", [(4, 4, 1), (16, 8, 4), (2, 8, 1), (8, 16, 2)])
@pytest.mark.parametrize("kind", [(4, 128, False), (8, 32, True), (4, 32, True), (4, 64, False, "uint8")])
def test_every_way_to_step_through_k(device, config, kind):
    from blockskip.linear.launch import linear
    from blockskip.linear.plan import LinearPlan, MatvecConfig

    x, w, _ = inputs(device, 2, k=256 * 3 if "uint8" in kind else 32 * 12, kind=kind)
    check(linear(x, w, None, LinearPlan("triton", "matvec", MatvecConfig(*config), 1, "asked for")), x, w)


@pytest.mark.parametrize("order", ["int4", "int8", "tiles"])
def test_activations_are_rounded_to_the_very_codes_of_torch(device, order):
    from blockskip.linear import launch

    k = 32 * 8
    x = torch.randn((3, k), generator=torch.Generator().manual_seed(0))
    x[0, :32] = torch.arange(32) - 15.5  # ties
    x[0, 31] = 127
    x[1, :32] = 0
    x[1, 32:64] *= 1e-42  # a subnormal step
    x[1, 96:128] = 180 * 2**-149  # one so coarse that the quotient passes 127
    x[1, 64:96] *= 1e36
    x[2, 3], x[2, 40], x[2, 70] = math.nan, math.inf, -math.inf
    x = x.to(device)
    codes = torch.empty((3, 2, k // 8), dtype=torch.int32, device=device)
    step, total = torch.empty((3, k // 32), device=device), torch.empty((3, k // 32), device=device)
    one = launch.prepare_rounding(x, order, codes, launch.Blocks(step, total))
    launch.rounding_kernel[one.grid](*one.arguments, **one.constants)
    planes = codes.view(torch.int8).view(3, 2, k // 32, 16).cpu()
    found = torch.stack((planes[:, 0], planes[:, 1]), -2 if order == "int8" else -1).reshape(3, k // 32, 32)
    if order == "tiles":  # nibble 2 j + p of a word meets byte j of the p-th plane
        found = found[..., tile_order(found.device).argsort()]
    codes, steps = round_to_int8(x.cpu())
    assert torch.equal(found.float(), codes)
    torch.testing.assert_close(step.cpu().unsqueeze(-1), steps, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(total.cpu(), codes.sum(-1))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite_are_not_hidden(device, impl, bad):
    x, w, _ = inputs(device, 3)
    x[1, 70] = bad
    out = bs.linear(x, w, impl=impl)
    assert out[1].isnan().all() and out[[0, 2]].isfinite().all()


@pytest.mark.parametrize("impl", IMPLS)
def test_activations_of_zero_give_the_bias(device, impl):
    _, w, bias = inputs(device)
    assert torch.equal(bs.linear(torch.zeros(1, 384, device=device), w, bias, impl=impl)[0], bias)


@pytest.mark.parametrize("impl", IMPLS)
def test_any_strides_and_leading_dimensions(device, impl):
    x, w, _ = inputs(device, 6)
    expected = bs.linear(x, w, impl=impl)
    shaped = bs.linear(x.view(2, 1, 3, -1), w, impl=impl)
    assert shaped.shape == (2, 1, 3, 11) and torch.equal(shaped.view(6, 11), expected)
    assert torch.equal(bs.linear(x.T.contiguous().T, w, impl=impl), expected)
    torch.testing.assert_close(bs.linear(x[:1].expand(2, -1), w, impl=impl), expected[:1].expand(2, -1))
    torch.testing.assert_close(bs.linear(x[0], w, impl=impl), expected[0])
    assert bs.linear(x[:0], w, impl=impl).shape == (0, 11)


@pytest.mark.parametrize("metadata", ["bfloat16", "uint8"])
def test_the_kernel_reads_no_row_but_its_own_and_repeats_itself(device, metadata):
    x, w, bias = inputs(device, 2, n=11, k=512, kind=(4, 32, False, metadata))
    for table in (w.scale, w.zero, w.scale_step, w.minimum_step):
        if table is not None and table.is_floating_point():
            table[5:] = math.nan
    part = w.rows(0, 5)
    out = bs.linear(x, part, bias[:5], impl="triton")
    check(out, x, part, bias[:5])
    assert torch.equal(out, bs.linear(x, part, bias[:5], impl="triton"))
    # each row of activations is summed in the order of a call with that row alone
    assert torch.equal(out[1:], bs.linear(x[1:], part, bias[:5], impl="triton"))


@pytest.mark.parametrize("rows", [1, 9])
def test_tiled_holds_no_more_float_weights_than_a_block(monkeypatch, rows):
    x, w, bias = inputs("cpu", rows)
    monkeypatch.setattr(tiled, "BLOCK_ELEMENTS", 4 * 384)
    seen, original = [], bs.QuantizedWeight.values

    def recorded(self, codes, dtype):
        seen.append(tuple(codes.shape))
        return original(self, codes, dtype)

    monkeypatch.setattr(bs.QuantizedWeight, "values", recorded)
    check(bs.linear(x, w, bias, impl="tiled"), x, w, bias)
    halves = [(n, 192) for n in (4, 4, 3) for _ in range(2)]
    assert seen == (halves if rows == 1 else [(4, 384), (4, 384), (3, 384)])


def test_inputs_come_back_unchanged(device):
    x, w, bias = inputs(device, 2)
    before = [t.clone() for t in (x, bias, *w.tensors)]
    for impl in IMPLS:
        bs.linear(x, w, bias, impl=impl)
    assert all(torch.equal(a, b) for a, b in zip((x, bias, *w.tensors), before, strict=True))


def test_compiled_kernels_read_the_weight_as_it_lies(monkeypatch):
    """bfloat16 metadata turned to floats beside them cost 30 us a call of 21504 x 5376."""
    from blockskip.linear import launch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Nothing(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            raise AssertionError(f"{function} was called")

    _, w, _ = inputs("cpu", kind=(4, 32, False), dtype=torch.bfloat16)
    monkeypatch.setattr(launch, "interpreting", lambda: False)
    with Nothing():
        assert launch.readable(w) is w


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a GPU's memory is counted")
@pytest.mark.parametrize("rows", [1, 16])
def test_the_first_call_of_a_kind_takes_memory_for_its_result_alone(device, rows):
    from blockskip.launching.repeated import REPEATED

    x, w, _ = inputs(device, rows, 8192, 8192, torch.bfloat16)
    bs.linear(x, w)  # compiles
    REPEATED.clear()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    bs.linear(x, w)
    assert torch.cuda.max_memory_allocated() - before < w.scale.nbytes  # the metadata as floats is four times that


@pytest.mark.parametrize("metadata", ["bfloat16", "uint8"])
def test_the_reference_is_float64_capable(metadata):
    x, w, bias = inputs("cpu", 2, k=512, kind=(4, 32, False, metadata))
    expected, _ = truth(x, w, bias)
    out = bs.linear(x.double(), w, bias.double(), impl="reference")
    assert out.dtype == torch.float64
    torch.testing.assert_close(out, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"impl": "cuda"}, ValueError, "impl: given 'cuda'; allowed are auto, reference, tiled, numba, triton"),
        ({"w": torch.zeros(11, 384)}, TypeError, "w: given Tensor; a QuantizedWeight"),
        ({"x": [1.0]}, TypeError, "x: given list"),
        ({"x": torch.zeros(1, 384, dtype=torch.int8)}, TypeError, r"x: given torch\.int8"),
        ({"x": torch.zeros(1, 384, dtype=torch.float64)}, TypeError, r"x: given torch\.float64"),
        ({"x": torch.zeros(1, 383)}, ValueError, r"x: given shape \(1, 383\); \[\.\.\., 384\]"),
        ({"x": torch.tensor(1.0)}, ValueError, r"x: given shape \(\)"),
        ({"x": torch.zeros(1, 384, requires_grad=True)}, ValueError, "x: requires grad"),
        ({"x": torch.zeros(1, 384, device="meta")}, ValueError, "x: is on meta; must be on w's cpu"),
        ({"bias": torch.zeros(11).half()}, TypeError, r"bias: given torch\.float16; allowed are torch\.float32"),
        ({"bias": torch.zeros(12)}, ValueError, r"bias: given shape \(12,\); \[11\]"),
    ],
)
def test_errors(change, error, message):
    x, w, bias = inputs("cpu")
    with pytest.raises(error, match=message):
        bs.linear(**{"x": x, "w": w, "bias": bias, **change})


def test_an_explicit_impl_never_falls_back(monkeypatch):
    x, w, _ = inputs("cpu")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match=r"impl: 'triton' needs CUDA tensors.*TRITON_INTERPRET=1"):
        bs.linear(x, w, impl="triton")
    assert torch.equal(bs.linear(x, w), bs.linear(x, w, impl="tiled"))


def test_the_operator_and_its_fake_agree(device):
    import blockskip.linear.ops  # noqa: F401

    x, w, bias = inputs(device, 2)
    for given in ((w.zero, bias), (None, None)):
        torch.library.opcheck(torch.ops.blockskip.linear, (x, w.data, w.scale, *given, "auto"))
    x, w, bias = inputs(device, 2, k=256, kind=(4, 32, False, "uint8"))
    more = w.minimum, w.middle, w.scale_step, w.minimum_step
    torch.library.opcheck(torch.ops.blockskip.linear, (x, w.data, w.scale, w.zero, bias, "auto", *more))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="sizes beyond the interpreter need CUDA")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "k"), [(5376, 21504), (8192, 5376), (1001, 5376 + 32), (4096, 8192)])
@pytest.mark.parametrize("bits", [4, 8])
def test_hardware_sizes(device, dtype, n, k, bits):
    group_size = 128 if k % 128 == 0 else 32
    kinds = [(bits, 32, False), (bits, group_size, True)] + [(bits, 32, False, "uint8")] * (k % 256 == 0)
    for kind in kinds:
        x, w, bias = inputs(device, 130, n, k, dtype, kind)
        for rows in (1, 2, 5, 8, 9, 130):
            check(bs.linear(x[:rows], w, bias), x[:rows], w, bias)
