"""What is kept between linear calls: of a weight by the weight, and how much of it is floats at a time."""

import copy
import gc
import pickle
import weakref

import blockskip as bs
import pytest
import torch
from blockskip.launching.repeated import REPEATED
from blockskip.linear import prepared
from blockskip.linear.known import known


def draw(device, *shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)


def in_float32(w):
    """A weight whose metadata the interpreter need not change, so that what is prepared for it is kept."""
    return w.each(lambda t: t.float() if t.is_floating_point() else t)


def test_a_weight_whose_memory_is_replaced_is_known_anew(device):
    x, w = draw(device, 2, 256), in_float32(bs.quantize(draw(device, 5, 256)))
    other = in_float32(bs.quantize(draw(device, 5, 256, seed=1)))
    bs.linear(x, w, impl="triton")
    wanted = bs.linear(x, other, impl="triton")
    assert known(w) is known(w)
    w.data.data, w.scale.data, w.zero.data = other.data.clone(), other.scale.clone(), other.zero.clone()
    assert torch.equal(bs.linear(x, w, impl="triton"), wanted)


def test_what_is_kept_of_a_weight_is_no_part_of_its_copies_and_goes_with_it(device):
    w = in_float32(bs.quantize(draw(device, 5, 256)))
    plain = pickle.dumps(w)
    bs.linear(draw(device, 20, 256), w, impl="triton", route="dequantize")
    assert pickle.dumps(w) == plain and "_known" in vars(w)
    for made in (copy.copy(w), copy.deepcopy(w), pickle.loads(plain)):
        assert "_known" not in vars(made)
    left = weakref.ref(w)
    gc.disable()  # device memory must not wait for the collector: no cycles
    try:
        del w, made
        assert left() is None
    finally:
        gc.enable()


def test_weights_of_one_layout_share_what_is_prepared(device):
    REPEATED.clear()
    x = draw(device, 2, 256)
    for seed in range(3):
        bs.linear(x, in_float32(bs.quantize(draw(device, 5, 256, seed=seed))), impl="triton")
    assert len(REPEATED) == 1
    bs.linear(x, in_float32(bs.quantize(draw(device, 5, 256), symmetric=True)), impl="triton")
    assert len(REPEATED) == 2


@pytest.mark.parametrize(
    ("shape", "memory", "expected"),
    [
        ((43008, 5376), 141 << 30, 43008),  # 462 MB of 1.1 GB
        ((262144, 5376), 141 << 30, 87424),  # 2.8 GB: three parts, of whole tiles
        ((43008, 5376), 24 << 30, 14336),  # 192 MB at a time
        ((4096, 4096), 0, 4096),  # 32 MB, whatever there is
        ((21504, 5376), 0, 3072),
        ((1, 1 << 26), 0, 1),
        ((65, 1 << 26), 0, 64),
    ],
)
def test_floats_take_a_128th_of_the_memory_at_most_or_32_mb(shape, memory, expected):
    rows = prepared.rows_at_a_time(torch.Size(shape), 2, memory)
    assert rows == expected and (rows == shape[0] or rows % 64 == 0)
    assert rows * shape[1] * 2 <= max(memory // 128, 1 << 25) or rows <= 64  # a row of tiles is the least


@pytest.mark.parametrize("packing", ["rows", "tiles"])
@pytest.mark.parametrize("activations", ["auto", "float"])
def test_in_parts_the_product_is_the_same(device, packing, activations, monkeypatch):
    x, bias = draw(device, 2, 10, 256), draw(device, 320)
    w = in_float32(bs.quantize(draw(device, 320, 256)).packed(packing))
    kind = {"impl": "triton", "route": "dequantize", "activations": activations}
    wanted = bs.linear(x, w, bias, **kind), bs.linear(x, w, **kind)
    REPEATED.clear()
    monkeypatch.setattr(prepared, "LEAST_BYTES", 128 * 256 * 4)
    monkeypatch.setattr(prepared, "SHARE_OF_MEMORY", 1 << 60)
    sizes = []
    ready = prepared.ready_dequantize
    monkeypatch.setattr(prepared, "ready_dequantize", lambda w, dtype: sizes.append(w.shape[0]) or ready(w, dtype))
    for _ in range(2):
        torch.testing.assert_close(bs.linear(x, w, bias, **kind), wanted[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(bs.linear(x, w, **kind), wanted[1], rtol=1e-5, atol=1e-5)
    assert sizes == [128, 64] * 2  # once a kind, not once a call


@pytest.mark.parametrize("packing", ["rows", "tiles"])
def test_activations_of_any_strides_and_dimensions_by_what_is_kept(device, packing):
    outputs = 64 if packing == "tiles" else 3
    w = in_float32(bs.quantize(draw(device, outputs, 256)).packed(packing))
    for rows in (2, 20):
        x = draw(device, rows, 256)
        for given in (x, x[None], x.T.contiguous().T, x.view(2, -1, 256).transpose(0, 1), x.repeat(1, 2)[:, 256:]):
            flat = given.reshape(-1, 256).contiguous()
            wanted = bs.linear(flat, w, impl="triton").view(*given.shape[:-1], outputs)
            for _ in range(2):
                found = bs.linear(given, w, impl="triton")
                torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
                assert found.is_contiguous()
