"""numba's product: float64's results for every form of a weight, whatever the processor, and where a CPU takes it."""

import math

import blockskip as bs
import pytest
import torch
from blockskip.launching.repeated import REPEATED
from blockskip.linear import cpu
from test_imports import check_linear, gentle
from test_linear import check, inputs, of_sixteen

pytest.importorskip("numba")

KINDS = [  # of a weight, each with one row of activations or several: any form takes a second to compile
    ((4, 64, False, "uint8"), (1,)), ((4, 128, True, "bfloat16"), (3, 8)), ((4, 32, True, "uint8"), (3, 8)),
    ((8, 64, True, "bfloat16"), (1,)), ((8, 128, False, "uint8"), (3, 8)), ((4, 32, False, "bfloat16"), (1, 3, 8)),
    ((8, 32, False, "bfloat16"), (1, 3, 8)),
]  # fmt: skip
FEATURES = {
    "x86-64-v3": "+avx,+avx2,+bmi,+bmi2,+f16c,+fma,+popcnt,+sse3,+ssse3,+sse4.1,+sse4.2",
    "alderlake": "+avx,+avx2,+avxvnni,+bmi,+bmi2,+f16c,+fma,+popcnt,+sse3,+ssse3,+sse4.1,+sse4.2",
}
"""Processors without AVX-512 that numba is told to compile for: without and with an instruction for the products."""


@pytest.fixture(autouse=True)
def every_product_has_a_team(monkeypatch):
    from blockskip.linear.compiled import launch

    REPEATED.clear()
    monkeypatch.setattr(launch, "LEAST_CODES", 1)


def numba_linear(x, w, bias=None, **options):
    return bs.linear(x, w, bias, impl="numba", **options)


@pytest.mark.parametrize(("kind", "numbers_of_rows"), KINDS)
def test_every_form_equals_float64_arithmetic(kind, numbers_of_rows):
    for rows in numbers_of_rows:
        for n, k in ((11, 256), (3, 1280)):
            x, w, bias = inputs("cpu", rows, n, k, kind=kind)
            check(numba_linear(x, w, bias), x, w, bias)


@pytest.mark.parametrize("bits", [4, 8])
def test_blocks_that_are_left_over(bits):
    for rows, n, k in ((1, 1, 32), (2, 3, 96), (5, 17, 32 * 7), (4, 6, 32 * 33)):
        x, w, bias = inputs("cpu", rows, n, k, kind=(bits, 32, False))
        check(numba_linear(x, w, bias), x, w, bias)


@pytest.mark.parametrize(("rows", "n", "k", "has_step"), [(1, 5, 224, 0), (6, 3, 256, 1)])
def test_groups_of_sixteen(rows, n, k, has_step):
    x, _, bias = inputs("cpu", rows, n=n, k=k)
    w = of_sixteen(n, k, has_step)
    check(numba_linear(x, w, bias), x, w, bias)


@pytest.mark.parametrize(("shift", "given"), [("zero", "float16"), ("minimum", "float32"), ("middle", "float16")])
def test_metadata_of_any_dtype_and_fractions_as_zero_points(shift, given):
    """In groups of 64, two blocks of which are left over."""
    generator = torch.Generator().manual_seed(0)
    data = torch.randint(0, 256, (7, 96), generator=generator, dtype=torch.uint8)
    scale, shifts = (torch.rand((7, 3), generator=generator).to(getattr(torch, given)) for _ in range(2))
    w = bs.QuantizedWeight(data, scale, **{"zero": None, shift: shifts * 15}, dtype=torch.float32)
    check_linear(w, 3, "numba", "cpu")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_activations_are_rounded_to_the_very_codes_of_torch(dtype):
    """By a product that shows them: an identity, a code of one in each row."""
    codes = torch.zeros((64, 64), dtype=torch.uint8)
    codes.fill_diagonal_(1)
    one = torch.ones((64, 2), dtype=torch.float32)
    w = bs.QuantizedWeight(codes[:, ::2] | codes[:, 1::2] << 4, one, one * 0, torch.float32)
    x = (
        torch.randn((9, 64), generator=torch.Generator().manual_seed(1)).to(dtype)
        * 10.0 ** torch.arange(-4, 5)[:, None]
    )
    x = x.to(dtype)
    x[0, :32], x[1, :32] = 0, torch.linspace(-1, 1, 32)  # no step; ties
    x[2, :32] = torch.finfo(torch.float32).smallest_normal / 1e3 if dtype == torch.float32 else 0  # a subnormal step
    x[2, 5] = -x[2, 0]
    expected = bs.round_activations(x).dequantize(torch.float32).to(dtype)
    for given in (x, bs.round_activations(x)):
        assert torch.equal(numba_linear(given, w, activations="int8"), expected)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_row_has_the_same_bits_whatever_the_others_are(bits):
    x, w, bias = inputs("cpu", 21, 19, 640, kind=(bits, 32, False))
    whole = numba_linear(x, w, bias, activations="int8")
    for rows in (slice(0, 1), slice(3, 5), slice(4, 12), slice(20, 21)):
        assert torch.equal(numba_linear(x[rows], w, bias, activations="int8"), whole[rows])
    assert torch.equal(numba_linear(bs.round_activations(x), w, bias), whole)


def test_any_strides_and_leading_dimensions():
    x, w, bias = inputs("cpu", 6)
    expected = numba_linear(x, w, bias)
    assert torch.equal(numba_linear(x.view(2, 1, 3, -1), w, bias).view(6, 11), expected)
    assert torch.equal(numba_linear(x.T.contiguous().T, w, bias), expected)
    assert torch.equal(numba_linear(x[:1].expand(2, -1), w, bias), expected[:1].expand(2, -1))
    assert torch.equal(numba_linear(x[0], w, torch.stack([bias, bias], 1)[:, 0]), expected[0])
    negated = torch._neg_view(-x)
    assert negated.is_neg() and torch.equal(numba_linear(negated, w, bias), expected)
    assert numba_linear(x[:0], w).shape == (0, 11)


@pytest.mark.parametrize("kind", [(4, 32, False, "uint8"), (4, 32, False, "bfloat16"), (8, 64, False, "bfloat16")])
def test_no_row_is_read_but_its_own(kind):
    x, w, bias = inputs("cpu", 2, n=11, k=512, kind=kind)
    for table in (w.scale, w.zero, w.scale_step, w.minimum_step):
        if table is not None and table.is_floating_point():
            table[:2] = table[5:] = math.nan
    part = w.rows(2, 5)
    check(numba_linear(x, part, bias[2:5]), x, part, bias[2:5])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite_are_not_hidden(bad):
    x, w, _ = inputs("cpu", 3)
    x[1, 70] = bad
    out = numba_linear(x, w)
    assert out[1].isnan().all() and out[[0, 2]].isfinite().all()


def test_weights_of_zero_give_zero():
    _, _, bias = inputs("cpu")
    w = bs.quantize(torch.zeros(11, 384))
    assert torch.equal(numba_linear(torch.randn(1, 384), w, bias)[0], bias)


@pytest.mark.parametrize(("kind", "rows"), [("Q4_K", 1), ("Q5_0", 4), ("Q6_K", 3)])
def test_weights_of_gguf(kind, rows):
    check_linear(bs.from_gguf(gentle(kind, 5, 512), kind, (5, 512)), rows, "numba", "cpu")


def test_a_smaller_team_than_was_asked_for_leaves_no_row_out(monkeypatch):
    from blockskip.linear.compiled import launch

    x, w, bias = inputs("cpu", 2, n=50)
    expected, team = numba_linear(x, w, bias), launch.team()
    if team is None:
        pytest.skip("no GNU OpenMP")
    monkeypatch.setattr(launch, "team", lambda: lambda code, given, threads, flags: team(code, given, 1, flags))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert torch.equal(numba_linear(x, w, bias), expected)
    monkeypatch.setattr(launch, "team", lambda: None)
    assert torch.equal(numba_linear(x, w, bias), expected)


def products():
    found = []
    for kind in ((4, 32, False), (8, 128, True)):
        x, w, bias = inputs("cpu", 5, 9, 640, kind=kind)
        found += [numba_linear(x.to(dtype), w, bias.to(dtype)) for dtype in (torch.float32, torch.float16)]
    return found


@pytest.mark.parametrize("processor", FEATURES)
def test_other_processors_give_the_same_bits(processor, tmp_path, fresh_process, monkeypatch):
    """Compiled for them, and run here, by a process of its own: numba reads its settings when it is imported."""
    from llvmlite.binding import get_host_cpu_features

    has = get_host_cpu_features()
    if not all(has.get(feature.removeprefix("+"), False) for feature in FEATURES[processor].split(",")):
        pytest.skip(f"this processor runs no code for {processor}")
    code = f"import torch, test_linear_compiled as t; torch.save(t.products(), {str(tmp_path / 'products')!r})"
    monkeypatch.setenv("NUMBA_CPU_NAME", processor)
    monkeypatch.setenv("NUMBA_CPU_FEATURES", FEATURES[processor])
    done = fresh_process("-c", code)
    assert done.returncode == 0, done.stderr[-2000:]
    assert all(map(torch.equal, torch.load(tmp_path / "products"), products()))


def test_auto_takes_it_and_says_why_not(monkeypatch):
    x, w, bias = inputs("cpu", 8, n=256, k=256)
    plan = bs.explain_linear(x, w, bias)
    assert plan.impl == "numba" and plan.batch_invariant and "products by code compiled for this processor" in str(plan)
    assert torch.equal(bs.linear(x, w, bias), numba_linear(x, w, bias))
    plan = bs.explain_linear(torch.cat([x, x]), w)
    assert plan.impl == "numba" and not plan.batch_invariant and "the weight to floats by code compiled" in str(plan)
    for weight, activations, reason in (
        (w.rows(0, 255), "auto", "a weight of 65280 codes; from 65536 on code is compiled for it"),
        (w.packed("tiles"), "int8", "the weight lies in tiles"),
        (w.each(lambda t: t.double() if t.is_floating_point() else t), "auto", r"scale is torch.float64"),
    ):
        plan = bs.explain_linear(x, weight, activations=activations)
        assert plan.impl == "tiled" and reason in str(plan)
    REPEATED.clear()
    cpu.numba_is_missing.cache_clear()
    monkeypatch.setattr(cpu, "find_spec", lambda name: None)
    plan = bs.explain_linear(x, w)
    assert plan.impl == "tiled" and "numba is not installed: pip install numba" in str(plan)
    with pytest.raises(ValueError, match="impl: given 'numba', which cannot be: numba is not installed"):
        numba_linear(x, w)
    monkeypatch.undo()
    cpu.numba_is_missing.cache_clear()


def test_an_explicit_numba_never_falls_back():
    x, w, _ = inputs("cpu", n=64, k=256)
    for given, weight, reason in (
        (x.to("meta"), w.to("meta"), "plain tensors on a CPU"),
        (x, w.packed("tiles"), "tiles"),
    ):
        with pytest.raises(ValueError, match=f"impl: given 'numba', which cannot be: .*{reason}"):
            numba_linear(given, weight)


def floats_of(kind):
    """A weight of a kind of `quantize`, of GGUF or in groups of 16, with scales that are no numbers or too large."""
    if isinstance(kind, str):
        return bs.from_gguf(gentle(kind, 5, 512), kind, (5, 512))
    if kind[1] == 16:
        return of_sixteen(3, 256, True)
    w = inputs("cpu", n=9, k=256, kind=kind)[1]
    if w.scale.is_floating_point():
        w.scale[2, 1], w.scale[3] = math.nan, 3e38
    return w


@pytest.mark.parametrize("kind", ["Q4_K", "Q5_0", (8, 16), (4, 32, False), (8, 128, True), (4, 64, False, "uint8")])
def test_dequantized_weights_have_the_bits_of_dequantize(kind):
    from blockskip.linear.compiled import launch

    w = floats_of(kind)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        found, expected = launch.dequantize(w, dtype), w.dequantize(dtype)
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_activations_that_are_not_rounded_give_the_bits_of_tiled(dtype):
    x, w, bias = inputs("cpu", 11, n=70, k=320, dtype=dtype)
    for activations in ("auto", "float"):
        expected = bs.linear(x, w, bias, impl="tiled", activations=activations)
        assert torch.equal(numba_linear(x, w, bias, activations=activations), expected)


def test_torch_compile_and_the_operator():
    x, w, bias = inputs("cpu", 2, n=256, k=256)
    torch.library.opcheck(torch.ops.blockskip.linear, (x, w.data, w.scale, w.zero, bias, "numba"))
    traced = torch.compile(lambda x: bs.linear(x + 0, w, bias), backend="aot_eager", fullgraph=True)
    assert torch.equal(traced(x), numba_linear(x, w, bias))
