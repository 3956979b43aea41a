"""Quantised weights: codes within half a step, layouts as the matvec reads them, sizes, errors."""

import math
from dataclasses import replace

import blockskip as bs
import pytest
import torch
from blockskip.linear import quantize as quantize_module
from blockskip.linear import weight as module
from blockskip.linear.weight import QuantizedWeight

KINDS = [(bits, group, symmetric) for bits in (4, 8) for group in (32, 64, 128) for symmetric in (False, True)]


def random_weight(n=7, k=256, dtype=torch.float32, seed=0):
    return torch.randn((n, k), generator=torch.Generator().manual_seed(seed)).to(dtype)


def numbers(values, step):
    """Metadata as float64 [N, K / group_size]: codes count steps."""
    if step is None:
        return values.double()
    return values.double() * step.double().repeat_interleave(values.shape[1] // step.shape[1], 1)


def steps(w):
    """Each weight's step, float32 [N, K]."""
    return numbers(w.scale, w.scale_step).float().repeat_interleave(w.group_size, 1)


def heavy(n, k, seed=0):
    """Student's t with 3 degrees of freedom: outliers far beyond a normal distribution's."""
    generator = torch.Generator().manual_seed(seed)
    normal, chi = torch.randn((n, k), generator=generator), torch.randn((3, n, k), generator=generator)
    return normal / chi.square().mean(0).sqrt()


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


@pytest.mark.parametrize(("bits", "group_size", "symmetric"), KINDS)
def test_encoded_metadata_spans_every_weight_in_the_next_larger_step(bits, group_size, symmetric):
    weight = random_weight(9, 768)
    weight[0] += 3
    weight[1, :256] *= 1e-3
    weight[2, 5] = 40  # an outlier: the other groups of its span are coded by its step
    w = bs.quantize(weight, bits, group_size, symmetric, metadata="uint8")
    assert w.encoded and w.scale.dtype == torch.uint8 and w.scale_step.dtype == torch.float16
    assert w.zero is None and w.symmetric == symmetric and (w.minimum is None) == symmetric
    # half a step, and float32's rounding of the two numbers that it is between
    assert ((w.dequantize(torch.float32) - weight).abs() <= steps(w) * 0.5001 + weight.abs() * 2**-23).all()

    groups = weight.double().unflatten(1, (-1, group_size))
    low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
    scale, levels, half = numbers(w.scale, w.scale_step), 2**bits - 1, 2 ** (bits - 1)
    if symmetric:
        needed = torch.maximum(high / (half - 1), -low / half)
    else:
        minimum = numbers(w.minimum, w.minimum_step)
        below = -w.minimum_step.double().repeat_interleave(256 // group_size, 1)
        assert (minimum <= low + 1e-6).all() and (minimum >= low - below * 1.0001).all()
        needed = (high - minimum) / levels
    step = w.scale_step.double().repeat_interleave(256 // group_size, 1)
    assert (scale >= needed * (1 - 1e-6)).all() and (scale <= needed + step * 1.0001).all()
    largest = needed.unflatten(1, (3, -1)).amax(-1)
    assert (w.scale_step.double() <= largest / 255 * (1 + 2**-10) + 2**-24).all()


@pytest.mark.parametrize(("bits", "group_size", "symmetric"), KINDS)
@pytest.mark.parametrize("distribution", ["normal", "heavy", "leaning"])
def test_encoded_metadata_costs_no_more_decibels_than_its_steps_explain(bits, group_size, symmetric, distribution):
    """An error is uniform in a step, so its power goes as the step's square. Let r be the steps of ideal metadata.

    The minimum moves by at most the largest |minimum| / 255 <= max r * levels / 255, which stretches a step by max r /
    255; the scale then grows by at most 1 / 255 of the largest. That is 2.02 / 255 of max r in all, with float16's
    rounding of the steps (2**-10, and 2**-24 where they are subnormal). The root of the sum of the squares of a span's
    256 / group_size steps grows by at most that, times the root of their number, of what it is.
    """
    weight = heavy(64, 1024) if distribution == "heavy" else random_weight(64, 1024)
    weight = (weight + (distribution == "leaning") * 0.5) * 0.02
    plain = bs.quantize(weight, bits, group_size, symmetric)
    encoded = bs.quantize(weight, bits, group_size, symmetric, metadata="uint8")
    smallest = plain.scale.float().unflatten(1, (4, -1)).amax(-1).min().item()
    grown = (1.01 if symmetric else 2.02) / 255 + 2 * 2**-24 / smallest
    allowed = 20 * math.log10(1 + math.sqrt(256 / group_size) * grown)
    assert allowed < (0.5 if bits == 8 else 0.25)
    assert encoded.error(weight) >= plain.error(weight) - allowed
    assert encoded.bits_per_weight < plain.bits_per_weight or group_size == 128
    if bits == 4 and group_size == 32 and not symmetric:  # a minimum is not bound to whole steps, as a zero point is
        assert encoded.error(weight) > plain.error(weight)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_encoded_metadata_of_zeros_and_of_extremes(bits, symmetric):
    weight = torch.zeros(5, 512)
    weight[1], weight[2], weight[3, 5], weight[4] = 0.3, -0.7, 1e-30, random_weight(1, 512)[0] * 1e-7
    w = bs.quantize(weight, bits, 32, symmetric, "uint8")
    back = w.dequantize()
    assert (back[0] == 0).all() and (back[3] == 0).all() and back.isfinite().all()
    torch.testing.assert_close(back[1:3], weight[1:3], rtol=1 / 15, atol=0)
    assert ((back - weight).abs() <= steps(w) * 0.5001 + weight.abs() * 2**-23).all()
    with pytest.raises(ValueError, match=r"metadata: given 'uint8', whose steps end at 65504.*use 'bfloat16'"):
        bs.quantize(torch.full((1, 256), 1e30), bits, 32, symmetric, "uint8")


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
        assert tuple(w.shape) == (8, 256) and not w.encoded
    for bits, group_size, symmetric, expected in (
        (4, 32, False, 4.625),  # 4 + 2 * 8 / 32 + 2 * 16 / 256
        (4, 32, True, 4.3125),
        (4, 128, False, 4.25),
        (8, 64, False, 8.375),
    ):
        w = bs.quantize(weight, bits, group_size, symmetric, "uint8")
        assert w.bits_per_weight == expected and w.nbytes == 8 * 256 * expected / 8
        assert w.group_size == group_size and tuple(w.shape) == (8, 256)


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


@pytest.mark.parametrize("metadata", ["bfloat16", "uint8"])
def test_blocks_of_rows_change_nothing(monkeypatch, metadata):
    weight = random_weight(7, 256)
    whole = bs.quantize(weight, metadata=metadata)
    for each in (module, quantize_module):
        monkeypatch.setattr(each, "QUANTIZE_ELEMENTS", 3 * 256)
    parts = bs.quantize(weight, metadata=metadata)
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


def of_sixteen(n=5, k=512, step=torch.float16, seed=0):
    """int8 codes with a scale alone for each 16 weights, int8 codes of a step or, without one, float16 numbers."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(-128, 128, (n, k), generator=generator)
    scale = torch.randint(-128, 128, (n, k // 16), generator=generator)
    if step is None:
        return codes, QuantizedWeight(module.pack(codes, 8), (scale / 64).half(), None, torch.float32)
    steps = torch.rand((n, k // 256), generator=generator).to(step)
    packed = module.pack(codes, 8)
    return codes, QuantizedWeight(packed, scale.to(torch.int8), None, torch.float32, scale_step=steps)


@pytest.mark.parametrize("step", [torch.float16, None])
def test_groups_of_sixteen(step):
    codes, w = of_sixteen(step=step)
    assert w.group_size == 16 and w.bits == 8 and w.symmetric and w.encoded == (step is not None)
    scale = numbers(w.scale, w.scale_step).repeat_interleave(16, 1)
    assert torch.equal(w.dequantize(torch.float64), codes.double() * scale)
    assert torch.equal(w.rows(1, 3).dequantize(), w.dequantize()[1:3])
    first, second = w.plane_values(torch.float64)
    blocks = w.dequantize(torch.float64).unflatten(1, (-1, 2, 16))
    assert torch.equal(first, blocks[:, :, 0].flatten(1)) and torch.equal(second, blocks[:, :, 1].flatten(1))
    bits = "8.5625" if step else "9"
    assert f"int8, groups of 16, symmetric, {'int8 metadata, ' if step else ''}{bits} bits" in repr(w)


def test_groups_of_sixteen_have_int8_codes_and_a_scale_alone():
    _, w = of_sixteen(step=None)
    for shift in ("zero", "minimum", "middle"):
        with pytest.raises(
            ValueError, match=r"scale: given shape \(5, 32\); allowed are \(5, 16\), \(5, 8\), \(5, 4\)"
        ):
            replace(w, **{shift: w.scale})
    with pytest.raises(ValueError, match=r"scale: given shape \(5, 32\); allowed are \(5, 16\)"):
        replace(w, data=torch.zeros(5, 256, dtype=torch.uint8))
    with pytest.raises(ValueError, match="group_size: given 16; allowed are 32, 64, 128"):
        bs.quantize(random_weight(), 8, 16)


def test_repr_is_short():
    assert repr(bs.quantize(random_weight())) == (
        "QuantizedWeight(7x256, int4, groups of 32, asymmetric, 5 bits a weight, cpu)"
    )
    assert repr(bs.quantize(random_weight(), 8, 64, True, "uint8")) == (
        "QuantizedWeight(7x256, int8, groups of 64, symmetric, uint8 metadata, 8.1875 bits a weight, cpu)"
    )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"bits": 3}, ValueError, "bits: given 3; allowed are 4, 8"),
        ({"bits": 4.0}, TypeError, "bits: given 4.0"),
        ({"bits": True}, TypeError, "bits: given True"),
        ({"group_size": 48}, ValueError, "group_size: given 48; allowed are 32, 64, 128"),
        ({"symmetric": 1}, TypeError, "symmetric: given 1"),
        ({"metadata": "float16"}, ValueError, "metadata: given 'float16'; allowed are bfloat16, uint8"),
        ({"metadata": "uint8"}, ValueError, "weight: given K 64; must be a multiple of 256 for metadata='uint8'"),
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


def test_errors_of_metadata_put_together_by_hand():
    w = bs.quantize(random_weight(4, 256), metadata="uint8")
    plain = bs.quantize(random_weight(4, 256))
    for change, error, message in (
        ({"scale_step": None}, TypeError, r"scale: given torch\.uint8; a float dtype is needed"),
        ({"scale": plain.scale}, TypeError, r"scale: given torch\.bfloat16; uint8, for scale_step, is needed, or int8"),
        ({"minimum": None}, ValueError, "minimum_step: given without minimum"),
        ({"scale_step": w.scale_step.int()}, TypeError, r"scale_step: given torch\.int32; a float dtype"),
        (
            {"scale_step": w.scale_step[:2]},
            ValueError,
            r"scale_step: given shape \(2, 1\); \[N, K / 256\] of \(4, 256\)",
        ),
        ({"zero": plain.zero}, ValueError, "zero: given zero, minimum; one of them at most"),
        ({"minimum": w.minimum.to("meta")}, ValueError, "minimum: is on meta; must be on data's cpu"),
        ({"scale": w.scale.T.contiguous().T}, ValueError, "scale: is not contiguous"),
    ):
        with pytest.raises(error, match=message):
            replace(w, **change)


@pytest.mark.parametrize("metadata", ["bfloat16", "uint8"])
@pytest.mark.parametrize("bits", [4, 8])
def test_stacked_weights_are_the_weight_of_all_rows(bits, metadata):
    weight = random_weight(70, 512)
    whole = bs.quantize(weight, bits, metadata=metadata)
    parts = [bs.quantize(part, bits, metadata=metadata) for part in weight.split([64, 5, 1])]
    found = QuantizedWeight.stacked(parts)
    assert found.shape == (70, 512) and found.dtype == whole.dtype
    assert all(torch.equal(a, b) for a, b in zip(found.tensors, whole.tensors, strict=True))
    found.data.zero_()
    assert parts[0].data.any()  # memory of its own


def test_stacked_weights_in_tiles_stay_there_and_mixed_ones_lie_as_their_device_prefers():
    weight = random_weight(192, 256)
    whole, parts = bs.quantize(weight), [bs.quantize(part) for part in weight.split([64, 128])]
    tiled = QuantizedWeight.stacked([part.packed("tiles") for part in parts])
    assert tiled.packing == "tiles" and torch.equal(tiled.codes(), whole.codes())
    assert torch.equal(tiled.dequantize(), whole.dequantize())
    mixed = QuantizedWeight.stacked([parts[0], parts[1].packed("tiles")])
    assert mixed.packing == "rows" and torch.equal(mixed.data, whole.data)


def test_errors_of_stacked_weights():
    one = bs.quantize(random_weight(4, 64))
    for others, error, message in (
        ([torch.ones(4, 64)], TypeError, "weights: item 1 is Tensor; a QuantizedWeight is needed"),
        (
            [one, bs.quantize(random_weight(4, 128))],
            ValueError,
            r"item 2 is QuantizedWeight\(4x128, int4.*\(4x64, int4",
        ),
        ([bs.quantize(random_weight(4, 64), 8)], ValueError, r"item 1 is QuantizedWeight\(4x64, int8"),
        ([bs.quantize(random_weight(4, 64), symmetric=True)], ValueError, "item 1 is .* symmetric"),
        ([one.to("meta")], ValueError, "item 1 is .*meta"),
        ([bs.quantize(random_weight(4, 64).half())], ValueError, "item 1 is .*alike are needed"),
    ):
        with pytest.raises(error, match=message):
            QuantizedWeight.stacked([one, *others])
    with pytest.raises(ValueError, match="weights: given none; at least one is needed"):
        QuantizedWeight.stacked([])
