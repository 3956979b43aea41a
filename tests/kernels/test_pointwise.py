"""What stands between products: the kernels and PyTorch against float64, on awkward sizes, strides and caches."""

import math

import pytest
import torch
from blockskip.pointwise.api import gated, residual_norm, rotated_heads
from blockskip.pointwise.call import HeadLayout, HeadNorms, Rotation, Targets

IMPLS = ("reference", "triton")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
EPS = 1e-6


def draw(device, *shape, dtype=torch.float32, seed=0):
    generator = torch.Generator("cpu").manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator).to(device, dtype)


def norm(x, weight=None):
    """In float64."""
    x = x.double()
    out = x / (x.square().mean(-1, keepdim=True) + EPS).sqrt()
    return out if weight is None else out * weight.double()


def check(out, want, impl, roundings, scale=None):
    """So many roundings to the result's dtype for PyTorch, one for the kernel; and float32 sums."""
    eps = torch.finfo(out.dtype).eps
    steps = roundings if impl == "reference" else 1
    scale = want.abs() if scale is None else scale
    assert ((out.double() - want).abs() <= (steps * eps + 2.0**-19) * scale + eps * 2.0**-10).all()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "has",
    [(), ("update",), ("update", "update_weight"), ("update", "scalar"), ("update", "update_weight", "scalar")],
)
def test_a_residual_and_its_norm(device, impl, dtype, has):
    for rows, columns in ((1, 96), (5, 257), (3, 1)):
        x, weight = draw(device, rows, columns, dtype=dtype), draw(device, columns, dtype=dtype, seed=2)
        update = draw(device, rows, columns, dtype=dtype, seed=1) if "update" in has else None
        update_weight = draw(device, columns, dtype=dtype, seed=3) if "update_weight" in has else None
        scalar = torch.tensor([0.75], device=device, dtype=dtype) if "scalar" in has else None
        before = x.clone()
        out, normed = residual_norm(x, update, weight, update_weight, scalar, EPS, impl=impl)
        assert torch.equal(x, before)
        want, size = x.double(), x.double().abs()
        if update is None:
            assert out is x
        else:
            added = update.double() if update_weight is None else norm(update, update_weight)
            factor = 1 if scalar is None else scalar.double()
            want, size = (want + added) * factor, (size + added.abs()) * factor
        check(out, want, impl, 3, size)
        check(normed, norm(out, weight), impl, 2)
        assert out.dtype == normed.dtype == dtype and out.shape == normed.shape == x.shape


HEADS = [HeadLayout(4, 2, 32), HeadLayout(3, 1, 48), HeadLayout(5, 5, 6), HeadLayout(4, 1, 32, key_is_value=True)]


def rotation_of(device, batch, tokens, dim):
    angles = draw(device, batch, tokens, 1, dim // 2) * 100
    return Rotation(angles.cos(), angles.sin())


def turned(x, rotation):
    """x [B, T, H, D] in float64."""
    first, second = x.double().chunk(2, -1)
    cos, sin = rotation.cos.double(), rotation.sin.double()
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("normed", [True, False])
def test_heads_of_a_chunk_and_of_a_step(device, impl, heads, batch, dtype, normed):
    for tokens, slots in ((3, None), (2, 7), (20, None)):
        check_heads(device, impl, heads, (batch, tokens, slots), dtype, normed)


def check_heads(device, impl, heads, sizes, dtype, normed):
    batch, tokens, slots = sizes
    qkv = draw(device, batch, tokens, heads.width, dtype=dtype)
    rotation = rotation_of(device, 1 if slots is None else batch, tokens, heads.dim)
    norms = HeadNorms(eps=EPS)
    if normed:
        weights = (draw(device, heads.dim, dtype=dtype, seed=seed) for seed in (4, 5))
        norms = HeadNorms(*weights, value=True, eps=EPS)
    # a cache of twice the heads, whose every other one is ours: strides that are not dense
    shape = (batch, 2 * heads.kv, slots or tokens, heads.dim)
    keys, values = (torch.full(shape, math.nan, dtype=dtype, device=device) for _ in range(2))
    at = None
    if slots is not None:
        at = torch.stack([torch.arange(tokens) + 3 * b for b in range(batch)]).to(device) % slots
    targets = Targets(keys[:, ::2], values[:, ::2], at)
    q = rotated_heads(qkv, heads, rotation, norms, targets, impl=impl)
    each = qkv.unflatten(-1, (-1, heads.dim))
    parts = each[:, :, : heads.query], each[:, :, heads.query : heads.query + heads.kv]
    wanted_values = each[:, :, heads.first_value :]
    if normed:
        parts = norm(parts[0], norms.query), norm(parts[1], norms.key)
        wanted_values = norm(wanted_values)
    for got, part in ((q, parts[0]), (targets.keys, parts[1])):
        if got is not q and at is not None:
            got = got.gather(2, at[:, None, :, None].expand(batch, heads.kv, tokens, heads.dim))
        size = part.double().abs()
        size = size + torch.cat(size.chunk(2, -1)[::-1], -1)  # of both terms of a sum
        check(got.transpose(1, 2), turned(part, rotation), impl, 3, size)
    got = targets.values
    if at is not None:
        got = got.gather(2, at[:, None, :, None].expand(batch, heads.kv, tokens, heads.dim))
    check(got.transpose(1, 2), wanted_values.double(), impl, 2)
    assert keys[:, 1::2].isnan().all() and values[:, 1::2].isnan().all()
    assert at is None or int(targets.keys.isnan().any(-1).logical_not().sum()) == batch * heads.kv * tokens


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
def test_gates(device, impl, dtype, activation):
    for rows, width in ((1, 300), (17, 5)):
        given = 3 * draw(device, rows, 2 * width, dtype=dtype)
        gate, up = given.double().chunk(2, -1)
        angle = math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)
        act = gate / (1 + (-gate).exp()) if activation == "silu" else gate * (1 + angle.tanh()) / 2
        check(gated(given, activation, impl=impl), act * up, impl, 2, (gate * up).abs())


@pytest.mark.parametrize("impl", IMPLS)
def test_large_gates_neither_overflow_nor_vanish(device, impl):
    given = torch.tensor([[-1e4, -80.0, 80.0, 1e4, 1.0, 2.0, 2.0, 1.0]], device=device)
    for activation in ("silu", "gelu_tanh"):
        out = gated(given, activation, impl=impl)
        assert torch.equal(out[0, 2:], torch.tensor([160.0, 1e4], device=device))
        assert out[0, :2].abs().max() < 1e-12


def test_what_the_functions_are_given(device):
    x, weight = draw(device, 2, 8), draw(device, 8)
    heads, norms = HeadLayout(2, 1, 8), HeadNorms()
    qkv, keys = draw(device, 1, 3, 32), draw(device, 1, 1, 3, 8)
    rotation, targets = rotation_of(device, 1, 3, 8), Targets(keys, keys)

    def rotate(qkv=qkv, rotation=rotation, norms=norms, targets=targets):
        return rotated_heads(qkv, heads, rotation, norms, targets)

    for call, error, message in (
        (lambda: residual_norm(x, x[:1], weight), ValueError, r"update: given shape \(1, 8\); \[2, 8\] is needed"),
        (lambda: residual_norm(x, x.half(), weight), TypeError, "update: given torch.float16"),
        (lambda: residual_norm(x, None, weight[:4]), ValueError, r"weight: given shape \(4,\)"),
        (lambda: residual_norm(x, None, weight, weight), ValueError, "update: None, with an update_weight"),
        (lambda: residual_norm(x, x, weight, scalar=weight), ValueError, "scalar: given shape"),
        (lambda: residual_norm(x.T, None, weight), ValueError, "x: given strides"),
        (lambda: residual_norm(x, None, weight, impl="fast"), ValueError, "impl: given 'fast'; allowed are auto"),
        (lambda: residual_norm(x.double(), None, weight.double(), impl="triton"), ValueError, "no float64"),
        (lambda: residual_norm(x.int(), None, weight), TypeError, "x: given torch.int32"),
        (lambda: rotate(draw(device, 1, 3, 24)), ValueError, r"qkv: given shape .*\[B, T, 32\] is needed"),
        (lambda: rotate(targets=Targets(keys[:, :, :2], keys)), ValueError, "targets.keys: given 2 slots"),
        (lambda: rotate(targets=Targets(keys, keys[..., :4])), ValueError, "targets.values: given shape"),
        (lambda: rotate(rotation=rotation_of(device, 1, 2, 8)), ValueError, "rotation.cos: given shape"),
        (lambda: rotate(norms=HeadNorms(weight[:4])), ValueError, "norms.query: given shape"),
        (lambda: rotate(targets=Targets(keys, keys, torch.zeros(1, 3))), TypeError, "targets.slots: given"),
        (lambda: gated(x, "relu"), ValueError, "activation: given 'relu'; allowed are silu, gelu_tanh"),
        (lambda: gated(draw(device, 2, 7), "silu"), ValueError, "gate_up: given shape"),
    ):
        with pytest.raises(error, match=message):
            call()


def test_gradients_go_through_pytorch(device):
    x = draw(device, 2, 8).requires_grad_()
    out, normed = residual_norm(x, x, draw(device, 8))
    (out.sum() + normed.sum()).backward()
    assert x.grad is not None and x.grad.isfinite().all()
    with pytest.raises(ValueError, match="no gradients"):
        gated(x, "silu", impl="triton")
