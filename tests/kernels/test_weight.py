"""Quantised weights: codes within half a step, layouts as the matvec reads them, sizes, errors."""

import math

import blockskip as bs
import pytest
import torch
from blockskip.linear import weight as module
from blockskip.linear.weight import QuantizedWeight

KINDS = [(bits, group, symmetric) for bits in (4, 8) for group in (32, 64, 128) for symmetric in (False, True)]


def random_weight(n=7, k=256, dtype=torch.float32, seed=0):
    return torch.randn((n, k), generator=torch.Generator().manual_seed(seed)).to(dtype)


def steps(w):
    """Each weight's step, float32 [N, K]."""
    return w.scale.float().repeat_interleave(w.group_size, 1)


@pytest.mark.parametrize(("bits", "group_size", "symmetric"), KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_no_weight_is_off_by_more_than_half_a_step(bits, group_size, symmetric, dtype):
    weight = random_weight(dtype=dtype)
    weight[0] += 3  # a row that leans to one side
    w = bs.quantize(weight, bits, group_size, symmetric)
    assert (w.bits, w.group_size, w.symmetric, w.dtype) == (bits, group_size, symmetric, dtype)
    assert ((w.dequantize(torch.float32) - weight.float()).abs() <= steps(w) * 0.5001).all()
    # min-max: the step is the group's range (or its larger side) over the codes, rounded up to bfloat16
    groups = weight.double().unflatten(1, (-1, group_size))
    low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
    half = 2 ** (bits - 1)
    ideal = torch.maximum(high / (half - 1), -low / half) if symmetric else (high - low) / (2**bits - 1)
    assert (w.scale.double() >= ideal * (1 - 1e-6)).all() and (w.scale.double() <= ideal * (1 + 2**-7)).all()


@pytest.mark.parametrize(("bits", "symmetric"), [(4, False), (4, True), (8, False), (8, True)])
def test_groups_of_zeros_and_of_one_value(bits, symmetric):
    weight = torch.zeros(4, 64)
    weight[1], weight[2], weight[3, 5] = 0.3, -0.7, 1e-30
    w = bs.quantize(weight, bits, 32, symmetric)
    back = w.dequantize()
    assert (back[0] == 0).all() and back.isfinite().all()
    assert (back[weight == 0] == 0).all()  # 0 stays exactly 0
    torch.testing.assert_close(back, weight, rtol=2**-7, atol=0)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_extreme_ranges_keep_their_precision(scale):
    weight = random_weight()
    plain, scaled = bs.quantize(weight).error(weight), bs.quantize(weight * scale).error(weight * scale)
    assert abs(plain - scaled) < 0.1


def test_int4_nibbles_lie_as_the_matvec_loads_them():
    w = bs.quantize(random_weight(3, 64), 4)
    codes = w.codes()
    assert w.data.shape == (3, 32) and w.data.dtype == torch.uint8 and codes.shape == (3, 64)
    for j in range(32):
        assert torch.equal(w.data[:, j], codes[:, 2 * j] | codes[:, 2 * j + 1] << 4)
    zero = w.zero.float().repeat_interleave(32, 1)
    assert torch.equal((codes.float() - zero) * steps(w), w.dequantize())


def test_int8_stands_in_two_planes_of_16_bytes():
    w = bs.quantize(random_weight(3, 128), 8, 64)
    codes = w.codes()
    assert w.data.shape == (3, 2, 4, 16) and w.data.dtype == torch.int8
    for k in range(128):
        assert torch.equal(w.data[:, k % 32 // 16, k // 32, k % 16], codes[:, k])
    assert w.scale.shape == w.zero.shape == (3, 2)  # row for row with the weights


def test_sizes_are_counted_in_full():
    weight = random_weight(8, 256, torch.bfloat16)
    for bits, group_size, symmetric, expected in (
        (4, 32, False, 5.0),
        (4, 32, True, 4.5),
        (4, 128, False, 4.25),
        (8, 32, False, 9.0),
        (8, 64, True, 8.25),
    ):
        w = bs.quantize(weight, bits, group_size, symmetric)
        assert w.bits_per_weight == expected and w.nbytes == 8 * 256 * expected / 8
        assert tuple(w.shape) == (8, 256)


def test_error_is_the_signal_to_noise_ratio_in_db():
    weight = random_weight(16, 512)
    w = bs.quantize(weight)
    noise = (w.dequantize(torch.float64) - weight.double()).square().sum()
    assert math.isclose(w.error(weight), 10 * math.log10(weight.double().square().sum() / noise), rel_tol=1e-9)
    assert w.error(w.dequantize()) == math.inf
    ratios = [bs.quantize(weight, *kind).error(weight) for kind in ((4, 128), (4, 64), (4, 32), (8, 128), (8, 32))]
    assert ratios == sorted(ratios)  # more metadata or more bits, less error
    assert 20 < w.error(weight) < 23 and bs.quantize(weight, 8).error(weight) > w.error(weight) + 22
    with pytest.raises(ValueError, match=r"weight: given shape \(2, 512\)"):
        w.error(weight[:2])


def test_dequantize_rounds_once_to_the_dtype_that_is_asked_for():
    w = bs.quantize(random_weight(dtype=torch.float16))
    assert w.dequantize().dtype == torch.float16
    exact = w.dequantize(torch.float64)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        assert torch.equal(w.dequantize(dtype), exact.to(dtype))


def test_blocks_of_rows_change_nothing(monkeypatch):
    weight = random_weight(7, 256)
    whole = bs.quantize(weight)
    monkeypatch.setattr(module, "QUANTIZE_ELEMENTS", 3 * 256)
    parts = bs.quantize(weight)
    assert all(torch.equal(a, b) for a, b in zip(whole.tensors, parts.tensors, strict=True))
    assert torch.equal(whole.dequantize(), parts.dequantize())
    assert torch.equal(whole.rows(2, 5).dequantize(), whole.dequantize()[2:5])


def test_any_strides_and_parameters():
    weight = random_weight(256, 7).T
    expected = bs.quantize(weight.contiguous())
    for given in (weight, torch.nn.Parameter(weight)):
        w = bs.quantize(given)
        assert torch.equal(w.data, expected.data) and not w.scale.requires_grad
    moved = expected.to("cpu")
    assert isinstance(moved, QuantizedWeight) and torch.equal(moved.dequantize(), expected.dequantize())


def test_repr_is_short():
    assert repr(bs.quantize(random_weight())) == (
        "QuantizedWeight(7x256, int4, groups of 32, asymmetric, 5 bits a weight, cpu)"
    )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"bits": 3}, ValueError, "bits: given 3; allowed are 4, 8"),
        ({"bits": 4.0}, TypeError, "bits: given 4.0"),
        ({"bits": True}, TypeError, "bits: given True"),
        ({"group_size": 48}, ValueError, "group_size: given 48; allowed are 32, 64, 128"),
        ({"symmetric": 1}, TypeError, "symmetric: given 1"),
        ({"weight": [[1.0]]}, TypeError, "weight: given list"),
        ({"weight": torch.zeros(2, 64, dtype=torch.int8)}, TypeError, "weight: given torch.int8"),
        ({"weight": torch.zeros(64)}, ValueError, r"weight: given shape \(64,\)"),
        ({"weight": torch.zeros(0, 64)}, ValueError, r"weight: given shape \(0, 64\)"),
        ({"weight": torch.zeros(2, 96), "group_size": 64}, ValueError, "weight: given K 96; .* group_size 64"),
        ({"weight": torch.full((2, 64), math.nan)}, ValueError, "not finite"),
        ({"weight": torch.full((2, 64), -math.inf)}, ValueError, "not finite"),
    ],
)
def test_errors_of_quantize(change, error, message):
    with pytest.raises(error, match=message):
        bs.quantize(**{"weight": torch.zeros(2, 64), **change})


def test_errors_of_a_weight_put_together_by_hand():
    w = bs.quantize(random_weight(4, 128), 4, 64)
    with pytest.raises(TypeError, match=r"data: given torch\.float32"):
        QuantizedWeight(w.data.float(), w.scale, w.zero, w.dtype)
    with pytest.raises(ValueError, match="data: given shape"):
        QuantizedWeight(w.data[:, :9].contiguous(), w.scale, w.zero, w.dtype)
    with pytest.raises(ValueError, match=r"scale: given shape \(4, 3\); allowed are \(4, 4\), \(4, 2\), \(4, 1\)"):
        QuantizedWeight(w.data, torch.ones(4, 3), w.zero, w.dtype)
    with pytest.raises(ValueError, match="zero: given shape"):
        QuantizedWeight(w.data, w.scale, torch.zeros(4, 1), w.dtype)
    with pytest.raises(ValueError, match="contiguous"):
        QuantizedWeight(w.data, w.scale.T.contiguous().T, w.zero, w.dtype)
