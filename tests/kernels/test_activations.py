"""`activations` of linear: int8 or float at any number of rows, each row's bits its own; activations rounded once."""

import blockskip as bs
import pytest
import torch
from blockskip.linear import configs
from blockskip.linear import plan as plans
from blockskip.linear.activations import rounded
from blockskip.linear.configs import MatvecConfig
from blockskip.linear.fixed_rows import blocks_of, products

IMPLS = ("reference", "tiled", "triton")
NAMED = ("int8", "float")
KINDS = [{}, {"symmetric": True, "group_size": 64}, {"metadata": "uint8"}, {"bits": 8, "group_size": 128}]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="sizes beyond the interpreter need CUDA")
HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9


def draw(device, rows, n, k, dtype=torch.float32, **quantising):
    generator = torch.Generator().manual_seed(rows * 1000 + n + k)
    x, weight = torch.randn(rows, k, generator=generator), torch.randn(n, k, generator=generator) * 0.05
    bias = torch.randn(n, generator=generator)
    return x.to(device, dtype), bs.quantize(weight.to(device), **quantising).packed("rows"), bias.to(device, dtype)


def check(out, x, w, bias, word):
    """Against float64: float32 sums of K products of either's rounding, and two roundings of the result."""
    if word == "int8":
        activations, weight = rounded(x, torch.float64), w.dequantize(torch.float64)
    else:
        activations, weight = x.double(), w.dequantize(x.dtype).double()
    want = activations @ weight.T + bias.double()
    offsets = w.scale.double().abs().max() * 256 * activations.abs().sum(-1, keepdim=True)  # codes before the zero
    terms = activations.abs() @ weight.abs().T + bias.double().abs() + (offsets if word == "int8" else 0)
    eps = torch.finfo(x.dtype).eps
    assert out.dtype == x.dtype and out.shape == want.shape
    assert ((out.double() - want).abs() <= terms * (x.shape[1] + 8) * 2.0**-24 + 2 * eps * want.abs() + eps).all()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("word", NAMED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_named_word_holds_at_any_number_of_rows(device, impl, word, dtype):
    for rows in (1, 9, 17):
        x, w, bias = draw(device, rows, 2, 96, dtype)
        check(bs.linear(x, w, bias, impl=impl, activations=word), x, w, bias, word)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_format(device, impl, kind):
    for word in NAMED:
        x, w, bias = draw(device, 10, 2, 512, **kind)
        check(bs.linear(x, w, bias, impl=impl, activations=word), x, w, bias, word)


@pytest.mark.parametrize("impl", ["reference", "tiled"])
def test_a_weight_in_tiles(device, impl):
    for word, rows in (("int8", 3), ("int8", 20), ("float", 3)):
        x, w, bias = draw(device, rows, 64, 256)
        check(bs.linear(x, w.packed("tiles"), bias, impl=impl, activations=word), x, w, bias, word)


def same_bits_at_any_number_of_rows(x, w, bias, **named):
    """The first rows, each number of them, and a selection in another order: as all rows together give them."""
    together = bs.linear(x, w, bias, **named)
    interpreted = named.get("impl") == "triton" and not x.is_cuda  # where a program takes a tenth of a second
    for rows in (1, 3, 8, 9, 17) if interpreted else range(1, x.shape[0]):
        if rows >= x.shape[0]:
            break
        assert torch.equal(bs.linear(x[:rows], w, bias, **named), together[:rows]), rows
    order = torch.randperm(x.shape[0], generator=torch.Generator().manual_seed(0))[: 2 * x.shape[0] // 3].to(x.device)
    assert torch.equal(bs.linear(x[order], w, bias, **named), together[order])
    beside = x.clone()
    beside[1:] *= 1e3
    assert torch.equal(bs.linear(beside, w, bias, **named)[0], together[0])


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("word", NAMED)
def test_a_row_has_the_same_bits_with_1_to_64_rows(device, impl, word):
    n, k = (1, 32) if impl == "triton" and device == "cpu" else (70, 1184)
    x, w, bias = draw(device, 64, n, k)
    same_bits_at_any_number_of_rows(x, w, bias, impl=impl, activations=word)


@pytest.mark.parametrize("impl", IMPLS)
def test_the_same_bits_of_half_precision_and_of_splits_along_k(device, impl, monkeypatch):
    monkeypatch.setattr(configs, "LEAST_STEPS", 1)
    for dtype in (torch.bfloat16, torch.float16):
        x, w, bias = draw(device, 9, 5, 1184, dtype)
        plan = bs.explain_linear(x, w, bias, impl=impl, activations="float")
        assert plan.batch_invariant and (impl != "triton" or plan.splits > 1)
        same_bits_at_any_number_of_rows(x, w, bias, impl=impl, activations="float")
        check(bs.linear(x, w, bias, impl=impl, activations="float"), x, w, bias, "float")


@needs_cuda
@pytest.mark.parametrize("word", NAMED)
@pytest.mark.parametrize(("n", "k"), [(4096, 4096), (1001, 5376 + 32), (2880, 2880), (8192, 5376)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_same_bits_on_hardware(word, n, k, dtype):
    x, w, bias = draw("cuda", 64, n, k, dtype)
    same_bits_at_any_number_of_rows(x, w, bias, impl="triton", activations=word)
    many = torch.cat([x] * 5)
    found = bs.linear(many, w, bias, activations=word)
    assert torch.equal(found, bs.linear(x, w, bias, activations=word).repeat(5, 1))


@pytest.mark.skipif(not HOPPER, reason="the kernel needs a GPU of compute capability 9.x")
@pytest.mark.parametrize(("n", "k"), [(320, 768), (5376, 2048), (14336, 4096)])
def test_the_same_bits_of_a_weight_in_tiles(n, k):
    x, w, bias = draw("cuda", 64, n, k, torch.bfloat16)
    assert bs.explain_linear(x, w.packed("tiles"), activations="float").kernel == "fused"
    same_bits_at_any_number_of_rows(x, w.packed("tiles"), bias, activations="float")
    found = bs.linear(torch.cat([x] * 5), w.packed("tiles"), bias, activations="float")
    assert torch.equal(found, bs.linear(x, w.packed("tiles"), bias, activations="float").repeat(5, 1))


def test_auto_keeps_its_rule_and_the_plan_says_which(device):
    for rows in (1, 8, 9, 64):
        x, w, bias = draw(device, rows, 40, 256, torch.bfloat16)
        for impl in IMPLS:
            auto = bs.explain_linear(x, w, bias, impl=impl)
            assert auto.activations == ("int8" if rows <= 8 else "float")
            y, v, _ = draw(device, rows, 64, 256, torch.bfloat16)
            for packing in ("rows", "tiles"):
                plan = bs.explain_linear(y, v.packed(packing), impl=impl)
                assert plan.activations == ("float" if packing == "tiles" else auto.activations)
                assert plan.packing == packing and f"weight  in {packing}" in str(plan)
            for word, meaning in (("int8", "rounded to int8"), ("float", "multiplied as floats")):
                plan = bs.explain_linear(x, w, bias, impl=impl, activations=word)
                assert plan.activations == word and plan.batch_invariant
                assert f"rows    {meaning}, each with the same bits" in str(plan)
        assert bs.explain_linear(x, w, impl="triton", activations="int8").kernel == "matvec"
        assert bs.explain_linear(x, w, impl="triton", activations="float").kernel == "fused"
        assert bs.explain_linear(x.float(), w, impl="triton", activations="float").kernel == "dequantize"
    assert not bs.explain_linear(x, w, impl="triton").batch_invariant


def test_float_s_sizes_depend_on_the_weight_alone(device):
    _, w, _ = draw(device, 1, 512, 8192)
    plan = {str(bs.explain_linear(torch.zeros(rows, 8192, dtype=torch.bfloat16, device=device), w, impl="triton",
                                  activations="float").config) for rows in (1, 64, 2048)}  # fmt: skip
    assert len(plan) == 1


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"route": "fused", "activations": "int8"}, "route: given 'fused' with activations='int8'"),
        ({"route": "dequantize", "activations": "int8"}, "route: given 'dequantize' with activations='int8'"),
        ({"route": "matvec", "activations": "float"}, "route: given 'matvec' with activations='float'"),
        ({"activations": "int4"}, "activations: given 'int4'; allowed are auto, int8, float"),
    ],
)
def test_words_that_do_not_go_together(device, named, message):
    x, w, _ = draw(device, 3, 11, 384, torch.bfloat16)
    for call in (bs.linear, bs.explain_linear):
        with pytest.raises(ValueError, match=message):
            call(x, w, impl="triton", **named)
    for route in ("fused", "dequantize"):  # which 3 rows have only where float is named
        check(bs.linear(x, w, impl="triton", route=route, activations="float"), x, w, x.new_zeros(11), "float")


@pytest.mark.parametrize(
    ("block_n", "kind"), [(32, {}), (64, {"symmetric": True, "group_size": 64}), (64, {"group_size": 128})]
)
def test_int8_of_a_weight_in_tiles_has_the_bits_of_one_in_rows(device, kind, block_n, monkeypatch):
    """K 1280 is one step of 32 blocks and a part of one; programs are few, because each takes the interpreter long."""
    monkeypatch.setattr(plans, "matvec_config", lambda rows, capability: MatvecConfig(block_n, 32, block_n))
    x, w, bias = draw(device, 3, 128, 1280, **kind)
    w, tiles = w.packed("rows"), w.packed("tiles")
    want = bs.linear(x, w, bias, impl="triton", activations="int8")
    assert torch.equal(bs.linear(x, tiles, bias, impl="triton", route="matvec", activations="int8"), want)
    assert torch.equal(bs.linear(bs.round_activations(x), tiles, bias, impl="triton"), want)
    for rows in (1, 9, 600):
        plan = bs.explain_linear(torch.zeros((rows, 1280), device=device), tiles, impl="triton", activations="int8")
        assert plan.kernel == "matvec" and plan.batch_invariant and plan.activations == "int8"


@needs_cuda
@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize(("n", "k"), [(4096, 4096), (1088, 5376), (5376, 21504)])
def test_int8_in_tiles_on_hardware(n, k, group_size):
    x, w, bias = draw("cuda", 70, n, k, torch.bfloat16, group_size=group_size)
    for rows in (1, 2, 5, 8, 9, 70):
        want = bs.linear(x[:rows], w.packed("rows"), bias, activations="int8")
        assert torch.equal(bs.linear(x[:rows], w.packed("tiles"), bias, activations="int8"), want)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("bits", [4, 8])
def test_activations_that_are_rounded_already_give_the_same_bits(device, impl, bits):
    for rows, dtype in ((1, torch.float32), (3, torch.bfloat16), (9, torch.float16)):
        x, w, bias = draw(device, rows, 2, 384, dtype, bits=bits)
        once = bs.round_activations(x)
        want = bs.linear(x, w, bias, impl=impl, activations="int8")
        for word in ("int8", "auto"):
            found = bs.linear(once, w, bias, impl=impl, activations=word)
            assert found.dtype == dtype and torch.equal(found, want)
            assert torch.equal(bs.linear(once, w, bias, impl=impl, activations=word), want)  # what is kept serves it
        shaped = bs.linear(once.reshape(1, rows, 384), w, bias, impl=impl)
        assert shaped.shape == (1, rows, 2) and torch.equal(shaped[0], want)
        assert bs.explain_linear(once, w, bias, impl=impl).activations == "int8"


def test_a_second_layer_lays_out_nothing_again(device, monkeypatch):
    x, _, _ = draw(device, 2, 1, 384)
    once, laid_out = bs.round_activations(x), bs.RoundedActivations._laid_out
    calls = []
    monkeypatch.setattr(
        bs.RoundedActivations, "_laid_out", lambda self, order: calls.append(order) or laid_out(self, order)
    )
    for bits in (4, 4, 8, 8):
        bs.linear(once, bs.quantize(torch.ones(1, 384, device=device), bits), impl="triton")
    assert calls == ["int4", "int8"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rounding_is_the_rounding_of_linear(device, dtype):
    x, _, _ = draw(device, 6, 1, 96, dtype)
    for given in (x, x.view(2, 3, 96), x.T.contiguous().T, x[0], x[:0]):
        once = bs.round_activations(given)
        assert once.shape == given.shape and once.dtype == dtype and once.scales.shape == (*given.shape[:-1], 3)
        assert once.values.dtype == torch.int8 and once.scales.dtype == torch.float32
        want = rounded(given.reshape(-1, 96), torch.float64).view(given.shape)
        assert torch.equal(once.dequantize(torch.float64), want)
    assert repr(once) == f"RoundedActivations(0x96, of {str(dtype)[6:]}, {x.device})"


def test_the_kernel_rounds_in_natural_order_to_the_bits_of_torch(device):
    from blockskip.linear import launch

    x, _, _ = draw(device, 3, 1, 32 * 19)
    x[0, :32], x[1, 40] = 0, float("nan")
    values, scales = launch.round_activations(x)
    want = bs.round_activations(x.cpu())
    assert torch.equal(values.cpu(), want.values)
    torch.testing.assert_close(scales.cpu(), want.scales, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("impl", IMPLS)
def test_values_that_are_not_finite_come_through(device, impl):
    x, w, _ = draw(device, 12, 2, 96)
    x[1, 70], x[9, 3] = float("nan"), float("inf")
    for given in (x, bs.round_activations(x)):
        out = bs.linear(given, w, impl=impl, activations="int8")
        assert out[[1, 9]].isnan().all() and out[[0, *range(2, 9), 10, 11]].isfinite().all()


def test_rounded_activations_are_checked(device):
    x, w, bias = draw(device, 2, 11, 384)
    once = bs.round_activations(x)
    with pytest.raises(ValueError, match="activations: given 'float' for x that is rounded to int8 already"):
        bs.linear(once, w, activations="float")
    with pytest.raises(ValueError, match=r"x: given shape \(2, 384\); \[\.\.\., 256\]"):
        bs.linear(once, draw(device, 1, 11, 256)[1])
    with pytest.raises(TypeError, match=r"bias: given torch\.float16"):
        bs.linear(once, w, bias.half())
    with pytest.raises(TypeError, match=r"x: given activations of torch\.float64"):
        bs.linear(bs.round_activations(x.double()), w)
    with pytest.raises(ValueError, match="x: requires grad"):
        bs.round_activations(x.clone().requires_grad_())
    assert bs.linear(bs.round_activations(x.double()), w, bias.double(), impl="reference").dtype == torch.float64


def test_a_module_and_a_swapped_model_take_the_word():
    x, w, bias = draw("cpu", 20, 64, 64)
    for word in NAMED:
        layer = bs.QuantizedLinear(w, bias, activations=word)
        want = bs.linear(x, w, bias, activations=word)
        assert torch.equal(layer(x), want) and f"activations='{word}'" in repr(layer)
        model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 64))
        model = bs.quantize_(model, activations=word)
        assert [one.activations for one in model] == [word, word]
        layer.load_state_dict(bs.QuantizedLinear(w, bias).state_dict())
        assert layer.activations == word
    layer = bs.QuantizedLinear(w, bias)
    assert layer.activations == "auto" and "activations" not in repr(layer)
    once = bs.round_activations(x)
    assert torch.equal(layer(once), bs.linear(x, w, bias, activations="int8"))
    with torch.autocast("cpu"):
        assert torch.equal(layer(once), bs.linear(once, w, bias))


def test_the_operators_and_their_fakes_agree(device):
    import blockskip.linear.ops  # noqa: F401

    x, w, bias = draw(device, 2, 11, 384)
    ops, once, weight = torch.ops.blockskip, bs.round_activations(x), (w.data, w.scale, w.zero)
    torch.library.opcheck(ops.linear, (x, *weight, bias, "auto"), {"activations": "float"})
    torch.library.opcheck(ops.round_activations, (x,))
    torch.library.opcheck(ops.linear_of_rounded, (once.values, once.scales, once.dtype, *weight, bias, "auto"))


def test_torch_compile_without_a_break():
    x, w, bias = draw("cpu", 3, 11, 384)

    def layers(x):
        once = bs.round_activations(x)
        return bs.linear(once, w, bias) + bs.linear(x, w, activations="float"), bs.linear(once, w)

    for found, want in zip(torch.compile(layers, backend="eager", fullgraph=True)(x), layers(x), strict=True):
        assert torch.equal(found, want)


def test_blocks_of_rows_are_filled_up_with_zeros():
    x = torch.arange(12.0).view(3, 4)
    blocks = blocks_of(x, 2)
    assert blocks.shape == (2, 2, 4) and torch.equal(blocks.flatten(0, 1)[:3], x) and not blocks[1, 1].any()
    weight, bias = torch.ones(5, 4), torch.arange(5.0)
    assert torch.equal(products(blocks, weight, bias)[:3], x @ weight.T + bias)
    assert products(blocks_of(x[:0]), weight).shape == (0, 5)
