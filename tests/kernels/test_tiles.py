"""Weights in tiles: the packing, bit for bit, and products of them; on a Hopper GPU by its kernel."""

import math
from dataclasses import replace

import blockskip as bs
import pytest
import torch
from blockskip.linear import route
from blockskip.linear.packing import tile_order

HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9
SUMMED_ROWS = 8
"""Rows of activations up to which Hopper's kernel scales sums, not weights."""
needs_hopper = pytest.mark.skipif(not HOPPER, reason="the kernel needs a GPU of compute capability 9.x")
KINDS = [(group, symmetric) for group in (32, 64, 128) for symmetric in (False, True)]


def weight(n=192, k=768, dtype=torch.bfloat16, device="cpu", **named):
    generator = torch.Generator().manual_seed(n + k)
    return bs.quantize(torch.randn((n, k), generator=generator).to(dtype).to(device), **named).packed("rows")


def close(found, x, w, bias, exact=False):
    """Against float64: float32 sums of K products, and one rounding of the result; exact: no weight is rounded."""
    values = w.dequantize(torch.float32 if exact else x.dtype).double()
    more = 0 if bias is None else bias.double()
    expected = x.double() @ values.T + more
    terms = x.double().abs() @ values.abs().T + (0 if bias is None else more.abs())
    bound = terms * 2**-23 * math.sqrt(x.shape[1]) + expected.abs() * torch.finfo(x.dtype).eps
    assert found.isfinite().all() and (found.double() - expected).abs().le(bound).all()


@pytest.mark.parametrize(("group_size", "symmetric"), KINDS)
def test_there_and_back_every_bit_is_the_same(group_size, symmetric):
    w = weight(group_size=group_size, symmetric=symmetric)
    tiles = w.packed("tiles")
    assert (tiles.packing, tiles.shape, tiles.group_size, tiles.nbytes) == ("tiles", w.shape, group_size, w.nbytes)
    assert tiles.packed("tiles") is tiles and w.packed("rows") is w
    back = tiles.packed("rows")
    assert back.named_tensors().keys() == w.named_tensors().keys()
    assert all(torch.equal(t, back.named_tensors()[name]) for name, t in w.named_tensors().items())
    assert torch.equal(tiles.codes(), w.codes()) and torch.equal(tiles.dequantize(), w.dequantize())
    assert all(torch.equal(a, b) for a, b in zip(tiles.planes(), w.planes(), strict=True))


def test_a_tile_holds_what_the_packing_says():
    """Written out: tile (1, 2), its row 5, block 3 of 32 codes, each nibble by its place."""
    w = weight()
    tiles, codes = w.packed("tiles"), w.codes()
    block = tiles.data[1, 2, 5, 3 * 16 : 4 * 16]
    expected = codes[64 + 5, 2 * 256 + 3 * 32 :][:32]
    for word in range(4):
        for nibble in range(8):
            code = block[4 * word + nibble // 2] >> 4 * (nibble % 2) & 15
            assert code == expected[8 * (nibble % 4) + 2 * word + nibble // 4]
    assert tile_order(torch.device("cpu")).sort().values.equal(torch.arange(32))
    assert torch.equal(tiles.scale[1, 2, 5], w.scale[64 + 5, 16:24]) and torch.equal(tiles.zero[2, 0], w.zero[128:, :8])


@pytest.mark.parametrize("rows", [(0, 64), (64, 192), (5, 100), (0, 0), (191, 192)])
def test_some_rows(rows):
    w = weight()
    part = w.packed("tiles").rows(*rows)
    assert torch.equal(part.dequantize(), w.dequantize()[slice(*rows)])
    assert part.packing == ("tiles" if rows[0] % 64 == rows[1] % 64 == 0 else "rows")


@pytest.mark.parametrize(
    ("w", "reason"),
    [
        (lambda: weight(bits=8), "int8"),
        (lambda: weight(n=100), r"\(100, 768\)"),
        (lambda: weight(k=384), r"\(192, 384\)"),
        (lambda: weight(metadata="uint8"), "neither a scale alone"),
        (lambda: replace(weight(), scale=weight().scale.float()), "float32"),
        (lambda: replace(weight(), zero=weight().zero + 0.5), "whole numbers"),
        (lambda: replace(weight(), zero=weight().zero + 200), "whole numbers"),
    ],
)
def test_what_cannot_lie_in_tiles_says_why(w, reason):
    with pytest.raises(ValueError, match=f"packing: given 'tiles'.*{reason}"):
        w().packed("tiles")


def test_tensors_that_make_no_weight_in_tiles_are_refused():
    tiles = weight().packed("tiles")
    with pytest.raises(ValueError, match="data: given shape"):
        replace(tiles, data=tiles.data[:, :, :32].contiguous())
    with pytest.raises(ValueError, match="scale: given shape"):
        replace(tiles, scale=tiles.scale[..., :3].contiguous())
    with pytest.raises(ValueError, match="minimum: given with a weight in tiles"):
        replace(tiles, zero=None, minimum=tiles.scale)
    with pytest.raises(ValueError, match="packing: given 'columns'; allowed are rows, tiles"):
        tiles.packed("columns")


@pytest.mark.parametrize("impl", ["reference", "tiled"])
@pytest.mark.parametrize("rows", [1, 8, 9])
def test_activations_are_taken_as_they_are(impl, rows):
    """In rows, up to 8 of them are rounded to int8; in tiles never."""
    w = weight()
    x = torch.randn((rows, 768), generator=torch.Generator().manual_seed(0))
    found = bs.linear(x, w.packed("tiles"), impl=impl)
    expected = x.double() @ w.dequantize(torch.float32).double().T
    assert (found - expected).abs().max() <= 2**-20 * (x.double().abs() @ w.dequantize().double().abs().T).max()


def test_a_module_loads_either_packing():
    w, x = weight(), torch.randn((9, 768), generator=torch.Generator().manual_seed(0)).bfloat16()
    rows, tiles = bs.QuantizedLinear(w), bs.QuantizedLinear(w.packed("tiles"))
    other = bs.quantize(torch.zeros((192, 768), dtype=torch.bfloat16))
    for target, source in ((bs.QuantizedLinear(other), tiles), (bs.QuantizedLinear(other.packed("tiles")), rows)):
        packing = target.weight.packing
        target.load_state_dict(source.state_dict())
        assert target.weight.packing == packing and torch.equal(target(x), rows(x))
    with pytest.raises(RuntimeError, match="build it from a weight of the same layout"):
        tiles.load_state_dict(bs.QuantizedLinear(weight(n=256)).state_dict())


def test_where_no_kernel_is_for_tiles_they_are_dequantized(device, monkeypatch):
    monkeypatch.setattr(route, "HOPPER", 99)
    for group_size, symmetric in KINDS:
        w = weight(group_size=group_size, symmetric=symmetric, device=device)
        x = torch.randn((3, 768), generator=torch.Generator().manual_seed(0)).half().to(device)
        plan = bs.explain_linear(x, w.packed("tiles"), impl="triton")
        assert plan.kernel == "dequantize" and "tiles" in plan.reason
        close(bs.linear(x, w.packed("tiles"), impl="triton"), x, w, None)
    with pytest.raises(ValueError, match=r"'matvec' for a weight in tiles.*unless activations='int8'"):
        bs.linear(x, w.packed("tiles"), impl="triton", route="matvec")
    with pytest.raises(ValueError, match="route: given 'fused', which cannot be"):
        bs.linear(x, w.packed("tiles"), impl="triton", route="fused")


@needs_hopper
@pytest.mark.parametrize("rows", [1, 3, 8, 9, 16, 17, 32, 33, 64, 65, 128, 129, 300])
@pytest.mark.parametrize(("n", "k"), [(64, 256), (320, 768), (5376, 2048), (8192, 5376), (14336, 4096)])
def test_hopper_s_kernel_at_any_number_of_rows(rows, n, k):
    w = weight(n, k, device="cuda").packed("tiles")
    x = torch.randn((rows, k), device="cuda").bfloat16()
    bias = torch.randn(n, device="cuda").bfloat16() if rows % 2 else None
    assert bs.explain_linear(x, w, bias).kernel == "fused"
    close(bs.linear(x, w, bias), x, w, bias, exact=rows <= SUMMED_ROWS)


@needs_hopper
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("group_size", "symmetric"), KINDS)
def test_hopper_s_kernel_for_every_kind(group_size, symmetric, dtype):
    w = weight(1088, 1280, device="cuda", group_size=group_size, symmetric=symmetric).packed("tiles")
    for rows in (5, 30, 100):
        x = torch.randn((rows, 1280), device="cuda").to(dtype)
        close(bs.linear(x, w), x, w, None, exact=rows <= SUMMED_ROWS)


@needs_hopper
def test_hopper_s_kernel_repeats_its_bits_in_graphs_and_of_views():
    """Layers one after the other, whose launches overlap; NaN in other rows stays there."""
    layers = [weight(4096, 4096, device="cuda", symmetric=i % 2 > 0).packed("tiles") for i in range(4)]
    x = torch.randn((16, 4096), device="cuda").bfloat16() / 64

    def run():
        h = x
        for w in layers:
            h = bs.linear(h, w) / 64
        return h

    expected = run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = run()
    for _ in range(20):
        found.fill_(math.nan)
        graph.replay()
        assert torch.equal(found, expected)
    view = torch.randn((16, 8192), device="cuda").bfloat16()[:, 1::2]
    assert torch.equal(bs.linear(view, layers[0]), bs.linear(view.contiguous(), layers[0]))
    poisoned = x.clone()
    poisoned[3] = math.nan
    found = bs.linear(poisoned, layers[0])
    assert found[3].isnan().all()
    assert torch.equal(found[4:], bs.linear(x, layers[0])[4:])
